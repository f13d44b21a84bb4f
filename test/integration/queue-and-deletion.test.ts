import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import path from "node:path";
import { after, afterEach, before, describe, it } from "node:test";
import { newId } from "../../lambdas/domain/ids.ts";
import { changeId } from "../../lambdas/domain/snapshot.ts";
import { transact } from "../../lambdas/tables/database.ts";
import { getJob } from "../../lambdas/tables/jobs.ts";
import { getSnapshot } from "../../lambdas/tables/snapshots.ts";
import { backedUp, backupFailed } from "../../lambdas/transactions/backup-snapshot.ts";
import { requestSnapshots } from "../../lambdas/transactions/create-snapshot.ts";
import { cloud, eventually, type TestCloud } from "../support/cloud.ts";
import { registerStore, type TestStore, writesPack } from "../support/stores.ts";
import { endedJob, noise, snapshotIn, TestHypervisor } from "../support/volumes.ts";
import { collectUntil, servicesOf } from "../support/workflows.ts";

const MiB = 2 ** 20;
/** As deployed for the tests. */
const slots = 2;

describe("the backup pool", () => {
  let test: TestCloud;
  let hypervisor: TestHypervisor;
  let store: TestStore;
  let release: () => void = () => {};
  before(async () => {
    test = await cloud();
    hypervisor = await TestHypervisor.register(test);
    store = await registerStore(test);
  });
  afterEach(() => {
    store.proxy.fault = () => "pass";
    release();
  });
  after(async () => {
    await hypervisor?.remove();
    await store?.close();
  });

  function holdPacks(): void {
    const held = Promise.withResolvers<void>();
    release = held.resolve;
    store.proxy.fault = (request) => (writesPack(request) ? held.promise : "pass");
  }

  function letGo(): void {
    store.proxy.fault = () => "pass";
    release();
  }

  async function snapshot(volumeId: string) {
    const { status, body } = await test.call("POST", `/volumes/${volumeId}/snapshots`, {
      body: { asyncBackup: true, storeId: store.id },
    });
    assert.equal(status, 202, JSON.stringify(body));
    const created = await endedJob(test, body.job.id);
    assert.equal(created.state, "Succeeded", JSON.stringify(created));
    return { id: body.snapshot.id as string, backupJobId: created.backupJobId as string };
  }

  async function finished(...snapshots: { id: string }[]) {
    for (const { id } of snapshots) assert.equal((await snapshotIn(test, id, ["BackedUp", "Error"])).state, "BackedUp");
  }

  it("runs as many backups as it has slots, the others in order, while creations go on", async () => {
    const volumeId = await hypervisor.addVolume("queue", 2 * MiB, [{ offset: 0, data: noise(2 * MiB) }]);
    holdPacks();
    const snapshots = [];
    for (let index = 0; index < slots + 3; index++) snapshots.push(await snapshot(volumeId));
    await snapshotIn(test, snapshots[0]?.id ?? "", ["BackingUp"]);
    await snapshotIn(test, snapshots[1]?.id ?? "", ["BackingUp"]);
    const jobs = await Promise.all(
      snapshots.map(async ({ backupJobId }) => (await test.call("GET", `/jobs/${backupJobId}`)).body),
    );
    assert.deepEqual(
      jobs.map(({ state }) => state),
      ["Running", "Running", "Queued", "Queued", "Queued"],
    );
    assert.deepEqual(
      jobs.slice(slots).map(({ queue }) => queue.position),
      [1, 2, 3],
    );
    letGo();
    await finished(...snapshots);
    const started = await Promise.all(
      snapshots.map(async ({ backupJobId }) => (await test.call("GET", `/jobs/${backupJobId}`)).body.startedAt),
    );
    assert.deepEqual(started, [...started].sort());
  });

  it("a snapshot that is BackingUp is not deleted: 409 names the job; a queued one goes at once", async () => {
    const volumeId = await hypervisor.addVolume("delete", 2 * MiB, [{ offset: 0, data: noise(2 * MiB) }]);
    holdPacks();
    const running = [await snapshot(volumeId), await snapshot(volumeId)];
    const queued = await snapshot(volumeId);
    await snapshotIn(test, running[1]?.id ?? "", ["BackingUp"]);
    const refused = await test.call("DELETE", `/snapshots/${running[0]?.id}`);
    assert.equal(refused.status, 409);
    assert.match(refused.body.type, /snapshot-is-backing-up$/);
    assert.match(refused.body.detail, new RegExp(running[0]?.backupJobId ?? ""));
    assert.equal((await test.call("DELETE", `/snapshots/${queued.id}`)).status, 202);
    await snapshotIn(test, queued.id, ["Destroyed"]);
    assert.equal((await test.call("GET", `/jobs/${queued.backupJobId}`)).body.state, "Cancelled");
    const files = await readdir(path.join(hypervisor.directory, ".snapferry", "snapshots"));
    assert.ok(!files.some((file) => file.includes(queued.id)), "the queued snapshot's file is still there");
    letGo();
    await finished(...running);
  });

  it("a job is cancelled while it is queued and while it copies, with the clean-up of a failure", async () => {
    const volumeId = await hypervisor.addVolume("cancel", 2 * MiB, [{ offset: 0, data: noise(2 * MiB) }]);
    holdPacks();
    const [first, second, queued] = [await snapshot(volumeId), await snapshot(volumeId), await snapshot(volumeId)];
    await snapshotIn(test, first.id, ["BackingUp"]);
    const cancelQueued = await test.call("POST", `/jobs/${queued.backupJobId}/cancel`);
    assert.ok(cancelQueued.status < 300, JSON.stringify(cancelQueued.body));
    assert.equal((await snapshotIn(test, queued.id, ["Error"])).error.name, "JobCancelled");
    const cancelCopying = await test.call("POST", `/jobs/${first.backupJobId}/cancel`);
    assert.ok(cancelCopying.status < 300, JSON.stringify(cancelCopying.body));
    assert.equal((await endedJob(test, first.backupJobId)).state, "Cancelled");
    assert.equal((await snapshotIn(test, first.id, ["Error"])).error.name, "JobCancelled");
    letGo();
    await finished(second);
    assert.equal(
      (await test.call("POST", `/jobs/${first.backupJobId}/cancel`)).status,
      200,
      "cancelling again is no error",
    );
    assert.equal((await test.call("POST", `/jobs/${second.backupJobId}/cancel`)).status, 409, "it has succeeded");
    for (const { id } of [first, queued]) {
      assert.equal((await test.call("DELETE", `/snapshots/${id}`)).status, 202);
      await snapshotIn(test, id, ["Destroyed"]);
    }
  });

  it("a snapshot that is being restored is not deleted: 409 names the restore", async () => {
    const volumeId = await hypervisor.addVolume("lease", 2 * MiB, [{ offset: 0, data: noise(2 * MiB) }]);
    const source = await snapshot(volumeId);
    await finished(source);
    const held = Promise.withResolvers<void>();
    release = held.resolve;
    store.proxy.fault = ({ method, path: key }) =>
      method === "GET" && key.includes("/packs/") ? held.promise : "pass";
    const restore = await test.call("POST", `/snapshots/${source.id}/restore`, {
      body: { target: { hypervisorId: hypervisor.id, name: "lease-restored" } },
    });
    assert.equal(restore.status, 202, JSON.stringify(restore.body));
    const refused = await test.call("DELETE", `/snapshots/${source.id}`);
    assert.equal(refused.status, 409);
    assert.match(JSON.stringify(refused.body), new RegExp(restore.body.job.id));
    letGo();
    assert.equal((await endedJob(test, restore.body.job.id)).state, "Succeeded");
    const deletion = await test.call("DELETE", `/snapshots/${source.id}`);
    assert.equal(deletion.status, 202, JSON.stringify(deletion.body));
    await snapshotIn(test, source.id, ["Destroyed"]);
  });

  it("a job whose start was lost is started by garbage collection", async () => {
    const volumeId = await hypervisor.addVolume("lost", MiB, [{ offset: 0, data: noise(1000) }]);
    const services = await servicesOf(test);
    const now = new Date().toISOString();
    const [snapshotId, jobId] = [newId("snapshot"), newId("job")];
    await transact(
      services.database,
      requestSnapshots(services.database, [
        {
          snapshot: {
            tenant: "acme",
            id: snapshotId,
            volumeId,
            hypervisorId: hypervisor.id,
            hypervisorTenant: "acme",
            storeId: "default",
            tags: {},
            state: "Allocated",
            updateCount: 0,
            lastChange: changeId(jobId, "Allocated", 0),
            jobId,
            attempt: 0,
            maxAttempts: 3,
            onBackupFailure: "delete",
            createdAt: now,
            updatedAt: now,
          },
          job: {
            tenant: "acme",
            id: jobId,
            kind: "create-snapshot",
            state: "Queued",
            phase: "Queued",
            snapshotId,
            volumeId,
            attempt: 0,
            attempts: [],
            policy: { maxAttempts: 3, retryIntervalSeconds: 1 },
            asyncBackup: false,
            createdAt: now,
            updatedAt: now,
            queuedAt: now,
          },
        },
      ]),
    );
    await collectUntil(
      test,
      "the lost job is started",
      async () => (await test.call("GET", `/jobs/${jobId}`)).body.state !== "Queued",
    );
    assert.equal((await endedJob(test, jobId)).state, "Succeeded");
    assert.equal((await snapshotIn(test, snapshotId, ["BackedUp"])).state, "BackedUp");
  });

  it("a stale event about a finished job changes nothing, and the same event twice changes nothing", async () => {
    const volumeId = await hypervisor.addVolume("stale", MiB, [{ offset: 0, data: noise(1000) }]);
    const source = await snapshot(volumeId);
    await finished(source);
    const { database } = await servicesOf(test);
    const rows = async () => ({
      snapshot: await getSnapshot(database, "acme", source.id),
      job: await getJob(database, "acme", source.backupJobId),
    });
    await eventually("the job is closed", async () => (await rows()).job?.open === false);
    const before = await rows();
    const job = before.job ?? assert.fail("the job is gone");
    const now = new Date().toISOString();
    const failure = {
      error: { name: "Late", message: "late" },
      cancelled: false,
      keptUntil: now,
    } as const;
    assert.equal(await backupFailed(database, job, failure, now), "replay");
    const done = { attempt: job.attempt, installPath: "x", storedBytes: 1, logicalBytes: 1 };
    assert.equal(await backedUp(database, job, done, now), "replay");
    assert.deepEqual(await rows(), before);
  });
});
