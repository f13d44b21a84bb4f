/** Ranges of a volume in bytes, ascending and not overlapping. What they mean is a change: one too many costs time, one too few is a wrong backup. Pure. */

export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

/** Gaps are given up for the sake of a shorter list from this size on: less is read as fast with its neighbours. */
const smallestGridBytes = 65_536;

/** At most `most` ranges, which cover all of the given ones: the more there are, the coarser. */
export async function coarsened(ranges: AsyncIterable<ByteRange>, most: number): Promise<ByteRange[]> {
  let kept: JoinedRange[] = [];
  let gridBytes = smallestGridBytes;
  for await (const range of ranges) {
    join(kept, range);
    while (kept.length > 2 * most) {
      kept = onGrid(kept, gridBytes);
      gridBytes *= 2;
    }
  }
  for (; kept.length > most; gridBytes *= 2) kept = onGrid(kept, gridBytes);
  return kept;
}

interface JoinedRange {
  readonly offset: number;
  length: number;
}

/** Each grown to multiples of `gridBytes`. */
function onGrid(ranges: readonly ByteRange[], gridBytes: number): JoinedRange[] {
  const grown: JoinedRange[] = [];
  for (const { offset, length } of ranges) {
    const start = Math.floor(offset / gridBytes) * gridBytes;
    const end = Math.ceil((offset + length) / gridBytes) * gridBytes;
    join(grown, { offset: start, length: end - start });
  }
  return grown;
}

/** Puts a range at the end of a list, into the last one where the two touch. It begins no sooner than that. */
function join(ranges: JoinedRange[], { offset, length }: ByteRange): void {
  const last = ranges.at(-1);
  if (last && last.offset + last.length >= offset) last.length = Math.max(last.length, offset + length - last.offset);
  else ranges.push({ offset, length });
}

/** What is in either, up to `endBytes`. */
export async function* unionOf(
  a: AsyncIterable<ByteRange> | Iterable<ByteRange>,
  b: AsyncIterable<ByteRange> | Iterable<ByteRange>,
  endBytes: number,
): AsyncGenerator<ByteRange> {
  let open: { offset: number; end: number } | undefined;
  for await (const { offset, length } of byOffset(a, b)) {
    if (open && offset <= open.end) {
      open.end = Math.max(open.end, offset + length);
      continue;
    }
    if (open) yield* within(open, endBytes);
    open = { offset, end: offset + length };
  }
  if (open) yield* within(open, endBytes);
}

function* within({ offset, end }: { offset: number; end: number }, endBytes: number): Generator<ByteRange> {
  if (offset < Math.min(end, endBytes)) yield { offset, length: Math.min(end, endBytes) - offset };
}

async function* byOffset(
  a: AsyncIterable<ByteRange> | Iterable<ByteRange>,
  b: AsyncIterable<ByteRange> | Iterable<ByteRange>,
): AsyncGenerator<ByteRange> {
  const [left, right] = [each(a), each(b)];
  let [one, other] = [await left.next(), await right.next()];
  while (!one.done || !other.done) {
    if (!one.done && (other.done || one.value.offset <= other.value.offset)) {
      yield one.value;
      one = await left.next();
    } else if (!other.done) {
      yield other.value;
      other = await right.next();
    }
  }
}

async function* each(ranges: AsyncIterable<ByteRange> | Iterable<ByteRange>): AsyncGenerator<ByteRange> {
  yield* ranges;
}
