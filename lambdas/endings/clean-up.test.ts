import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, it } from "node:test";
import { MemoryDatabase } from "../../test/support/memory-database.ts";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { backup, restore, SparseVolume, smallGeometry, useGeometry } from "../../test/support/repository.ts";
import { dedupDomain } from "../domain/inventory.ts";
import type { Job } from "../domain/job.ts";
import { parseSettings } from "../domain/settings.ts";
import { domainKeys, formatPackName } from "../repository/layout.ts";
import type { BackupTarget } from "../repository/pin.ts";
import type { Services } from "../services.ts";
import { getJob } from "../tables/jobs.ts";
import { settleBackup } from "./clean-up.ts";
import { reconcileJob } from "./reconcile.ts";

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
  readonly store = new MemoryObjectStore();
  readonly exported: string[] = [];
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

  get services(): Services {
    const logger = { info: () => undefined, warn: () => undefined, error: () => undefined };
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
