/** What becomes of copies on primary after backups and deletions, with the chains of a real host. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, describe, test } from "node:test";
import { newId } from "../../lambdas/domain/ids.ts";
import { parseSettings } from "../../lambdas/domain/settings.ts";
import type { SnapshotState } from "../../lambdas/domain/snapshot.ts";
import { removePrimary, settlePrimary } from "../../lambdas/endings/remove-primary.ts";
import type { TakenSnapshot } from "../../lambdas/hypervisors/port.ts";
import type { Services } from "../../lambdas/services.ts";
import { MemoryDatabase } from "../support/memory-database.ts";
import { AdapterHost, type KvmSubject } from "./adapter-host.ts";

const MiB = 2 ** 20;
const volume = { tenant: "acme", id: "vol_1" };
const hypervisorId = "hyp_1";
const options = { jobId: "job_1", waitSeconds: 60 };

const host = await AdapterHost.start();
after(() => host[Symbol.asyncDispose]());

/** A volume on the host with its rows. */
class Settled {
  readonly subject: KvmSubject;
  readonly disk: string;
  readonly memory = new MemoryDatabase().put("volumes", { ...volume, backingUp: 0 });
  readonly services: Services;

  private constructor(subject: KvmSubject, disk: string, retention: string) {
    this.subject = subject;
    this.disk = disk;
    const settings = parseSettings({ "primary.retain": retention });
    this.services = {
      database: this.memory.database,
      settings: async () => settings,
      hypervisor: async () => subject.hypervisor,
      now: () => new Date(),
    } as unknown as Services;
  }

  static async on(subject: KvmSubject, retention = "reference"): Promise<Settled> {
    return new Settled(subject, await subject.makeVolume("disk", 16 * MiB), retention);
  }

  /** Writes 64 KiB, and freezes the volume: with the rows of a snapshot in this state. */
  async snapshot(offset: number, state: SnapshotState = "BackedUp"): Promise<TakenSnapshot> {
    await this.subject.writeVolume(this.disk, randomBytes(65_536), offset);
    const snapshotId = newId("snapshot");
    const [taken] = await this.subject.hypervisor.takeSnapshots([{ externalId: this.disk, snapshotId }], {
      quiesce: false,
    });
    assert.ok(taken);
    const { installPath } = taken;
    const rows = { tenant: "acme", volumeId: volume.id, hypervisorId, hypervisorTenant: "acme", storeId: "default" };
    this.memory.put("snapshots", { ...rows, id: snapshotId, state, volumeKey: `acme#${volume.id}` });
    const reference = { tenant: "acme", reference: `${snapshotId}#Primary#${hypervisorId}`, snapshotId, installPath };
    this.memory.put("storeReferences", { ...reference, role: "Primary", storeId: hypervisorId, state: "Ready" });
    return taken;
  }

  row(snapshotId: string) {
    const row = this.memory.get("snapshots", { tenant: "acme", id: snapshotId });
    return { ...row, readers: [] } as unknown as Parameters<typeof settlePrimary>[1];
  }

  settle({ snapshotId }: TakenSnapshot) {
    return settlePrimary(this.services, this.row(snapshotId), options);
  }

  remove({ snapshotId }: TakenSnapshot) {
    return removePrimary(this.services, this.row(snapshotId), options);
  }
}

for (const running of [false, true])
  describe(`copies on primary of a VM that ${running ? "runs" : "is stopped"}`, () => {
    const withVolume = (what: string, retention: string, run: (settled: Settled) => Promise<void>) =>
      test(what, async () => {
        const subject = await host.makeSubject({ running });
        try {
          await run(await Settled.on(subject, retention));
        } finally {
          await subject[Symbol.asyncDispose]();
        }
      });

    withVolume("are one after a backup, which tells the next one its changes", "reference", async (settled) => {
      const { subject } = settled;
      await settled.snapshot(0);
      await settled.snapshot(MiB);
      const reference = await settled.snapshot(2 * MiB);
      assert.equal(await settled.settle(reference), true);
      assert.equal(await subject.countSnapshots(), 1);

      const bytes = await subject.readVolume(settled.disk);
      const next = await settled.snapshot(5 * MiB, "BackingUp");
      const descriptor = await subject.hypervisor.openExport(next);
      const changed = await subject.hypervisor.changedExtents(descriptor, reference);
      assert.ok(changed);
      assert.deepEqual(await Array.fromAsync(changed), [{ offset: 5 * MiB, length: 65_536 }]);
      await subject.hypervisor.closeExport(descriptor);
      assert.ok((await subject.readVolume(settled.disk)).subarray(0, 5 * MiB).equals(bytes.subarray(0, 5 * MiB)));
    });

    withVolume("wait while one of them is read, and go after that", "reference", async (settled) => {
      const { hypervisor } = settled.subject;
      const reference = await settled.snapshot(0);
      const next = await settled.snapshot(MiB);
      const descriptor = await hypervisor.openExport(next);
      assert.equal(await settled.remove(reference), "in-use");
      assert.equal(await settled.settle(next), false);
      assert.equal(await settled.subject.countSnapshots(), 2);
      await hypervisor.closeExport(descriptor);
      assert.equal(await settled.settle(next), true);
      assert.equal(await settled.subject.countSnapshots(), 1);
      assert.equal(await settled.remove(next), "gone");
      assert.equal(await settled.subject.countSnapshots(), 0);
    });

    withVolume(
      "are none where the setting says so, and the volume is one file with its bytes",
      "false",
      async (settled) => {
        const { subject } = settled;
        await settled.snapshot(0);
        const last = await settled.snapshot(MiB);
        await subject.writeVolume(settled.disk, randomBytes(1000), 3 * MiB);
        const bytes = await subject.readVolume(settled.disk);
        assert.equal(await settled.settle(last), true);
        assert.equal(await subject.countSnapshots(), 0);
        assert.equal((await subject.diskOf(settled.disk)).path, settled.disk);
        assert.ok((await subject.readVolume(settled.disk)).equals(bytes));
      },
    );
  });
