import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import {
  changeId,
  decideMove,
  domainMayBeUnencrypted,
  mayBeUnencrypted,
  nextSnapshotState,
  type Snapshot,
  type SnapshotEvent,
  type SnapshotState,
  snapshotStates,
  snapshotTransitions,
} from "./snapshot.ts";

type Row = Pick<Snapshot, "id" | "state" | "lastChange" | "jobId" | "readers">;
const row = (state: SnapshotState, changes: Partial<Row> = {}): Row => ({
  id: "snap_1",
  state,
  lastChange: changeId("job_0", state, 0),
  jobId: "job_1",
  readers: [],
  ...changes,
});
const events = [
  ...new Set(snapshotStates.flatMap((state) => Object.keys(snapshotTransitions[state]))),
] as SnapshotEvent[];

describe("a snapshot", () => {
  it("goes from its request to BackedUp", () => {
    let state: SnapshotState = "Allocated";
    for (const event of ["CreateRequested", "OperationSucceeded", "BackupStarted", "OperationSucceeded"] as const) {
      state = nextSnapshotState(state, event) ?? assert.fail(`${event} is refused in ${state}`);
    }
    assert.equal(state, "BackedUp");
  });

  it("that is BackingUp cannot be deleted, copied or backed up again", () => {
    for (const event of ["DestroyRequested", "CopyRequested", "BackupRequested"] as const)
      assert.equal(decideMove(row("BackingUp"), event, { jobId: "job_2", attempt: 0 }).kind, "refused");
  });

  it("that is BackedUp never leaves that state because an operation failed", () => {
    assert.equal(decideMove(row("BackedUp"), "OperationFailed", { jobId: "job_1", attempt: 1 }).kind, "refused");
  });

  it("that is being read cannot be deleted, and the refusal names the reader", () => {
    const decision = decideMove(row("BackedUp", { readers: ["job_9"] }), "DestroyRequested", {
      jobId: "job_2",
      attempt: 0,
    });
    assert.equal(decision.kind, "refused");
    assert.match(decision.kind === "refused" ? decision.reason : "", /job_9/);
  });

  it("is not changed by an event of a job that does not own it", () => {
    assert.equal(decideMove(row("BackingUp"), "OperationFailed", { jobId: "job_old", attempt: 1 }).kind, "refused");
  });

  it("is not changed twice by the same event", () => {
    const by = { jobId: "job_1", attempt: 2 };
    assert.deepEqual(decideMove(row("BackingUp"), "OperationSucceeded", by), { kind: "move", to: "BackedUp" });
    const after = row("BackedUp", { lastChange: changeId("job_1", "BackedUp", 2) });
    assert.equal(decideMove(after, "OperationSucceeded", by).kind, "replay");
  });

  it("can leave every state but Destroyed, and Destroyed can be reached from each", () => {
    for (const start of snapshotStates) {
      const reached = new Set<SnapshotState>([start]);
      for (const state of reached)
        for (const event of events) {
          const next = nextSnapshotState(state, event);
          if (next) reached.add(next);
        }
      assert.ok(reached.has("Destroyed"), `${start} cannot end`);
    }
  });

  it("with any history of events is only ever where the table allows", () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...events)), (history) => {
        let state: SnapshotState = "Allocated";
        for (const event of history) {
          const decision = decideMove(row(state), event, { jobId: "job_1", attempt: 1 });
          if (decision.kind !== "move") continue;
          assert.equal(snapshotTransitions[state][event], decision.to);
          state = decision.to;
        }
      }),
    );
  });
});

describe("a backup in a store that asks for encryption", () => {
  const of = (id: string, changes: Partial<Snapshot> = {}) => ({
    id,
    storeId: "default",
    state: "BackedUp" as SnapshotState,
    backedUpAt: "2026-01-01T00:00:00Z",
    ...changes,
  });
  const fresh = { id: "snap_9", storeId: "default", state: "BackingUp" as SnapshotState };

  it("may be unencrypted only in the default store, and not if it was encrypted when it was made", () => {
    assert.equal(mayBeUnencrypted(of("snap_1")), true);
    assert.equal(mayBeUnencrypted(of("snap_1", { encrypted: true })), false);
    assert.equal(mayBeUnencrypted(of("snap_1", { storeId: "store_1" })), false);
  });

  it("goes on without where the volume's backups are, and only there", () => {
    assert.equal(domainMayBeUnencrypted(fresh, [of("snap_1"), of("snap_2")]), true);
    assert.equal(domainMayBeUnencrypted(fresh, []), false);
    assert.equal(domainMayBeUnencrypted(fresh, [{ ...fresh, backedUpAt: "2026-01-01T00:00:00Z" }]), false);
    assert.equal(domainMayBeUnencrypted(fresh, [of("snap_1"), of("snap_2", { encrypted: true })]), false);
    assert.equal(domainMayBeUnencrypted(fresh, [of("snap_1", { storeId: "store_1" })]), false);
    assert.equal(domainMayBeUnencrypted(fresh, [of("snap_1", { state: "Destroyed" })]), false);
    assert.equal(domainMayBeUnencrypted({ ...fresh, encrypted: true }, [of("snap_1")]), false);
    assert.equal(
      domainMayBeUnencrypted({ ...fresh, storeId: "store_1" }, [of("snap_1", { storeId: "store_1" })]),
      false,
    );
  });
});
