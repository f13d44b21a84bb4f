import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type PlannedReading, readingOf } from "./backup-reading.ts";

const hinted: PlannedReading = {
  full: false,
  base: "snap_1",
  tracking: true,
  told: true,
  hinted: true,
  mismatchIn: undefined,
};

describe("how a backup reads", () => {
  it("is what changed since the base where the hypervisor tells it, without further words", () => {
    assert.deepEqual(readingOf(hinted), { kind: "incremental", base: "snap_1", reading: "changed" });
  });

  const reasons: [string, Partial<PlannedReading>, RegExp][] = [
    ["without a base", { base: undefined, hinted: false, told: false }, /no earlier backup/],
    ["asked for in full", { full: true, base: undefined, hinted: false, told: false }, /asked for/],
    ["without tracking", { hinted: false, told: false, tracking: false }, /does not keep track/],
    ["with tracking that was reset", { hinted: false, told: false }, /cannot tell .* since snap_1/],
    ["after a wrong hint", { hinted: false, mismatchIn: 2 }, /attempt 2 found changes/],
    ["with a base of another shape", { hinted: false }, /snap_1 cannot be used/],
  ];
  for (const [when, change, reason] of reasons)
    it(`is everything ${when}, and says so`, () => {
      const reading = readingOf({ ...hinted, ...change });
      assert.equal(reading.reading, "everything");
      assert.equal(reading.kind, "base" in change ? "full" : "incremental");
      assert.match(reading.reason ?? "", reason);
    });
});
