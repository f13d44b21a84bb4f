import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { after, before, describe, it } from "node:test";
import type { BackupPolicy } from "../../lambdas/domain/job.ts";
import { FileHypervisor } from "../../lambdas/hypervisors/file/file-hypervisor.ts";
import type { Extent } from "../../lambdas/hypervisors/port.ts";
import type { Services } from "../../lambdas/services.ts";
import { getProgress } from "../../lambdas/tables/progress.ts";
import { getSnapshot } from "../../lambdas/tables/snapshots.ts";
import { storeReferencesOf } from "../../lambdas/tables/store-references.ts";
import { cloud, type TestCloud } from "../support/cloud.ts";
import { backUpInProcess } from "../support/in-process-backup.ts";
import { TrackingHypervisor } from "../support/tracking-hypervisor.ts";
import { endedJob, noise, TestHypervisor } from "../support/volumes.ts";
import { servicesOf } from "../support/workflows.ts";

const MiB = 2 ** 20;
const size = 48 * MiB + 777;

describe("a backup on a hypervisor that tracks changes", () => {
  let test: TestCloud;
  let directory: TestHypervisor;
  let services: Services;
  before(async () => {
    test = await cloud();
    directory = await TestHypervisor.register(test);
    const deployed = await servicesOf(test);
    services = { ...deployed, settings: async () => ({ ...(await deployed.settings()), hintAuditPercent: 100 }) };
  });
  after(() => directory?.remove());

  /** A volume with a first, full backup, whose changes are tracked from then on. */
  async function trackedVolume(name: string) {
    const volumeId = await directory.addVolume(name, size, [
      { offset: 0, data: noise(20 * MiB) },
      { offset: size - MiB, data: noise(MiB) },
    ]);
    const hypervisor = new TrackingHypervisor(
      new FileHypervisor({ directory: directory.directory, allowedRoots: [directory.directory] }),
    );
    let restores = 0;
    const volume = {
      hypervisor,
      async change(...ranges: Extent[]) {
        for (const range of ranges) hypervisor.recordWrite(name, range);
        await directory.change(
          name,
          ranges.map(({ offset, length }) => ({ offset, data: noise(length) })),
        );
      },
      backUp: (policy: Partial<BackupPolicy> = {}) =>
        backUpInProcess(services, hypervisor, { volumeId, externalId: name, hypervisorId: directory.id, policy }),
      bytesToRead: async (jobId: string) => (await getProgress(services.database, jobId))?.bytesTotal ?? Number.NaN,
      async assertRestores(snapshotId: string) {
        const copy = `${name}-restored-${restores++}`;
        const { status, body } = await test.call("POST", `/snapshots/${snapshotId}/restore`, {
          body: { target: { hypervisorId: directory.id, name: copy } },
        });
        assert.equal(status, 202, JSON.stringify(body));
        const job = await endedJob(test, body.job.id);
        assert.equal(job.state, "Succeeded", JSON.stringify(job));
        assert.equal(await directory.digest(copy), await directory.digest(name));
      },
    };
    const { job } = await volume.backUp();
    assert.equal(job.state, "Succeeded");
    assert.deepEqual([job.backup?.kind, job.backup?.reading], ["full", "everything"]);
    return { ...volume, first: job.snapshotId };
  }

  it("reads what changed and audits the rest, and is the volume", async () => {
    const volume = await trackedVolume("tracked");
    await volume.change({ offset: 5 * MiB + 100, length: 1000 }, { offset: 30 * MiB, length: 2 * MiB });
    const { job, states } = await volume.backUp();
    assert.deepEqual(job.backup, { kind: "incremental", base: volume.first, reading: "changed" });
    const bytes = await volume.bytesToRead(job.id);
    assert.ok(bytes >= 2 * MiB + 1000 && bytes < 8 * MiB, `${bytes} bytes to read for 2 MiB that changed`);
    assert.ok(states.indexOf("AuditHint") > states.indexOf("CopyShard"));
    assert.ok(states.indexOf("AuditHint") < states.indexOf("Verify"));
    assert.deepEqual(job.attempts, []);
    await volume.assertRestores(job.snapshotId);
  });

  it("of which nothing changed copies nothing, audits, and is the volume", async () => {
    const volume = await trackedVolume("unchanged");
    const { job, states } = await volume.backUp();
    assert.equal(job.backup?.reading, "changed");
    assert.ok(!states.includes("CopyShard") && states.includes("AuditHint"), states.join());
    await volume.assertRestores(job.snapshotId);
  });

  it("that tells a change too little: the audit finds it, the next attempt reads everything, and is the volume", async () => {
    const volume = await trackedVolume("untold");
    const untold = { offset: 12 * MiB + 5, length: 3 };
    await volume.change({ offset: MiB, length: 50_000 }, untold);
    volume.hypervisor.distort = (changed) => changed.filter(({ offset }) => offset !== untold.offset);
    const { job } = await volume.backUp();
    assert.equal(job.state, "Succeeded");
    assert.equal(job.attempt, 2);
    assert.deepEqual(
      job.attempts.map(({ attempt, error }) => [attempt, error.name]),
      [[1, "HintMismatch"]],
    );
    assert.equal(job.backup?.kind, "incremental");
    assert.equal(job.backup?.reading, "everything");
    assert.match(job.backup?.reason ?? "", /attempt 1/);
    const snapshot = await getSnapshot(services.database, "acme", job.snapshotId);
    assert.equal(snapshot?.state, "BackedUp");
    assert.deepEqual([snapshot.hintMismatch?.jobId, snapshot.hintMismatch?.attempt], [job.id, 1]);
    await volume.assertRestores(job.snapshotId);
  });

  it("that cannot tell, because tracking was reset, reads everything and says why", async () => {
    const volume = await trackedVolume("reset");
    await volume.change({ offset: 7 * MiB, length: 10 });
    volume.hypervisor.resetTracking();
    const { job, states } = await volume.backUp();
    assert.deepEqual([job.backup?.kind, job.backup?.reading], ["incremental", "everything"]);
    assert.match(job.backup?.reason ?? "", /cannot tell/);
    assert.ok(!states.includes("AuditHint"));
    await volume.assertRestores(job.snapshotId);
  });

  it("leaves its copy on primary as the reference of the next one, and takes the one before away", async () => {
    const volume = await trackedVolume("reference");
    const [reference] = await referencesTo(volume.first);
    assert.equal(reference?.state, "Ready");
    const { job } = await volume.backUp();
    assert.equal(job.backup?.reading, "changed");
    assert.deepEqual(await referencesTo(volume.first), []);
    const [next] = await referencesTo(job.snapshotId);
    assert.equal(next?.state, "Ready");
    assert.deepEqual([existsSync(reference.installPath), existsSync(next.installPath)], [false, true]);
    assert.equal((await getSnapshot(services.database, "acme", volume.first))?.physicalBytes, 0);
    await volume.assertRestores(job.snapshotId);
  });

  /** To bytes on primary. */
  const referencesTo = async (snapshotId: string) =>
    (await storeReferencesOf(services.database, "acme", snapshotId)).filter(({ role }) => role === "Primary");

  it("that is asked for in full builds on nothing and reads everything", async () => {
    const volume = await trackedVolume("in-full");
    const { job, states } = await volume.backUp({ full: true, verify: "full" });
    assert.deepEqual([job.backup?.kind, job.backup?.reading, job.backup?.base], ["full", "everything", undefined]);
    assert.ok(!states.includes("AuditHint"));
    assert.ok((await volume.bytesToRead(job.id)) >= 21 * MiB);
    await volume.assertRestores(job.snapshotId);
  });
});
