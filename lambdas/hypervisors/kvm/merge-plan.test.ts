import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { ChainChanged, HypervisorFailed, PathOutsideDirectory, SnapshotInUse } from "../../domain/errors.ts";
import { type DefinedUse, type MergeState, nextStep, type RunningUse } from "./merge-plan.ts";

const volume = "/images/d.raw";
const overlay = `${volume}.snap_2.qcow2`;
const older = `${volume}.snap_1.qcow2`;
const newer = `${volume}.snap_3.qcow2`;
const base = { path: older, format: "qcow2", sizeBytes: 1_000 };
const vm = { uuid: "u", name: "web" };
const mib = 1_000;

/** An overlay with changes that a stopped VM uses as its disk. */
const stopped: MergeState = {
  installPath: overlay,
  overlay: { sizeBytes: mib, empty: false, base },
  noted: false,
  children: [],
  siblings: [],
  running: [],
  defined: [{ vm, target: "vda", file: overlay, chain: [overlay, older, volume], saved: false }],
  baseUsers: [],
  exports: [],
  mergesStopped: false,
};
const empty = { sizeBytes: mib, empty: true, base };
const use: RunningUse = { vm, target: "vda", file: overlay, chain: [overlay, older, volume], job: undefined };
const running: MergeState = { ...stopped, running: [use] };
const lower: RunningUse = { ...use, chain: [newer, overlay, older, volume] };
const runningLower: MergeState = { ...running, children: [newer], running: [lower] };
const job = (kind: "commit" | "active-commit" | "other", ready = false, into: string | undefined = older) => ({
  ...running,
  running: [{ ...use, job: { kind, into, ready } }],
});

function errorOf(state: MergeState): Error {
  const step = nextStep(state);
  assert.equal(step.kind, "refuse");
  return (step as { error: Error }).error;
}

const steps: readonly [string, MergeState, string][] = [
  ["an overlay that is gone is merged", { ...stopped, overlay: undefined }, "done"],
  ["a note without an overlay goes", { ...stopped, overlay: undefined, noted: true }, "forget-note"],
  ["the disk of a stopped VM is committed", stopped, "commit-stopped"],
  ["a commit that runs is waited for", { ...stopped, mergesStopped: true }, "wait-stopped"],
  [
    "an empty overlay of a larger volume is committed",
    { ...stopped, overlay: { ...empty, sizeBytes: 2 * mib } },
    "commit-stopped",
  ],
  ["an empty overlay's child gets the base", { ...stopped, overlay: empty, children: [newer] }, "rebase"],
  ["an empty overlay is taken out of the definition", { ...stopped, overlay: empty }, "redefine"],
  ["an empty overlay that nobody uses goes", { ...stopped, overlay: empty, defined: [] }, "remove"],
  ["an overlay of no VM is committed", { ...stopped, defined: [] }, "commit-stopped"],
  ["the disk of a running VM is committed", running, "commit-active"],
  ["a lower file of a running VM is committed", runningLower, "commit-running"],
  ["a commit that libvirt does is waited for", job("active-commit"), "wait-running"],
  ["a commit that is ready is ended", job("active-commit", true), "pivot"],
  ["a commit of another file is waited for", job("commit"), "wait-running"],
  ["a note of a VM that stopped since goes", { ...stopped, noted: true }, "forget-note"],
  [
    "a noted overlay goes when a disk uses its base",
    { ...stopped, noted: true, defined: [], baseUsers: ["vda of web"] },
    "remove",
  ],
  [
    "a noted overlay goes when an image stands on its base",
    { ...stopped, noted: true, defined: [], siblings: [newer] },
    "remove",
  ],
];

const foreign = "/images/foreign.qcow2";
const saved: DefinedUse = { ...stopped.defined[0]!, saved: true };
const refusals: readonly [string, MergeState, typeof ChainChanged | typeof SnapshotInUse | typeof HypervisorFailed][] =
  [
    [
      "somebody else's file below",
      { ...stopped, overlay: { ...empty, base: { ...base, path: foreign } } },
      ChainChanged,
    ],
    ["nothing below", { ...stopped, overlay: { ...empty, base: undefined } }, ChainChanged],
    ["somebody else's file above", { ...stopped, children: [foreign] }, ChainChanged],
    ["two files above", { ...stopped, children: [newer, `${volume}.snap_4.qcow2`] }, ChainChanged],
    ["another image on the base", { ...stopped, siblings: [foreign] }, ChainChanged],
    ["what a deletion has still to remove on the base", { ...stopped, siblings: [newer] }, SnapshotInUse],
    ["another disk on the base", { ...running, baseUsers: ["vda of clone"] }, ChainChanged],
    ["a file above it that the disk does not have", { ...running, children: [foreign] }, ChainChanged],
    ["an open export", { ...stopped, exports: ["the export of snap_9"] }, SnapshotInUse],
    ["an open export, with the VM running", { ...running, exports: ["the export of snap_9"] }, SnapshotInUse],
    [
      "an open export, with only the child left",
      { ...stopped, overlay: empty, children: [newer], exports: ["x"] },
      SnapshotInUse,
    ],
    ["two running VMs", { ...running, running: [use, { ...use, vm: { uuid: "v", name: "other" } }] }, ChainChanged],
    [
      "another file below than libvirt says",
      { ...running, running: [{ ...use, chain: [overlay, volume] }] },
      ChainChanged,
    ],
    ["a copy that somebody else makes", job("other"), HypervisorFailed],
    ["a commit of somebody else that is ready", job("active-commit", true, volume), HypervisorFailed],
    ["saved memory", { ...stopped, defined: [saved] }, HypervisorFailed],
    [
      "changes that no disk uses while others use the base",
      { ...stopped, defined: [], baseUsers: ["vda of web"] },
      ChainChanged,
    ],
    ["a note, and nobody who uses either file", { ...stopped, noted: true, defined: [] }, ChainChanged],
  ];

describe("the next step of a merge", () => {
  for (const [sentence, state, kind] of steps) it(sentence, () => assert.equal(nextStep(state).kind, kind));

  for (const [what, state, errorClass] of refusals)
    it(`is none with ${what}`, () => {
      const error = errorOf(state);
      assert.ok(error instanceof errorClass, `${error.name}: ${error.message}`);
    });

  it("is that of an overlay only", () => {
    assert.throws(() => nextStep({ ...stopped, installPath: volume }), PathOutsideDirectory);
  });

  it("names in a refusal what is in the way", () => {
    assert.match(errorOf({ ...stopped, exports: ["the export of snap_9"] }).message, /the export of snap_9/);
    assert.ok(errorOf({ ...stopped, children: [foreign] }).message.includes(foreign));
    assert.match(errorOf({ ...running, baseUsers: ["vda of clone"] }).message, /vda of clone/);
  });
});

const flag = fc.boolean();
const someOf = (...paths: string[]) => fc.subarray(paths);
const anyState: fc.Arbitrary<MergeState> = fc.record({
  installPath: fc.constant(overlay),
  overlay: fc.record({
    sizeBytes: fc.constantFrom(mib, 2 * mib),
    empty: flag,
    base: fc.constantFrom(base, { ...base, path: volume, format: "raw" }, { ...base, path: foreign }, undefined),
  }),
  noted: flag,
  children: someOf(newer, foreign),
  siblings: someOf(newer, foreign),
  running: fc.subarray([use, lower, job("commit").running[0]!, job("active-commit", true).running[0]!], {
    maxLength: 1,
  }),
  defined: fc.subarray([stopped.defined[0]!, { ...saved, chain: lower.chain }]),
  baseUsers: someOf("vda of clone"),
  exports: someOf("the export of snap_9"),
  mergesStopped: flag,
});

describe("whatever is found on a host", () => {
  it("an overlay is removed only if nobody uses it, and its changes are none or in a base that is used", () => {
    fc.assert(
      fc.property(anyState, (state) => {
        if (nextStep(state).kind !== "remove") return;
        assert.deepEqual([state.children, state.running, state.defined], [[], [], []]);
        assert.ok(state.overlay!.empty || (state.noted && state.siblings.length + state.baseUsers.length > 0));
      }),
      { numRuns: 2_000 },
    );
  });

  it("nothing is written into a base that others use or that an export reads, nor into somebody else's file", () => {
    fc.assert(
      fc.property(anyState, (state) => {
        const { kind } = nextStep(state);
        if (!["commit-stopped", "commit-running", "commit-active"].includes(kind)) return;
        const above = state.running[0]?.chain[0];
        assert.deepEqual(
          [...state.siblings.filter((path) => path !== above || kind === "commit-stopped"), ...state.baseUsers],
          [],
        );
        assert.deepEqual(state.exports, []);
        assert.notEqual(state.overlay!.base?.path, foreign);
      }),
      { numRuns: 2_000 },
    );
  });
});
