import assert from "node:assert/strict";
import { availableParallelism } from "node:os";
import { describe, it } from "node:test";
import { limitOf, medianStages } from "./limits.ts";
import { type StageCosts, stageNames } from "./stages.ts";

const free = { client: 0, server: 0, wall: 0 };
const costs = (known: Partial<StageCosts>): StageCosts =>
  ({ ...Object.fromEntries(stageNames.map((stage) => [stage, free])), ...known }) as StageCosts;

describe("the limit of an action", () => {
  it("is the processor time of client and server, shared by all cores", () => {
    const { seconds } = limitOf(
      "full",
      { hash: 10, put: 10 },
      costs({ hash: { ...free, client: 3 }, put: { ...free, server: 1 } }),
    );
    assert.equal(seconds, 40 / availableParallelism());
  });

  it("is that of the slowest serial stage when that takes longer", () => {
    const { seconds } = limitOf("restore", { get: 10, hash: 10 }, costs({ get: { client: 1, server: 0, wall: 50 } }));
    assert.equal(seconds, 500);
  });
});

describe("what stages cost", () => {
  it("is the median of the rounds, each number for itself", () => {
    const round = (client: number, wall: number, compressedShare: number) => ({
      costs: costs({ hash: { client, server: 0, wall } }),
      compressedShare,
    });
    const { costs: medians, compressedShare } = medianStages([round(3, 10, 0.4), round(1, 30, 0.4), round(2, 20, 0.4)]);
    assert.deepEqual([medians.hash, medians.put, compressedShare], [{ client: 2, server: 0, wall: 20 }, free, 0.4]);
  });
});
