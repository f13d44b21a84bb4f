import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import path from "node:path";
import { after, afterEach, before, describe, it } from "node:test";
import { isDeepStrictEqual } from "node:util";
import { QueryCommand } from "@aws-sdk/client-dynamodb";
import { StopExecutionCommand } from "@aws-sdk/client-sfn";
import { dedupDomain } from "../../lambdas/domain/inventory.ts";
import { domainKeys } from "../../lambdas/repository/layout.ts";
import { readRoot } from "../../lambdas/repository/reader.ts";
import { pagesOf } from "../../lambdas/repository/tree.ts";
import { cloud, eventually, type TestCloud } from "../support/cloud.ts";
import { registerStore, type TestStore, versionsIn, writesPack } from "../support/stores.ts";
import { endedJob, noise, snapshotIn, TestHypervisor } from "../support/volumes.ts";
import { workersOf } from "../support/workers.ts";
import { changeSettings, collectUntil, servicesOf } from "../support/workflows.ts";

const MiB = 2 ** 20;

describe("a backup that fails", () => {
  let test: TestCloud;
  let hypervisor: TestHypervisor;
  let store: TestStore;
  before(async () => {
    test = await cloud();
    hypervisor = await TestHypervisor.register(test);
    store = await registerStore(test);
  });
  afterEach(() => {
    store.proxy.fault = () => "pass";
  });
  after(async () => {
    await hypervisor?.remove();
    await store?.close();
  });

  async function snapshot(name: string, size = 24 * MiB) {
    const volumeId = await hypervisor.addVolume(name, size, [{ offset: 0, data: noise(size) }]);
    const { status, body } = await test.call("POST", `/volumes/${volumeId}/snapshots`, {
      body: { asyncBackup: true, storeId: store.id },
    });
    assert.equal(status, 202, JSON.stringify(body));
    const created = await endedJob(test, body.job.id);
    assert.equal(created.state, "Succeeded", JSON.stringify(created));
    return { id: body.snapshot.id as string, backupJobId: created.backupJobId as string, volumeId };
  }

  /** Nothing of the snapshot is left: no file on primary, no object version, no reference row. */
  async function assertNothingLeft({ id }: { id: string }) {
    const { body } = await test.call("GET", `/snapshots/${id}`);
    assert.equal(body.state, "Destroyed");
    assert.deepEqual(await readdir(path.join(hypervisor.directory, ".snapferry", "snapshots")), []);
    assert.deepEqual(await versionsIn(test, store.bucket, "domains/"), []);
    const { Items } = await test.clients.dynamodb.send(
      new QueryCommand({
        TableName: test.outputs.StoreReferencesTableName,
        KeyConditionExpression: "tenant = :t AND begins_with(#r, :s)",
        ExpressionAttributeNames: { "#r": "reference" },
        ExpressionAttributeValues: { ":t": { S: "acme" }, ":s": { S: id } },
      }),
    );
    assert.deepEqual(Items, []);
  }

  /** Keys of all packs in the store, of volumes that have no snapshot any more too: there are to be none. */
  async function packsInStore(): Promise<string[]> {
    const keys = await versionsIn(test, store.bucket, "domains/");
    return keys.filter((key) => key.includes("/packs/")).sort();
  }

  async function packsNeededBy({ id, volumeId }: { id: string; volumeId: string }): Promise<string[]> {
    const services = await servicesOf(test);
    const domain = dedupDomain("acme", volumeId);
    const source = { store: await services.objectStore("acme", store.id), domain, snapshotId: id };
    const pages = await Array.fromAsync(pagesOf(source, await readRoot(source)));
    const packs = new Set(pages.flatMap((page) => page.packs));
    return Array.from(packs, domainKeys(domain).pack).sort();
  }

  it("twice succeeds the third time, and the job tells of each attempt", async () => {
    let attempts = 0;
    let lastJob = "";
    store.proxy.fault = (request) => {
      const job = /\/jobs\/(job_\w+)\/pin/.exec(request.path)?.[1];
      if (job) lastJob = job;
      if (!writesPack(request)) return "pass";
      const attempt = Number(/\/packs\/job_\w+\/(\d+)-/.exec(request.path)?.[1]);
      attempts = Math.max(attempts, attempt);
      return attempt < 3 ? "unavailable" : "pass";
    };
    const { id, backupJobId } = await snapshot("third-time");
    const job = await endedJob(test, backupJobId);
    assert.equal(job.state, "Succeeded", JSON.stringify(job));
    assert.equal(job.attempt, 3);
    assert.equal(attempts, 3);
    assert.equal(lastJob, backupJobId);
    assert.deepEqual(
      job.attempts.map(({ error }: { error: { name: string } }) => error.name).sort(),
      job.attempts.map(() => job.attempts[0].error.name),
    );
    assert.match(job.attempts[0].error.name, /^(StoreUnavailable|Throttled)$/);
    const backedUp = await snapshotIn(test, id, ["BackedUp"]);
    assert.equal(backedUp.error, undefined);
    await test.call("DELETE", `/snapshots/${id}`);
    await snapshotIn(test, id, ["Destroyed"]);
  });

  it("to the last attempt leaves Error; garbage collection then leaves nothing", async () => {
    store.proxy.fault = (request) => (writesPack(request) ? "reset" : "pass");
    const failed = await snapshot("used-up", 4 * MiB);
    const job = await endedJob(test, failed.backupJobId);
    assert.equal(job.state, "Failed");
    assert.equal(job.attempts.length, 3);
    const { state, error, primaryKeptUntil } = await snapshotIn(test, failed.id, ["Error"]);
    assert.equal(state, "Error");
    assert.match(error.name, /^(StoreUnavailable|Throttled)$/);
    assert.ok(Date.parse(primaryKeptUntil) > Date.now());
    assert.equal((await readdir(path.join(hypervisor.directory, ".snapferry", "snapshots"))).length, 1);
    store.proxy.fault = () => "pass";
    await changeSettings(test, { "error.grace": "0" });
    try {
      await collectUntil(test, "the failed snapshot is collected", async () => {
        const { body } = await test.call("GET", `/snapshots/${failed.id}`);
        return body.state === "Destroyed" && (await versionsIn(test, store.bucket, "domains/")).length === 0;
      });
    } finally {
      await changeSettings(test, { "error.grace": "3600" });
    }
    await assertNothingLeft(failed);
  });

  it("can be asked for again from Error while the frozen bytes are on primary", async () => {
    store.proxy.fault = (request) => (writesPack(request) ? "reset" : "pass");
    const failed = await snapshot("again", 4 * MiB);
    await snapshotIn(test, failed.id, ["Error"]);
    store.proxy.fault = () => "pass";
    const again = await test.call("POST", `/snapshots/${failed.id}/backup`);
    assert.equal(again.status, 202, JSON.stringify(again.body));
    assert.equal((await endedJob(test, again.body.job.id)).state, "Succeeded");
    await snapshotIn(test, failed.id, ["BackedUp"]);
    assert.equal((await test.call("POST", `/snapshots/${failed.id}/backup`)).status, 409);
    await test.call("DELETE", `/snapshots/${failed.id}`);
    await snapshotIn(test, failed.id, ["Destroyed"]);
  });

  it("leaves the snapshot on primary when that is the setting, and can be asked for again; so does primary.retain", async () => {
    await changeSettings(test, { "backup.on.failure": "keep", "backup.max.attempts": "1", "primary.retain": "true" });
    try {
      store.proxy.fault = (request) => (writesPack(request) ? "reset" : "pass");
      const kept = await snapshot("kept", MiB);
      assert.equal((await endedJob(test, kept.backupJobId)).state, "Failed");
      const { state, error } = await snapshotIn(test, kept.id, ["CreatedOnPrimary", "Error"]);
      assert.equal(state, "CreatedOnPrimary");
      assert.match(error.name, /^(StoreUnavailable|Throttled)$/);
      store.proxy.fault = () => "pass";
      const again = await test.call("POST", `/snapshots/${kept.id}/backup`);
      assert.equal(again.status, 202, JSON.stringify(again.body));
      assert.equal((await endedJob(test, again.body.job.id)).state, "Succeeded");
      const files = await readdir(path.join(hypervisor.directory, ".snapferry", "snapshots"));
      assert.ok(
        files.some((file) => file.includes(kept.id)),
        "the copy on primary is gone in spite of primary.retain",
      );
      await test.call("DELETE", `/snapshots/${kept.id}`);
      await snapshotIn(test, kept.id, ["Destroyed"]);
      assert.deepEqual(await readdir(path.join(hypervisor.directory, ".snapferry", "snapshots")), []);
    } finally {
      await changeSettings(test, {
        "backup.on.failure": "delete",
        "backup.max.attempts": "3",
        "primary.retain": "reference",
      });
    }
  });

  it("because its execution was stopped from outside goes to Error, and garbage collection leaves nothing", async () => {
    const { promise: released, resolve: release } = Promise.withResolvers<void>();
    let held = false;
    store.proxy.fault = (request) => {
      if (!writesPack(request)) return "pass";
      held = true;
      return released;
    };
    const stopped = await snapshot("stopped");
    await eventually("a pack is held up", async () => held);
    await snapshotIn(test, stopped.id, ["BackingUp"]);
    await test.clients.sfn.send(
      new StopExecutionCommand({
        executionArn: `${test.outputs.StateMachineArnPrefix?.replace(":stateMachine:", ":execution:")}backup-snapshot:${stopped.backupJobId}`,
        error: "Operator",
        cause: "stopped by a test",
      }),
    );
    release();
    const snapshotRow = await snapshotIn(test, stopped.id, ["Error"]);
    assert.equal(snapshotRow.error.name, "ExecutionDied");
    await changeSettings(test, { "error.grace": "0" });
    try {
      await collectUntil(test, "the stopped snapshot is collected", async () => {
        const { body } = await test.call("GET", `/snapshots/${stopped.id}`);
        return body.state === "Destroyed" && (await versionsIn(test, store.bucket, "domains/")).length === 0;
      });
    } finally {
      await changeSettings(test, { "error.grace": "3600" });
    }
    await assertNothingLeft(stopped);
  });

  it("because a worker was killed in mid-shard goes on from its checkpoint in the next attempt", async () => {
    const packs: string[] = [];
    const { promise: never, resolve: release } = Promise.withResolvers<void>();
    let checkpoints = 0;
    let held = false;
    store.proxy.fault = (request) => {
      if (writesPack(request)) packs.push(request.path);
      const isCheckpoint = request.method === "PUT" && /\/jobs\/job_\w+\/checkpoints\/\d+-1$/.test(request.path);
      if (isCheckpoint) checkpoints++;
      if (!isCheckpoint || checkpoints < 2) return "pass";
      held = true;
      return never;
    };
    const { id, backupJobId, volumeId } = await snapshot("killed", 150 * MiB);
    await eventually("the second checkpoint is held up", async () => held);
    for (const pid of await workersOf(test, test.outputs.CopyFunctionName)) process.kill(pid, "SIGKILL");
    const job = await endedJob(test, backupJobId, { seconds: 120 });
    release();
    assert.equal(job.state, "Succeeded", JSON.stringify(job));
    assert.equal(job.attempt, 2);
    assert.match(job.attempts[0].error.name, /Runtime\.ExitError|Sandbox|Lambda/);
    const second = new Set(packs.filter((pack) => /\/packs\/job_\w+\/2-/.test(pack))).size;
    const all = Math.ceil(150 / 16);
    assert.ok(second < all, `${second} packs in the second attempt: it began again from the start`);
    await snapshotIn(test, id, ["BackedUp"]);
    assert.notDeepEqual(await packsInStore(), await packsNeededBy({ id, volumeId }), "the killed worker left packs");
    await collectUntil(test, "packs that no checkpoint named are swept", async () =>
      isDeepStrictEqual(await packsInStore(), await packsNeededBy({ id, volumeId })),
    );
    const restored = await test.call("POST", `/snapshots/${id}/restore`, {
      body: { target: { hypervisorId: hypervisor.id, name: "killed-restored" } },
    });
    assert.equal((await endedJob(test, restored.body.job.id)).state, "Succeeded");
    assert.equal(await hypervisor.digest("killed-restored"), await hypervisor.digest("killed"));
  });
});
