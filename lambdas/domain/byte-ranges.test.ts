import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { type ByteRange, coarsened, unionOf } from "./byte-ranges.ts";

/** Ascending, not overlapping; some touch. */
const someRanges = fc
  .array(fc.tuple(fc.nat(300_000), fc.integer({ min: 1, max: 200_000 })), { maxLength: 40 })
  .map((steps) => {
    const ranges: ByteRange[] = [];
    let at = 0;
    for (const [gap, length] of steps) {
      ranges.push({ offset: at + gap, length });
      at += gap + length;
    }
    return ranges;
  });

/** The last but one makes the list too long: what it becomes reaches over the beginning of the last. */
const grownIntoTheNext = [0, 262_144, 524_288, 568_011, 786_432, 1_048_576, 1_048_578].map((offset) => ({
  offset,
  length: 1,
}));

async function* told(ranges: readonly ByteRange[]): AsyncGenerator<ByteRange> {
  yield* ranges;
}

function covers(ranges: readonly ByteRange[], { offset, length }: ByteRange): boolean {
  return ranges.some((range) => range.offset <= offset && range.offset + range.length >= offset + length);
}

function assertInOrder(ranges: readonly ByteRange[]): void {
  for (const [at, { offset, length }] of ranges.entries()) {
    const before = ranges[at - 1];
    assert.ok(length > 0 && (!before || before.offset + before.length <= offset));
  }
}

describe("a list of changed ranges", () => {
  it("gets shorter by covering more, never less", async () => {
    await fc.assert(
      fc.asyncProperty(someRanges, fc.integer({ min: 1, max: 12 }), async (ranges, most) => {
        const fewer = await coarsened(told(ranges), most);
        assert.ok(fewer.length <= most);
        assertInOrder(fewer);
        for (const range of ranges) assert.ok(covers(fewer, range));
      }),
      { examples: [[grownIntoTheNext, 2]] },
    );
  });

  it("stays as it is when it is short enough", async () => {
    const ranges = [
      { offset: 1, length: 2 },
      { offset: 100_000, length: 5 },
    ];
    assert.deepEqual(await coarsened(told(ranges), 2), ranges);
    assert.deepEqual(await coarsened(told([...ranges, { offset: 200_000, length: 1 }]), 2), [
      { offset: 0, length: 131_072 },
      { offset: 196_608, length: 65_536 },
    ]);
  });

  it("is united with another one, byte for byte, up to the end of the volume", async () => {
    await fc.assert(
      fc.asyncProperty(someRanges, someRanges, fc.nat(3_000_000), async (a, b, end) => {
        const union = await Array.fromAsync(unionOf(a, told(b), end));
        assertInOrder(union);
        const clipped = [...a, ...b].flatMap(({ offset, length }) =>
          offset < end ? [{ offset, length: Math.min(length, end - offset) }] : [],
        );
        for (const range of clipped) assert.ok(covers(union, range));
        const edges = new Set(clipped.flatMap(({ offset, length }) => [offset, offset + length]));
        for (const { offset, length } of union) assert.ok(edges.has(offset) && edges.has(offset + length));
        const size = (ranges: readonly ByteRange[]) => ranges.reduce((sum, { length }) => sum + length, 0);
        assert.ok(size(union) <= size(clipped));
      }),
    );
  });
});
