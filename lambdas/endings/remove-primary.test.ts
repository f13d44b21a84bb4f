import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { MemoryDatabase } from "../../test/support/memory-database.ts";
import { HypervisorUnavailable, SnapshotInUse } from "../domain/errors.ts";
import { parseSettings } from "../domain/settings.ts";
import type { SnapshotState } from "../domain/snapshot.ts";
import type { Hypervisor } from "../hypervisors/port.ts";
import type { Services } from "../services.ts";
import { transact } from "../tables/database.ts";
import { beginBackingUp } from "../tables/volumes.ts";
import { removePrimary, settlePrimary } from "./remove-primary.ts";

const hypervisorId = "hyp_1";
const volume = { tenant: "acme", id: "vol_1" };
const start = Date.parse("2026-01-01T00:00:00.000Z");
const options = { jobId: "job_1", waitSeconds: 60 };

/** One volume with snapshots on primary, and a hypervisor that merges as it is told. */
class Primary {
  readonly memory = new MemoryDatabase();
  readonly deleted: string[] = [];
  now = start;
  changeTracking = true;
  retention: string | undefined;
  /** How the next deletions end; those beyond the list finish. */
  readonly deletions: (boolean | Error)[] = [];
  /** Runs while the hypervisor deletes. */
  meanwhile: () => Promise<void> = async () => {};

  constructor() {
    this.memory.put("volumes", { ...volume, backingUp: 0 });
  }

  add(id: string, state: SnapshotState = "BackedUp", storeId = "default"): this {
    const snapshot = {
      tenant: "acme",
      id,
      volumeId: volume.id,
      hypervisorId,
      hypervisorTenant: "acme",
      storeId,
      state,
    };
    const reference = { tenant: "acme", snapshotId: id, role: "Primary", storeId: hypervisorId, state: "Ready" };
    this.memory
      .put("snapshots", { ...snapshot, volumeKey: `acme#${volume.id}`, physicalBytes: 10 })
      .put("storeReferences", { ...reference, reference: `${id}#Primary#${hypervisorId}`, installPath: `/srv/${id}` });
    return this;
  }

  snapshot(id: string) {
    const row = this.memory.get("snapshots", { tenant: "acme", id });
    return { ...row, readers: [] } as unknown as Parameters<typeof removePrimary>[1];
  }

  reference(id: string) {
    return this.memory.get("storeReferences", { tenant: "acme", reference: `${id}#Primary#${hypervisorId}` });
  }

  get held() {
    return this.memory.get("volumes", volume)?.heldFor;
  }

  startBackup(): Promise<void> {
    const { database } = this.memory;
    return transact(database, [beginBackingUp(database, volume, new Date(this.now).toISOString())]);
  }

  get services(): Services {
    const hypervisor = {
      kind: "double",
      capabilities: { quiesce: false, changeTracking: this.changeTracking, snapshotCopies: false },
      deleteSnapshot: async (installPath: string) => {
        this.deleted.push(installPath);
        await this.meanwhile();
        const outcome = this.deletions.shift() ?? true;
        if (outcome instanceof Error) throw outcome;
        return { finished: outcome };
      },
    } as unknown as Hypervisor;
    const settings = parseSettings(this.retention === undefined ? {} : { "primary.retain": this.retention });
    return {
      database: this.memory.database,
      settings: async () => settings,
      hypervisor: async () => hypervisor,
      now: () => new Date(this.now),
    } as unknown as Services;
  }
}

describe("a copy on primary", () => {
  it("goes with its reference, and the snapshot takes no room there any more", async () => {
    const primary = new Primary().add("snap_1");
    assert.equal(await removePrimary(primary.services, primary.snapshot("snap_1"), options), "gone");
    assert.deepEqual(primary.deleted, ["/srv/snap_1"]);
    assert.equal(primary.reference("snap_1"), undefined);
    assert.equal(primary.snapshot("snap_1").physicalBytes, 0);
    assert.equal(primary.held, undefined);
    assert.equal(await removePrimary(primary.services, primary.snapshot("snap_1"), options), "gone");
    assert.equal(primary.deleted.length, 1);
  });

  it("waits while a backup of the volume is going on, and is not touched", async () => {
    const primary = new Primary().add("snap_1");
    await primary.startBackup();
    assert.equal(await removePrimary(primary.services, primary.snapshot("snap_1"), options), "in-use");
    assert.deepEqual(primary.deleted, []);
    assert.equal(primary.reference("snap_1")?.state, "Destroying");
  });

  it("keeps backups from starting while it is merged, also between two calls, and not for ever", async () => {
    const primary = new Primary().add("snap_1");
    primary.meanwhile = () => assert.rejects(primary.startBackup());
    primary.deletions.push(false);
    assert.equal(await removePrimary(primary.services, primary.snapshot("snap_1"), options), "unfinished");
    assert.equal(primary.reference("snap_1")?.state, "Destroying");
    await assert.rejects(primary.startBackup());
    primary.now += 300_000;
    assert.equal(await removePrimary(primary.services, primary.snapshot("snap_1"), options), "gone");
    await primary.startBackup();
    const abandoned = new Primary().add("snap_1");
    abandoned.deletions.push(false);
    await removePrimary(abandoned.services, abandoned.snapshot("snap_1"), options);
    abandoned.now += 1_000_000;
    await abandoned.startBackup();
  });

  it("waits for whoever else holds the volume", async () => {
    const primary = new Primary().add("snap_1").add("snap_2");
    primary.deletions.push(false);
    await removePrimary(primary.services, primary.snapshot("snap_1"), options);
    const other = { ...options, jobId: "job_2" };
    assert.equal(await removePrimary(primary.services, primary.snapshot("snap_2"), other), "in-use");
    assert.deepEqual(primary.deleted, ["/srv/snap_1"]);
  });

  for (const [what, failure, outcome] of [
    ["is in use by an export", new SnapshotInUse("an export is open"), "in-use"],
    ["cannot be reached", new HypervisorUnavailable("nobody there"), undefined],
  ] as const)
    it(`that ${what} holds nothing back`, async () => {
      const primary = new Primary().add("snap_1");
      primary.deletions.push(failure);
      const removing = removePrimary(primary.services, primary.snapshot("snap_1"), options);
      if (outcome) assert.equal(await removing, outcome);
      else await assert.rejects(removing, failure);
      assert.equal(primary.held, undefined);
      assert.equal(primary.reference("snap_1")?.state, "Destroying");
    });

  it("of a hypervisor without chains waits for nobody", async () => {
    const primary = new Primary().add("snap_1");
    primary.changeTracking = false;
    await primary.startBackup();
    assert.equal(await removePrimary(primary.services, primary.snapshot("snap_1"), options), "gone");
  });
});

describe("after a backup", () => {
  const left = (primary: Primary, ...ids: string[]) => ids.filter((id) => primary.reference(id) !== undefined);

  it("the newest copy stays as reference, and the earlier ones go, the oldest first", async () => {
    const primary = new Primary().add("snap_1").add("snap_2").add("snap_3", "Error").add("snap_4");
    assert.equal(await settlePrimary(primary.services, primary.snapshot("snap_4"), options), true);
    assert.deepEqual(primary.deleted, ["/srv/snap_1", "/srv/snap_2"]);
    assert.deepEqual(left(primary, "snap_1", "snap_2", "snap_3", "snap_4"), ["snap_3", "snap_4"]);
  });

  it("the first reference stays where it is", async () => {
    const primary = new Primary().add("snap_1");
    assert.equal(await settlePrimary(primary.services, primary.snapshot("snap_1"), options), true);
    assert.deepEqual(primary.deleted, []);
  });

  it("is backed up although the index of snapshots does not know it yet", async () => {
    const primary = new Primary().add("snap_1").add("snap_2", "BackingUp");
    const backedUp = { ...primary.snapshot("snap_2"), state: "BackedUp" as const };
    assert.equal(await settlePrimary(primary.services, backedUp, options), true);
    assert.deepEqual(left(primary, "snap_1", "snap_2"), ["snap_2"]);
  });

  it("the earlier reference waits for the backup that is going on against it", async () => {
    const primary = new Primary().add("snap_1").add("snap_2").add("snap_3", "BackingUp");
    await primary.startBackup();
    assert.equal(await settlePrimary(primary.services, primary.snapshot("snap_2"), options), false);
    assert.deepEqual(primary.deleted, []);
  });

  it("a long merge is gone on with before the next one begins", async () => {
    const primary = new Primary().add("snap_1").add("snap_2").add("snap_3");
    primary.deletions.push(false);
    assert.equal(await settlePrimary(primary.services, primary.snapshot("snap_3"), options), false);
    assert.deepEqual(primary.deleted, ["/srv/snap_1"]);
    assert.equal(await settlePrimary(primary.services, primary.snapshot("snap_3"), options), true);
    assert.deepEqual(primary.deleted, ["/srv/snap_1", "/srv/snap_1", "/srv/snap_2"]);
  });

  for (const [retention, changeTracking, remaining] of [
    ["true", true, ["snap_1", "snap_2"]],
    ["false", true, []],
    ["reference", false, []],
    ["true", false, ["snap_1", "snap_2"]],
  ] as const)
    it(`primary.retain=${retention} ${changeTracking ? "with" : "without"} change tracking leaves ${remaining.length}`, async () => {
      const primary = new Primary().add("snap_1").add("snap_2");
      Object.assign(primary, { retention, changeTracking });
      assert.equal(await settlePrimary(primary.services, primary.snapshot("snap_2"), options), true);
      assert.deepEqual(left(primary, "snap_1", "snap_2"), remaining);
    });
});
