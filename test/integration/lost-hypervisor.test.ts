import assert from "node:assert/strict";
import { readdir, rename } from "node:fs/promises";
import path from "node:path";
import { after, before, describe, it } from "node:test";
import { reconcileJob } from "../../lambdas/endings/reconcile.ts";
import type { Services } from "../../lambdas/services.ts";
import { getJob } from "../../lambdas/tables/jobs.ts";
import { cloud, type TestCloud } from "../support/cloud.ts";
import { registerStore, type TestStore, versionsIn } from "../support/stores.ts";
import { endedJob, noise, snapshotIn, TestHypervisor } from "../support/volumes.ts";
import { collectGarbage, collectUntil, servicesOf } from "../support/workflows.ts";

const dayMilliseconds = 86_400_000;

describe("a hypervisor whose directory is gone while a job has something to clean up there", () => {
  let test: TestCloud;
  let hypervisor: TestHypervisor;
  let store: TestStore;
  let services: Services;
  before(async () => {
    test = await cloud();
    hypervisor = await TestHypervisor.register(test);
    store = await registerStore(test);
    services = await servicesOf(test);
  });
  after(async () => {
    await hypervisor?.remove();
    await store?.close();
  });

  const away = () => `${hypervisor.directory}-away`;
  const isOpen = async (jobId: string) => (await getJob(services.database, "acme", jobId))?.open;
  const frozenFiles = (directory: string) => readdir(path.join(directory, ".snapferry", "snapshots"));

  /** A snapshot that is BackedUp, whose frozen file could not be removed: the directory went when its root was being put. */
  async function backedUpWithoutDirectory(name: string) {
    const volumeId = await hypervisor.addVolume(name, 100_000, [{ offset: 0, data: noise(100_000) }]);
    let lost: Promise<void> | undefined;
    store.proxy.fault = (request) => {
      if (request.method !== "PUT" || !request.path.includes("/roots/")) return "pass";
      lost ??= rename(hypervisor.directory, away());
      return lost;
    };
    const { status, body } = await test.call("POST", `/volumes/${volumeId}/snapshots`, { body: { storeId: store.id } });
    assert.equal(status, 202, JSON.stringify(body));
    await snapshotIn(test, body.snapshot.id, ["BackedUp"]);
    const created = await endedJob(test, body.job.id);
    assert.equal(created.state, "Succeeded", JSON.stringify(created));
    store.proxy.fault = () => "pass";
    return { id: body.snapshot.id as string, backupJobId: created.backupJobId as string };
  }

  it("fails no round; the job waits, its work on the store is gone, and the directory's return ends it", async () => {
    const { id, backupJobId } = await backedUpWithoutDirectory("comes-back");
    await collectUntil(test, "all but the frozen file is cleaned up", async () => {
      const left = await versionsIn(test, store.bucket, "domains/");
      return !left.some((key) => key.includes(backupJobId) && key.includes("/jobs/"));
    });
    assert.equal(await isOpen(backupJobId), true);
    assert.equal((await frozenFiles(away())).length, 1);
    await rename(away(), hypervisor.directory);
    await collectUntil(test, "the job is closed", async () => (await isOpen(backupJobId)) === false);
    assert.deepEqual(await frozenFiles(hypervisor.directory), []);
    assert.equal((await test.call("DELETE", `/snapshots/${id}`)).status, 202);
    await snapshotIn(test, id, ["Destroyed"]);
  });

  it("for good: after a day the job is closed, and the hypervisor can be forgotten, which tells what is left", async () => {
    const { id, backupJobId } = await backedUpWithoutDirectory("never-comes-back");
    await collectGarbage(test);
    assert.equal(await isOpen(backupJobId), true);
    const at = (milliseconds: number): Services => ({ ...services, now: () => new Date(Date.now() + milliseconds) });
    const job = { tenant: "acme", id: backupJobId };
    await assert.rejects(
      reconcileJob(at(dayMilliseconds - 60_000), job, () => false),
      { name: "HypervisorMisconfigured" },
    );
    assert.equal(await isOpen(backupJobId), true);
    assert.equal(await reconcileJob(at(dayMilliseconds), job, () => false), true);
    assert.equal(await isOpen(backupJobId), false);
    const forgotten = await test.call("DELETE", `/hypervisors/${hypervisor.id}?force=true`, { role: "admin" });
    assert.equal(forgotten.status, 200, JSON.stringify(forgotten.body));
    assert.ok(forgotten.body.bytesLeftBehind.primary >= 100_000, JSON.stringify(forgotten.body));
    assert.equal((await test.call("DELETE", `/snapshots/${id}`)).status, 202);
    await snapshotIn(test, id, ["Destroyed"]);
    await rename(away(), hypervisor.directory);
  });
});
