import assert from "node:assert/strict";
import { readdir, stat } from "node:fs/promises";
import path from "node:path";
import { after, before, describe, it } from "node:test";
import { cloud, type TestCloud } from "../support/cloud.ts";
import { endedJob, noise, snapshotIn, TestHypervisor } from "../support/volumes.ts";

const MiB = 2 ** 20;

describe("a volume is snapshotted, backed up and restored", () => {
  let test: TestCloud;
  let hypervisor: TestHypervisor;
  before(async () => {
    test = await cloud();
    hypervisor = await TestHypervisor.register(test);
  });
  after(() => hypervisor?.remove());

  /** Snapshot, backup and restore of a volume; answers the backed-up snapshot after comparing every byte. */
  async function roundTrip(name: string, volumeId: string) {
    const created = await test.call("POST", `/volumes/${volumeId}/snapshots`, { body: { name } });
    assert.equal(created.status, 202, JSON.stringify(created.body));
    const snapshot = await snapshotIn(test, created.body.snapshot.id, ["BackedUp", "Error"]);
    assert.equal(snapshot.state, "BackedUp", JSON.stringify(snapshot));
    await restoreAndCompare(name, snapshot.id);
    return snapshot;
  }

  async function restoreAndCompare(name: string, snapshotId: string) {
    const copy = `${name}-restored-${Date.now()}`;
    const { status, body } = await test.call("POST", `/snapshots/${snapshotId}/restore`, {
      body: { target: { hypervisorId: hypervisor.id, name: copy } },
    });
    assert.equal(status, 202, JSON.stringify(body));
    const job = await endedJob(test, body.job.id);
    assert.equal(job.state, "Succeeded", JSON.stringify(job));
    assert.equal(await hypervisor.digest(copy), await hypervisor.digest(name));
  }

  it("asynchronously: the job ends when the snapshot is on primary, and names the job that backs it up", async () => {
    const volumeId = await hypervisor.addVolume("async", 40 * MiB + 123, [
      { offset: 0, data: noise(3 * MiB) },
      { offset: 20 * MiB + 7, data: noise(5 * MiB) },
    ]);
    const created = await test.call("POST", `/volumes/${volumeId}/snapshots`, {
      body: { asyncBackup: true, tags: { purpose: "test" } },
    });
    assert.equal(created.status, 202);
    assert.match(created.headers.get("location") ?? "", new RegExp(`/v1/jobs/${created.body.job.id}$`));
    const job = await endedJob(test, created.body.job.id);
    assert.equal(job.state, "Succeeded");
    assert.match(job.backupJobId, /^job_/);
    const backup = await endedJob(test, job.backupJobId);
    assert.equal(backup.state, "Succeeded");
    assert.equal(backup.progress.bytesDone, backup.progress.bytesTotal);
    const snapshot = await snapshotIn(test, created.body.snapshot.id, ["BackedUp"]);
    assert.equal(snapshot.bytes.logical, 40 * MiB + 123);
    assert.ok(snapshot.bytes.stored >= 8 * MiB && snapshot.bytes.stored < 9 * MiB, String(snapshot.bytes.stored));
    await restoreAndCompare("async", snapshot.id);
  });

  it("synchronously: the job stays open until the backup has ended", async () => {
    const volumeId = await hypervisor.addVolume("sync", 8 * MiB, [{ offset: 1, data: noise(MiB) }]);
    const created = await test.call("POST", `/volumes/${volumeId}/snapshots`, {
      body: {},
      headers: { prefer: "wait=25" },
    });
    const job = await endedJob(test, created.body.job.id);
    assert.equal(job.state, "Succeeded");
    const { body } = await test.call("GET", `/snapshots/${created.body.snapshot.id}`);
    assert.equal(body.state, "BackedUp");
  });

  for (const size of [0, 1, 511, 256 * 1024 - 1, 256 * 1024 + 1])
    it(`of ${size} bytes`, async () => {
      const name = `size-${size}`;
      const volumeId = await hypervisor.addVolume(
        name,
        size,
        size ? [{ offset: size - 1, data: Buffer.from("x") }] : [],
      );
      await roundTrip(name, volumeId);
    });

  it("that is all zeros, written ones", async () => {
    const volumeId = await hypervisor.addVolume("zeros", 3 * MiB, [{ offset: 0, data: Buffer.alloc(3 * MiB) }]);
    const snapshot = await roundTrip("zeros", volumeId);
    assert.ok(snapshot.bytes.stored < 10_000, String(snapshot.bytes.stored));
  });

  it("that is 100 GiB with data at both ends takes room for the data only, on primary, on the store and restored", async () => {
    const size = 100 * 2 ** 30;
    const head = noise(MiB);
    const tail = noise(MiB);
    const volumeId = await hypervisor.addVolume("sparse", size, [
      { offset: 0, data: head },
      { offset: size - tail.length, data: tail },
    ]);
    const created = await test.call("POST", `/volumes/${volumeId}/snapshots`, { body: { name: "sparse" } });
    const snapshot = await snapshotIn(test, created.body.snapshot.id, ["BackedUp", "Error"]);
    assert.equal(snapshot.state, "BackedUp", JSON.stringify(snapshot.error));
    assert.ok(snapshot.bytes.stored < 3 * MiB);
    const { body } = await test.call("POST", `/snapshots/${snapshot.id}/restore`, {
      body: { target: { hypervisorId: hypervisor.id, name: "sparse-restored" } },
    });
    assert.equal((await endedJob(test, body.job.id)).state, "Succeeded");
    const file = path.join(hypervisor.directory, "sparse-restored");
    const { size: restoredSize, blocks } = await stat(file);
    assert.equal(restoredSize, size);
    assert.ok(blocks * 512 < 4 * MiB, `${blocks * 512} bytes allocated`);
    assert.deepEqual(await rangeOf(file, 0, MiB), head);
    assert.deepEqual(await rangeOf(file, size - MiB, MiB), tail);
  });

  it("again and again: what did not change is not stored again, and each snapshot restores to its own bytes", async () => {
    const volumeId = await hypervisor.addVolume("changing", 64 * MiB, [{ offset: 0, data: noise(32 * MiB) }]);
    const first = await roundTrip("changing", volumeId);
    const digest = await hypervisor.digest("changing");
    await hypervisor.change("changing", [{ offset: 5 * MiB, data: noise(1000) }]);
    const second = await roundTrip("changing", volumeId);
    assert.ok(second.bytes.stored < MiB, `${second.bytes.stored} bytes stored for a change of 1,000`);
    const { status } = await test.call("DELETE", `/snapshots/${second.id}`);
    assert.equal(status, 202);
    await snapshotIn(test, second.id, ["Destroyed"]);
    const { body } = await test.call("POST", `/snapshots/${first.id}/restore`, {
      body: { target: { hypervisorId: hypervisor.id, name: "changing-first" } },
    });
    assert.equal((await endedJob(test, body.job.id)).state, "Succeeded");
    assert.equal(await hypervisor.digest("changing-first"), digest);
  });

  it("twice at once: two snapshots of one volume do not disturb each other", async () => {
    const volumeId = await hypervisor.addVolume("twice", 16 * MiB, [{ offset: 0, data: noise(4 * MiB) }]);
    const answers = await Promise.all(
      [1, 2].map(() => test.call("POST", `/volumes/${volumeId}/snapshots`, { body: {} })),
    );
    for (const { body } of answers) {
      assert.equal((await snapshotIn(test, body.snapshot.id, ["BackedUp", "Error"])).state, "BackedUp");
      await restoreAndCompare("twice", body.snapshot.id);
    }
  });

  it("and leaves nothing on primary but the volumes", async () => {
    const { entries } = { entries: await readdir(path.join(hypervisor.directory, ".snapferry", "snapshots")) };
    assert.deepEqual(entries, []);
  });
});

async function rangeOf(file: string, offset: number, length: number): Promise<Buffer> {
  const { open } = await import("node:fs/promises");
  const handle = await open(file);
  try {
    const { buffer } = await handle.read(Buffer.alloc(length), 0, length, offset);
    return buffer;
  } finally {
    await handle.close();
  }
}
