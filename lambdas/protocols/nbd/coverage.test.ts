import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { Coverage } from "./coverage.ts";
import { NbdProtocolError } from "./errors.ts";

/** A range cut into pieces, and an order in which they come. */
const pieces = fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 30 }).chain((lengths) => {
  let at = 0;
  const cut = lengths.map((length) => {
    const piece = { start: at, length };
    at += length;
    return piece;
  });
  return fc.record({
    total: fc.constant(at),
    ordered: fc.shuffledSubarray(cut, { minLength: cut.length }),
  });
});

describe("the coverage of a read", () => {
  test("is complete with the last piece and not before, in whatever order they come", () => {
    fc.assert(
      fc.property(pieces, ({ total, ordered }) => {
        const coverage = new Coverage(total);
        for (const { start, length } of ordered) {
          assert.equal(coverage.complete, false);
          coverage.add(start, length);
        }
        assert.equal(coverage.complete, true);
      }),
    );
  });

  test("takes no byte twice", () => {
    fc.assert(
      fc.property(pieces, fc.nat(), fc.nat(), fc.nat(), ({ total, ordered }, count, at, more) => {
        const coverage = new Coverage(total);
        const come = ordered.slice(0, 1 + (count % ordered.length));
        for (const { start, length } of come) coverage.add(start, length);
        const { start, length } = come[at % come.length]!;
        const first = start + (more % length);
        assert.throws(() => coverage.add(first, Math.min(1 + (at % 60), total - first)), { message: /twice/ });
        const before = Math.max(0, start - (more % 60));
        assert.throws(() => coverage.add(before, start - before + 1), { message: /twice/ });
      }),
    );
  });

  test("takes nothing from outside, and nothing empty", () => {
    const coverage = new Coverage(100);
    for (const [start, length] of [
      [-1, 5],
      [96, 5],
      [100, 1],
      [0, 101],
      [0, 0],
      [2 ** 63, 1],
    ] as const) {
      assert.throws(() => coverage.add(start, length), NbdProtocolError);
    }
    assert.equal(new Coverage(0).complete, true);
  });
});
