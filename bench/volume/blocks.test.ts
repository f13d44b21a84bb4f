import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { blocksOf } from "./blocks.ts";

describe("the blocks of extents", () => {
  it("come once each, though two extents touch them", () => {
    const extents = [
      { offset: 5, length: 10 },
      { offset: 18, length: 1 },
      { offset: 41, length: 2 },
    ];
    assert.deepEqual(
      [...blocksOf(extents, 43, 10)],
      [
        { offset: 0, length: 10 },
        { offset: 10, length: 10 },
        { offset: 40, length: 3 },
      ],
    );
  });
});
