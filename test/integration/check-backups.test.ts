import assert from "node:assert/strict";
import { after, afterEach, before, describe, it } from "node:test";
import { DeleteObjectCommand, GetObjectCommand, ListObjectsV2Command, PutObjectCommand } from "@aws-sdk/client-s3";
import type { Snapshot } from "../../lambdas/domain/snapshot.ts";
import type { Services } from "../../lambdas/services.ts";
import { getSnapshot } from "../../lambdas/tables/snapshots.ts";
import { cloud, eventually, type TestCloud } from "../support/cloud.ts";
import { registerStore, type TestStore } from "../support/stores.ts";
import { noise, snapshotIn, TestHypervisor } from "../support/volumes.ts";
import { changeSettings, runMachine, servicesOf } from "../support/workflows.ts";

const MiB = 2 ** 20;

describe("the scheduled check of backups", () => {
  let test: TestCloud;
  let hypervisor: TestHypervisor;
  let store: TestStore;
  let services: Services;
  before(async () => {
    test = await cloud();
    hypervisor = await TestHypervisor.register(test);
    store = await registerStore(test);
    services = await servicesOf(test);
    await changeSettings(test, { "verify.sample.percent": "100" });
  });
  afterEach(() => {
    store.proxy.fault = () => "pass";
  });
  after(async () => {
    await changeSettings(test, { "verify.sample.percent": "1" });
    await hypervisor?.remove();
    await store?.close();
  });

  async function backup(name: string): Promise<string> {
    const volumeId = await hypervisor.addVolume(name, 5 * MiB, [{ offset: MiB, data: noise(2 * MiB) }]);
    const { status, body } = await test.call("POST", `/volumes/${volumeId}/snapshots`, { body: { storeId: store.id } });
    assert.equal(status, 202, JSON.stringify(body));
    await snapshotIn(test, body.snapshot.id, ["BackedUp"]);
    return body.snapshot.id;
  }

  const row = async (id: string): Promise<Snapshot> =>
    (await getSnapshot(services.database, "acme", id)) ?? assert.fail(`${id} is gone`);

  async function remove(id: string): Promise<void> {
    await eventually(`${id} is deleted`, async () => (await test.call("DELETE", `/snapshots/${id}`)).status === 202);
    await snapshotIn(test, id, ["Destroyed"]);
  }

  /** The only pack in the store's bucket. */
  async function onlyPack(): Promise<string> {
    const { Contents = [] } = await test.clients.s3.send(new ListObjectsV2Command({ Bucket: store.bucket }));
    const packs = Contents.map(({ Key }) => Key ?? "").filter((key) => key.includes("/packs/"));
    assert.equal(packs.length, 1, packs.join());
    return packs[0] ?? "";
  }

  it("reads what it samples and says how much; two runs at once look at each backup once", async () => {
    const id = await backup("whole");
    const startedAt = new Date().toISOString();
    let reads = 0;
    store.proxy.fault = ({ method, path }) => {
      if (method === "GET" && path.includes("/packs/")) reads++;
      return "pass";
    };
    await runMachine(test, "check-backups");
    const { lastCheck, state } = await row(id);
    assert.equal(state, "BackedUp");
    assert.equal(lastCheck?.result, "intact");
    assert.ok(lastCheck.at > startedAt && lastCheck.checkedBytes >= 2 * MiB, JSON.stringify(lastCheck));
    const readsOfOneRun = reads;
    assert.ok(readsOfOneRun > 0);
    reads = 0;
    await Promise.all([runMachine(test, "check-backups"), runMachine(test, "check-backups")]);
    assert.equal(reads, readsOfOneRun);
    await remove(id);
  });

  it("finds a byte that has changed, and an object that is gone, and names the object and the range", async () => {
    const id = await backup("damaged");
    const Bucket = store.bucket;
    const Key = await onlyPack();
    const { Body } = await test.clients.s3.send(new GetObjectCommand({ Bucket, Key }));
    const bytes = await (Body ?? assert.fail("no body")).transformToByteArray();
    bytes[1000] = (bytes[1000] ?? 0) ^ 1;
    await test.clients.s3.send(new PutObjectCommand({ Bucket, Key, Body: bytes }));
    await runMachine(test, "check-backups");
    const changed = (await row(id)).lastCheck;
    assert.equal(changed?.result, "damaged");
    assert.match(changed.lost?.join() ?? "", new RegExp(`${Key.split("/").at(-1)}.*Bytes \\d+-\\d+`));
    await test.clients.s3.send(new DeleteObjectCommand({ Bucket, Key }));
    await runMachine(test, "check-backups");
    const gone = (await row(id)).lastCheck;
    assert.equal(gone?.result, "damaged");
    assert.match(gone.lost?.join() ?? "", new RegExp(Key.split("/").at(-1) ?? ""));
    assert.ok(gone.at > changed.at);
    await remove(id);
  });

  it("does not hold up a deletion, and takes what a deletion removes for no damage", async () => {
    const id = await backup("deleted");
    const { promise: held, resolve: release } = Promise.withResolvers<void>();
    let reading = false;
    store.proxy.fault = ({ method, path }) => {
      if (method !== "GET" || !path.includes("/packs/")) return "pass";
      reading = true;
      return held;
    };
    const run = runMachine(test, "check-backups");
    await eventually("the check reads", async () => reading);
    await remove(id);
    release();
    await run;
    assert.equal((await row(id)).lastCheck, undefined);
  });

  it("leaves a backup whose store is out of reach for the next run", async () => {
    const id = await backup("unreachable");
    store.proxy.fault = () => "unavailable";
    await runMachine(test, "check-backups");
    assert.equal((await row(id)).lastCheck, undefined);
    store.proxy.fault = () => "pass";
    await runMachine(test, "check-backups");
    assert.equal((await row(id)).lastCheck?.result, "intact");
    await remove(id);
  });
});
