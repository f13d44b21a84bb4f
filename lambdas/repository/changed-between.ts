/** What differs between two snapshots of a domain, told by their trees alone: no chunk is read. */
import type { PageReference } from "./branch.ts";
import { mapAhead } from "./in-flight.ts";
import type { Root } from "./manifest.ts";
import { type Page, readPage } from "./page.ts";
import type { Extent } from "./planner.ts";
import { type RestoreSource, readRoot } from "./reader.ts";
import { pagesOf } from "./tree.ts";

/** Pairs of pages on their way: sixteen requests hide a round trip of 20 ms. */
const pairsAhead = 8;
/** Pairs that are listed before they are read: some 300 bytes each. */
const pairsAtOnce = 10_000;

/** The pages of one place, of which one may be all zeros. */
interface PagePair {
  readonly index: number;
  readonly earlier: PageReference | undefined;
  readonly later: PageReference | undefined;
}

/**
 * Ranges of whole chunks, ascending and not overlapping, in which the later snapshot may differ from the earlier one: up to the end of
 * the longer one, whose last chunk may reach beyond it. Undefined where the two cannot be compared, as their chunks have other sizes or
 * another key. Throws RepositoryDamaged, UnsupportedFormat.
 */
export async function changedBetween(
  earlier: RestoreSource,
  later: RestoreSource,
): Promise<AsyncIterable<Extent> | undefined> {
  const [from, to] = await Promise.all([readRoot(earlier), readRoot(later)]);
  const isComparable =
    from.chunkBytes === to.chunkBytes &&
    from.pageChunks === to.pageChunks &&
    Buffer.compare(from.wrappedKey, to.wrappedKey) === 0;
  return isComparable ? changedPages(earlier, from, later, to) : undefined;
}

async function* changedPages(
  earlier: RestoreSource,
  from: Root,
  later: RestoreSource,
  to: Root,
): AsyncGenerator<Extent> {
  const pairs = pairsOf(pagesOf(earlier, notIn(to, from)), pagesOf(later, notIn(from, to)));
  const read = async ({ index, ...pages }: PagePair) => ({
    index,
    earlier: pages.earlier && (await readPage(earlier.store, earlier.domain, pages.earlier.name)),
    later: pages.later && (await readPage(later.store, later.domain, pages.later.name)),
  });
  for await (const batch of batchesOf(pairs)) {
    for await (const pair of mapAhead(batch, pairsAhead, read)) yield* changedChunks(pair, to);
  }
}

/** What both have is not looked at. */
function notIn(other: Root, root: Root): Root {
  const names = new Set(other.branches.map(({ name }) => name));
  return { ...root, branches: root.branches.filter(({ name }) => !names.has(name)) };
}

/** Both ascend: one walk through the two, without the pages that are the same. */
async function* pairsOf(
  earlier: AsyncGenerator<PageReference>,
  later: AsyncGenerator<PageReference>,
): AsyncGenerator<PagePair> {
  let [a, b] = await Promise.all([earlier.next(), later.next()]);
  while (!a.done || !b.done) {
    const index = Math.min(
      a.done ? Number.POSITIVE_INFINITY : a.value.index,
      b.done ? Number.POSITIVE_INFINITY : b.value.index,
    );
    const pair = {
      index,
      earlier: !a.done && a.value.index === index ? a.value : undefined,
      later: !b.done && b.value.index === index ? b.value : undefined,
    };
    if (pair.earlier?.name !== pair.later?.name) yield pair;
    if (pair.earlier) a = await earlier.next();
    if (pair.later) b = await later.next();
  }
}

async function* batchesOf(pairs: AsyncIterable<PagePair>): AsyncGenerator<PagePair[]> {
  let batch: PagePair[] = [];
  for await (const pair of pairs) {
    batch.push(pair);
    if (batch.length < pairsAtOnce) continue;
    yield batch;
    batch = [];
  }
  yield batch;
}

function* changedChunks(
  { index, earlier, later }: { index: number; earlier: Page | undefined; later: Page | undefined },
  { chunkBytes, pageChunks }: Pick<Root, "chunkBytes" | "pageChunks">,
): Generator<Extent> {
  const count = Math.max(earlier?.chunks.length ?? 0, later?.chunks.length ?? 0);
  let start: number | undefined;
  for (let at = 0; at <= count; at++) {
    const isChanged = at < count && earlier?.chunks.at(at)?.hash !== later?.chunks.at(at)?.hash;
    if (isChanged) start ??= at;
    else if (start !== undefined) {
      yield { offset: (index * pageChunks + start) * chunkBytes, length: (at - start) * chunkBytes };
      start = undefined;
    }
  }
}
