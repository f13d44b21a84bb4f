import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, it } from "node:test";
import { MemoryDatabase } from "../../test/support/memory-database.ts";
import { MemoryObjectStore, type MemoryObjectStoreOptions } from "../../test/support/memory-object-store.ts";
import {
  backup,
  copyAll,
  planBackup,
  restore,
  SparseVolume,
  smallGeometry,
  useGeometry,
} from "../../test/support/repository.ts";
import { dedupDomain } from "../domain/inventory.ts";
import type { Job } from "../domain/job.ts";
import { parseSettings } from "../domain/settings.ts";
import { domainKeys, formatPackName, jobKeys } from "../repository/layout.ts";
import type { BackupTarget } from "../repository/pin.ts";
import { planRestore } from "../repository/reader.ts";
import type { Services } from "../services.ts";
import { getJob } from "../tables/jobs.ts";
import { deleteSnapshotStates } from "../tasks/delete-snapshot.ts";
import { callState } from "../tasks/state-function.ts";
import { settleBackup } from "./clean-up.ts";
import { reconcileJob } from "./reconcile.ts";
import { sweepBackups } from "./sweep-backups.ts";

const ofVolume = { tenant: "acme", volumeId: "vol_1", hypervisorTenant: "acme", hypervisorId: "hyp_1" };
const domain = dedupDomain(ofVolume.tenant, ofVolume.volumeId);
const keys = domainKeys(domain);
const never = () => false;
const settings = parseSettings({});
const grace = settings.lateWriterGraceSeconds;
const failure = {
  attempt: 1,
  startedAt: "",
  endedAt: "",
  error: { name: "StoreUnavailable", message: "It was away." },
};

/** A volume's backups, the jobs that made them, and what garbage collection makes of these. */
class Lab {
  readonly memory = new MemoryDatabase();
  before: NonNullable<MemoryObjectStoreOptions["before"]> = () => undefined;
  readonly store = new MemoryObjectStore({ before: (operation, key) => this.before(operation, key) });
  readonly logged: string[] = [];
  readonly #endedAt = Date.now();
  #seconds = 0;

  /** So many seconds after the jobs' end. */
  at(seconds: number): this {
    this.#seconds = seconds;
    return this;
  }

  target(n: number): BackupTarget {
    return { store: this.store, domain, snapshotId: `snap_${n}`, jobId: `job_${n}` };
  }

  /** The rows as an execution leaves them that died right after the backup was done. */
  async backUp(n: number, content: Uint8Array, job: Partial<Job> = {}): Promise<void> {
    const { jobId, snapshotId } = this.target(n);
    const endedAt = new Date(this.#endedAt).toISOString();
    const row = { ...ofVolume, id: snapshotId, state: "BackedUp", jobId, storeId: "default", readers: [] };
    this.memory.put("snapshots", { ...row, volumeKey: `acme#${ofVolume.volumeId}`, backedUpAt: endedAt });
    const ended = { kind: "backup-snapshot", openKind: "backup-snapshot", state: "Succeeded", updatedAt: endedAt };
    this.memory.put("jobs", { ...ofVolume, id: jobId, snapshotId, attempts: [], ...ended, ...job });
    await useGeometry(this.store, domain, smallGeometry);
    await backup(this.target(n), SparseVolume.of(content));
  }

  /** What a worker leaves that was killed between a pack and its checkpoint. */
  async leavePack(n: number): Promise<string> {
    const jobId = `job_${n}`;
    const key = keys.pack(formatPackName({ jobId, attempt: 1, shard: 0, token: "0123456789abcdef", sequence: 9 }));
    await this.store.put(key, Buffer.from("a pack that no checkpoint names"));
    return key;
  }

  job(n: number): Promise<Job | undefined> {
    return getJob(this.memory.database, "acme", `job_${n}`);
  }

  async isOpen(n: number): Promise<boolean | undefined> {
    return (await this.job(n))?.open;
  }

  reconcile(n: number): Promise<boolean> {
    return reconcileJob(this.services, { tenant: "acme", id: `job_${n}` }, never);
  }

  sweep() {
    const snapshot = { ...ofVolume, storeId: "default" };
    return sweepBackups(this.services, snapshot, { store: this.store, domain, until: never });
  }

  /** The state of delete-snapshot. */
  async deleteBackup(n: number, { until = never, from }: { until?: () => boolean; from?: string } = {}) {
    const { snapshotId } = this.target(n);
    const [id, reference] = ["job_del", `${snapshotId}#Image#default`];
    const row = this.memory.get("snapshots", { tenant: "acme", id: snapshotId });
    this.memory.put("snapshots", { ...row, state: "Destroying", jobId: id });
    this.memory.put("jobs", { ...ofVolume, id, snapshotId, state: "Running", openKind: "delete-snapshot" });
    const place = { role: "Image", storeId: "default", installPath: `roots/${snapshotId}` };
    this.memory.put("storeReferences", { tenant: "acme", reference, snapshotId, ...place, state: "Ready" });
    const job = { tenant: "acme", jobId: id, snapshotId };
    const input = { job, ...(from !== undefined && { from }) };
    const answer = await callState(deleteSnapshotStates, "DeleteBackup", this.services, input, { until });
    return answer as { finished: boolean; position: string };
  }

  get services(): Services {
    const logger = {
      info: () => undefined,
      warn: () => undefined,
      error: (message: string, { error }: { error: Error }) => this.logged.push(`${message}: ${error.message}`),
    };
    return {
      database: this.memory.database,
      executions: { status: async () => "ENDED" },
      logger,
      settings: async () => settings,
      hypervisor: async () => ({ kind: "file", capabilities: { changeTracking: false } }),
      objectStore: async () => this.store,
      keyService: async () => undefined,
      ownBucket: async () => this.store,
      now: () => new Date(this.#endedAt + this.#seconds * 1000),
    } as unknown as Services;
  }
}

describe("what failed attempts of a backup that succeeded have uploaded", () => {
  it("is swept once no late worker can write, and only then the job is closed", async () => {
    const lab = new Lab();
    const content = randomBytes(5000);
    await lab.backUp(1, content, { attempts: [failure] });
    const left = await lab.leavePack(1);
    assert.equal(await settleBackup(lab.services, (await lab.job(1))!, 0), true);
    assert.equal(await lab.at(grace - 1).reconcile(1), false);
    assert.ok(await lab.store.head(left));
    assert.equal(await lab.isOpen(1), true);
    assert.equal(await lab.at(grace).reconcile(1), true);
    assert.equal(await lab.store.head(left), undefined);
    assert.equal(await lab.isOpen(1), false);
    assert.deepEqual(await (await restore(lab.target(1))).content(), content);
  });

  it("is swept although the snapshot was deleted meanwhile", async () => {
    const lab = new Lab();
    await lab.backUp(1, randomBytes(5000), { attempts: [failure] });
    await lab.leavePack(1);
    await lab.store.deleteEveryVersion([keys.root("snap_1")]);
    const row = lab.memory.get("snapshots", { tenant: "acme", id: "snap_1" });
    lab.memory.put("snapshots", { ...row, state: "Destroyed", jobId: "job_9" });
    assert.equal(await lab.at(grace).reconcile(1), true);
    assert.deepEqual([lab.store.keys(), await lab.isOpen(1)], [[], false]);
  });

  it("is not looked for when the first attempt succeeded: the job is closed at once", async () => {
    const lab = new Lab();
    await lab.backUp(1, randomBytes(5000));
    const left = await lab.leavePack(1);
    assert.equal(await lab.at(settings.reconcileAfterSeconds).reconcile(1), true);
    assert.ok(await lab.store.head(left));
    assert.equal(await lab.isOpen(1), false);
  });
});

describe("what a job keeps in the store that nobody cleans up after any more", () => {
  const day = 86_400;
  /** A backup of another snapshot, whose worker has died long ago, builds on the first. */
  async function withPin(job?: Partial<Job> & { openKind?: string }) {
    const lab = new Lab();
    await lab.backUp(1, content);
    const dead = lab.target(2);
    const volume = SparseVolume.of(randomBytes(5000));
    await copyAll(dead, await planBackup(dead, volume, ["snap_1"]), volume);
    if (job) lab.memory.put("jobs", { ...ofVolume, id: "job_2", snapshotId: "snap_2", ...job });
    return lab;
  }
  const content = randomBytes(5000);
  const isGone = (lab: Lab) => !lab.store.keys().some((key) => key.includes("job_2"));

  it("goes when its job was closed without a clean-up, the snapshots stay whole", async () => {
    const lab = await withPin({ state: "Failed" });
    await lab.sweep();
    assert.ok(isGone(lab));
    assert.deepEqual(await (await restore(lab.target(1))).content(), content);
  });

  it("goes when there is no such job and nothing was written for a day: the tables were lost", async () => {
    const lab = await withPin();
    await lab.at(day - 60).sweep();
    const before = lab.store.keys();
    assert.ok(!isGone(lab));
    await lab.at(day + 60).sweep();
    assert.ok(isGone(lab));
    assert.ok(lab.store.keys().length < before.length);
    assert.deepEqual(await (await restore(lab.target(1))).content(), content);
  });

  it("stays as long as the job is open, however long that takes", async () => {
    for (const state of ["Running", "Failed"] as const) {
      const lab = await withPin({ state, openKind: "backup-snapshot" });
      const before = lab.store.keys();
      await lab.at(30 * day).sweep();
      assert.deepEqual(lab.store.keys(), before);
    }
  });

  it("may be a restore's too", async () => {
    const lab = new Lab();
    await lab.backUp(1, content);
    for (const [id, state, openKind] of [
      ["job_8", "Failed", undefined],
      ["job_9", "Running", "restore-volume"],
    ]) {
      lab.memory.put("jobs", { ...ofVolume, id, kind: "restore-volume", state, ...(openKind && { openKind }) });
      await planRestore({ ...lab.target(1), jobId: id! });
    }
    await lab.sweep();
    assert.deepEqual(lab.store.keys(keys.jobs), [jobKeys(domain, "job_9").restorePlan]);
  });
});

describe("a damaged snapshot", () => {
  it("keeps no other from being deleted, is named, and what waited for it goes with it", async () => {
    const lab = new Lab();
    const contents = [1, 2, 3].map(() => randomBytes(5000));
    for (const [at, content] of contents.entries()) await lab.backUp(at + 1, content);
    lab.store.damage(keys.root("snap_2"), (body) => body.subarray(1));
    assert.deepEqual(await lab.deleteBackup(1), { finished: true, position: "" });
    assert.ok(lab.store.keys(keys.packs).some((key) => key.includes("job_1")));
    assert.match(lab.logged.join(), /^a sweep waits until damaged snapshots are deleted: .*the snapshot snap_2 /);
    assert.equal((await lab.deleteBackup(2)).finished, true);
    assert.deepEqual(
      lab.store.keys(keys.packs).filter((key) => !key.includes("job_3")),
      [],
    );
    assert.deepEqual(await (await restore(lab.target(3))).content(), contents[2]);
  });

  it("keeps no failed backup of its volume from being cleaned up", async () => {
    const lab = new Lab();
    await lab.backUp(1, randomBytes(5000));
    await lab.backUp(2, randomBytes(5000), { state: "Failed" });
    lab.store.damage(keys.root("snap_1"), (body) => body.subarray(1));
    assert.equal(await lab.at(grace).reconcile(2), true);
    assert.equal(await lab.isOpen(2), false);
  });
});

describe("a deletion of a snapshot whose sweep takes more than one call", () => {
  it("goes on where the last call has come to", async () => {
    const lab = new Lab();
    for (const n of [1, 2]) await lab.backUp(n, randomBytes(5000));
    let isLate = false;
    lab.before = (operation, key) => {
      if (operation === "list" && key === keys.pages) isLate = true;
    };
    const first = await lab.deleteBackup(1, { until: () => isLate });
    assert.equal(first.finished, false);
    isLate = false;
    const listed: string[] = [];
    lab.before = (operation, key) => void (operation === "list" && listed.push(key));
    assert.equal((await lab.deleteBackup(1, { from: first.position })).finished, true);
    assert.ok(listed.indexOf(keys.pages) < listed.indexOf(keys.packs), "the packs are done");
    assert.deepEqual(
      lab.store.keys(keys.pages).filter((key) => key.includes("job_1")),
      [],
    );
  });
});
