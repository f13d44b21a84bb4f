import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { zeroBlockBytes, zeroRuns } from "./zero-runs.ts";

describe("zeros", () => {
  it("are told in whole blocks of the volume, and every byte is in one run", () => {
    const block = fc.constantFrom("zero", "data", "last byte");
    const cut = fc.integer({ min: 0, max: zeroBlockBytes - 1 });
    fc.assert(
      fc.property(fc.array(block, { maxLength: 6 }), cut, cut, (blocks, head, tail) => {
        const volume = Buffer.alloc(blocks.length * zeroBlockBytes);
        for (const [index, kind] of blocks.entries()) {
          const end = (index + 1) * zeroBlockBytes;
          if (kind === "data") volume.fill(1, index * zeroBlockBytes, end);
          if (kind === "last byte") volume[end - 1] = 1;
        }
        const data = volume.subarray(head, Math.max(head, volume.length - tail));
        const runs = [...zeroRuns(data, head)];
        let position = 0;
        for (const [index, { start, end, isZero }] of runs.entries()) {
          assert.equal(start, position);
          assert.ok(end > start);
          assert.notEqual(runs[index - 1]?.isZero, isZero);
          if (isZero) assert.ok(data.subarray(start, end).every((byte) => byte === 0));
          position = end;
        }
        assert.equal(position, data.length);
        const whole = blocks.filter((kind, index) => {
          const isInside = index * zeroBlockBytes >= head && (index + 1) * zeroBlockBytes <= head + data.length;
          return kind === "zero" && isInside;
        });
        const told = runs.filter(({ isZero }) => isZero).reduce((sum, { start, end }) => sum + end - start, 0);
        assert.equal(told, whole.length * zeroBlockBytes);
      }),
    );
  });
});
