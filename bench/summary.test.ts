import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { Measurement } from "./measurement.ts";
import { summaries } from "./summary.ts";

function measurement(fields: Partial<Measurement>): Measurement {
  return {
    contender: "snapferry",
    scenario: "plain",
    action: "full",
    wallSeconds: 1,
    clientSeconds: 1,
    serverSeconds: 1,
    foreignSeconds: 0,
    peakBytes: 1,
    storedBytes: 1,
    storedObjects: 1,
    requests: {},
    phases: {},
    ...fields,
  };
}

describe("summaries", () => {
  it("have the median of times and the largest peak", () => {
    const walls = [5, 1, 2];
    const [summary, ...rest] = summaries(
      walls.map((wallSeconds) => measurement({ wallSeconds, peakBytes: wallSeconds })),
    );
    assert.deepEqual(rest, []);
    assert.equal(summary?.wallSeconds, 2);
    assert.equal(summary?.peakBytes, 5);
    assert.equal(summary?.rounds, 3);
  });

  it("take the mean of the middle two of an even number of rounds", () => {
    assert.equal(summaries([1, 2, 4, 9].map((wallSeconds) => measurement({ wallSeconds })))[0]?.wallSeconds, 3);
  });

  it("keep scenarios, contenders and actions apart", () => {
    const apart = [{}, { scenario: "thin" }, { contender: "restic" }, { action: "restore" as const }];
    assert.equal(summaries(apart.map(measurement)).length, 4);
  });
});
