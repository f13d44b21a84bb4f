import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { Action } from "./contender.ts";
import type { Summary } from "./summary.ts";
import { judge } from "./targets.ts";

function summary(contender: string, action: Action, wallSeconds: number, scenario = "plain"): Summary {
  const rest = {
    serverSeconds: 0,
    foreignSeconds: 0,
    storedBytes: 0,
    storedObjects: 0,
    requests: {},
    phases: {},
    rounds: 1,
  };
  return { contender, scenario, action, wallSeconds, clientSeconds: wallSeconds, peakBytes: 2 ** 20, ...rest };
}

function wallVerdicts(summaries: readonly Summary[]) {
  return judge(summaries, undefined).filter(({ quantity }) => quantity === "wallSeconds");
}

describe("verdicts", () => {
  it("compare with the fastest peer, whichever it is", () => {
    const [verdict, ...rest] = wallVerdicts([
      summary("snapferry", "full", 6.5),
      summary("restic", "full", 20),
      summary("rustic", "full", 10),
    ]);
    assert.deepEqual(rest, []);
    assert.equal(verdict?.referenceName, "rustic");
    assert.equal(verdict?.ratio, 0.65);
    assert.equal(verdict?.isMet, true);
  });

  it("fail what is slower than its target", () => {
    const slow = wallVerdicts([summary("snapferry", "incremental-hints", 1.01), summary("restic", "incremental", 10)]);
    assert.deepEqual(
      slow.map(({ isMet }) => isMet),
      [false],
    );
  });

  it("hold delayed requests against the same way without delay", () => {
    const delayed = wallVerdicts([
      summary("snapferry", "full", 1),
      summary("snapferry", "full", 2, "proxy"),
      summary("snapferry", "full", 2.1, "proxy, delayed"),
    ]);
    assert.deepEqual(
      delayed.map(({ referenceValue, isMet }) => ({ referenceValue, isMet })),
      [{ referenceValue: 2, isMet: true }],
    );
  });

  it("say nothing about what was not measured", () => {
    assert.deepEqual(judge([summary("restic", "full", 1)], undefined), []);
  });
});
