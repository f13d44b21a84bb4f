import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { newId } from "../domain/ids.ts";
import type { Volume } from "../domain/inventory.ts";
import { type Snapshot, type SnapshotState, snapshotStates } from "../domain/snapshot.ts";
import { diskRefusal, refusalOf, type SnapshotAction, volumeRefusal } from "./refusals.ts";

const ids = { snapshot: newId("snapshot"), job: newId("job"), reader: newId("job") };

function refusal(action: SnapshotAction, state: SnapshotState, more: Partial<Snapshot> = {}, jobEnded = false) {
  const snapshot = {
    id: ids.snapshot,
    jobId: ids.job,
    state,
    attempt: 1,
    maxAttempts: 3,
    readers: [],
    ...more,
  } as unknown as Snapshot;
  const problem = refusalOf(action, {
    snapshot,
    job: undefined,
    jobEnded,
    progress: { bytesDone: 43, bytesTotal: 100 },
    now: "2026-11-21T12:00:00.000Z",
  });
  return { kind: problem.kind, status: problem.status, detail: problem.message, jobs: problem.extras.members?.jobs };
}

describe("why a snapshot refuses", () => {
  test("one that is BackingUp names the job, how far it is, and how to wait or cancel", () => {
    assert.deepEqual(refusal("delete", "BackingUp"), {
      kind: "snapshot-is-backing-up",
      status: 409,
      detail: `${ids.snapshot} is being backed up by ${ids.job} (43 %, attempt 1 of 3). Wait for it (GET /v1/jobs/${ids.job}) or cancel it first (POST /v1/jobs/${ids.job}/cancel).`,
      jobs: [ids.job],
    });
  });

  test("one that is read names its readers", () => {
    const { kind, jobs } = refusal("delete", "BackedUp", { readers: [ids.reader] });
    assert.equal(kind, "snapshot-is-being-read");
    assert.deepEqual(jobs, [ids.reader]);
  });

  test("one that its store keeps locked names the date, to who deletes it and only until then", () => {
    const lockedUntil = "2026-12-01T00:00:00.000Z";
    const { kind, status, detail } = refusal("delete", "BackedUp", { lockedUntil });
    assert.deepEqual([kind, status], ["snapshot-is-locked", 409]);
    assert.match(detail, /2026-12-01T00:00:00\.000Z/);
    assert.equal(refusal("delete", "BackedUp", { lockedUntil: "2026-11-21T12:00:00.000Z" }).kind, "conflict");
    assert.equal(refusal("backup", "BackedUp", { lockedUntil }).kind, "snapshot-is-backed-up");
  });

  test("one without a backup says how it may get one", () => {
    assert.match(refusal("restore", "Error").detail, /Back it up again/);
    assert.match(refusal("restore", "CreatedOnPrimary", {}, true).detail, /Back it up again/);
    assert.match(refusal("restore", "CreatedOnPrimary").detail, /is queued. Wait for it/);
  });

  test("one that is Destroyed is a 404 to delete and a 409 to restore", () => {
    assert.equal(refusal("delete", "Destroyed").status, 404);
    assert.equal(refusal("restore", "Destroyed").status, 409);
  });

  test("every state has its words for every action", () => {
    for (const state of snapshotStates)
      for (const action of ["delete", "restore", "backup"] as const) {
        const { detail, status } = refusal(action, state);
        assert.ok(detail.includes(ids.snapshot) && status >= 400 && status < 500, `${action} ${state}`);
      }
  });
});

describe("why a volume refuses", () => {
  const volume = {
    id: newId("volume"),
    name: "v",
    hypervisorId: newId("hypervisor"),
    backingUp: 3,
    missing: false,
    inUse: true,
  } as Volume;

  test("not because others are being backed up", () => {
    assert.equal(volumeRefusal(volume), undefined);
  });

  test("because it is restoring, missing or unsupported", () => {
    assert.equal(volumeRefusal({ ...volume, restoringJobId: ids.job })?.kind, "volume-is-restoring");
    assert.equal(volumeRefusal({ ...volume, missing: true })?.kind, "volume-is-missing");
    assert.match(volumeRefusal({ ...volume, unsupported: "it is a pipe" })?.message ?? "", /it is a pipe/);
  });

  test("but one that cannot be backed up yet may become a VM's disk, unless it is restoring or missing", () => {
    assert.equal(diskRefusal({ ...volume, unsupported: "no VM has it as a disk" }), undefined);
    assert.equal(diskRefusal({ ...volume, restoringJobId: ids.job })?.kind, "volume-is-restoring");
    assert.equal(diskRefusal({ ...volume, missing: true })?.kind, "volume-is-missing");
  });
});
