import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { Snapshot } from "./snapshot.ts";
import { sentence, snapshotEvent } from "./snapshot-event.ts";

const snapshot = (changes: Partial<Snapshot>): Snapshot => ({
  tenant: "acme",
  id: "snap_1",
  volumeId: "vol_1",
  hypervisorId: "hyp_1",
  hypervisorTenant: "acme",
  storeId: "default",
  tags: {},
  state: "BackingUp",
  updateCount: 6,
  lastChange: "job_1#BackingUp#1",
  jobId: "job_1",
  attempt: 1,
  maxAttempts: 3,
  onBackupFailure: "delete",
  createdAt: "2026-01-01T00:00:00.000Z",
  updatedAt: "2026-01-01T00:00:00.000Z",
  readers: [],
  ...changes,
});

describe("an event of a snapshot", () => {
  it("of a failed backup says at which attempt, why, and until when the primary copy stays", () => {
    const message = snapshotEvent(
      snapshot({}),
      snapshot({
        state: "Error",
        updateCount: 7,
        lastChange: "job_1#Error#3",
        attempt: 3,
        error: { name: "StoreUnavailable", message: "no answer" },
        primaryKeptUntil: "2026-01-01T00:15:00.000Z",
      }),
    );
    assert.equal(message?.type, "snapshot.backup-failed");
    assert.equal(message.detail.eventId, "snap_1#7");
    assert.equal(message.detail.attempt, 3);
    assert.equal(message.forPeople, true);
    assert.match(sentence(message), /attempt 3 of 3: StoreUnavailable: no answer\. .*00:15/);
  });

  it("of a row that begins as BackedUp is no news of a backup: it was imported", () => {
    const backedUp = snapshot({ state: "BackedUp", updateCount: 1, lastChange: "job_1#BackedUp#1" });
    const imported = snapshotEvent(undefined, backedUp);
    assert.equal(imported?.type, "snapshot.imported");
    assert.equal(imported.forPeople, false);
    assert.equal(snapshotEvent(snapshot({ updateCount: 0 }), backedUp)?.type, "snapshot.backed-up");
  });

  it("of a snapshot of a VM names the VM and the group, and of any other neither", () => {
    const taken = { state: "CreatedOnPrimary", updateCount: 7, lastChange: "job_1#CreatedOnPrimary#0" } as const;
    const before = snapshot({ state: "Creating" });
    const { detail } = snapshotEvent(before, snapshot({ ...taken, vmId: "vm_1", groupId: "group_1" })) ?? assert.fail();
    assert.deepEqual([detail.vmId, detail.groupId], ["vm_1", "group_1"]);
    assert.ok(!("vmId" in (snapshotEvent(before, snapshot(taken))?.detail ?? assert.fail())));
  });

  it("names the job that made the change, not the next one", () => {
    const message = snapshotEvent(
      snapshot({ state: "Creating" }),
      snapshot({
        state: "CreatedOnPrimary",
        updateCount: 7,
        lastChange: "job_create#CreatedOnPrimary#0",
        jobId: "job_backup",
      }),
    );
    assert.equal(message?.type, "snapshot.created-on-primary");
    assert.equal(message.detail.jobId, "job_create");
  });

  it("is none when the state did not change", () => {
    assert.equal(snapshotEvent(snapshot({}), snapshot({ physicalBytes: 0 })), undefined);
  });

  it("tells people once that a check found the backup damaged, and names what is lost", () => {
    const at = "2026-02-01T00:00:00.000Z";
    const lost = ["The object is missing or damaged: domains/d/packs/p. Bytes 0-262143 of the volume are lost."];
    const damaged = snapshot({
      state: "BackedUp",
      lastCheck: { at, checkedChunks: 5, checkedBytes: 1000, result: "damaged", lost },
    });
    const message = snapshotEvent(snapshot({ state: "BackedUp" }), damaged);
    assert.equal(message?.type, "snapshot.backup-damaged");
    assert.equal(message.forPeople, true);
    assert.equal(message.detail.eventId, `snap_1#check#${at}`);
    assert.deepEqual(message.detail.lost, lost);
    assert.match(sentence(message), /damaged.*domains\/d\/packs\/p/);
    assert.equal(snapshotEvent(damaged, { ...damaged, physicalBytes: 0 }), undefined);
  });

  it("is none of a check that found all intact", () => {
    const lastCheck = {
      at: "2026-02-01T00:00:00.000Z",
      checkedChunks: 5,
      checkedBytes: 1000,
      result: "intact",
    } as const;
    assert.equal(snapshotEvent(snapshot({ state: "BackedUp" }), snapshot({ state: "BackedUp", lastCheck })), undefined);
  });

  it("tells people once that the hypervisor called changed ranges unchanged", () => {
    const hintMismatch = { at: "2026-02-01T00:00:00.000Z", jobId: "job_1", attempt: 1, message: "bytes 0 to 511" };
    const message = snapshotEvent(snapshot({}), snapshot({ hintMismatch }));
    assert.equal(message?.type, "snapshot.hint-mismatch");
    assert.equal(message.forPeople, true);
    assert.equal(message.detail.eventId, `snap_1#hint#${hintMismatch.at}`);
    assert.deepEqual(message.detail.error, { name: "HintMismatch", message: "bytes 0 to 511" });
    assert.match(sentence(message), /vol_1 unchanged.*bytes 0 to 511/);
    assert.equal(snapshotEvent(snapshot({ hintMismatch }), snapshot({ hintMismatch, physicalBytes: 0 })), undefined);
  });
});
