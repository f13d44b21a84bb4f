/** What every adapter of `lambdas/hypervisors/port.ts` does. Each kind of hypervisor runs this suite on the real thing. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { afterEach, beforeEach, describe, test } from "node:test";
import { ExportLost, OperationRefused, VolumeNameTaken, VolumeNotFound } from "../../lambdas/domain/errors.ts";
import type {
  ExportDescriptor,
  Extent,
  Hypervisor,
  NewVolume,
  TakenSnapshot,
  VmDescription,
} from "../../lambdas/hypervisors/port.ts";

/** A hypervisor with the means to look at it from the other side. */
export interface HypervisorSubject extends AsyncDisposable {
  readonly hypervisor: Hypervisor;
  /** Makes a volume of zeros that takes no room and returns its externalId. */
  makeVolume(name: string, sizeBytes: number): Promise<string>;
  writeVolume(externalId: string, data: Uint8Array, offset: number): Promise<void>;
  readVolume(externalId: string): Promise<Buffer>;
  /** Ends what has the volume open, where something may have. */
  stopUsing?(externalId: string): Promise<void>;
  /** Frozen states that take room on the hypervisor. */
  countSnapshots(): Promise<number>;
}

export interface HypervisorContractOptions {
  /** Volumes of this hypervisor have sizes that are multiples of this; default 1. */
  readonly sizeGranularity?: number;
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const collected: T[] = [];
  for await (const item of items) collected.push(item);
  return collected;
}

export function hypervisorContract(
  name: string,
  makeSubject: () => Promise<HypervisorSubject>,
  options: HypervisorContractOptions = {},
): void {
  const granularity = options.sizeGranularity ?? 1;
  const rounded = (bytes: number) => Math.ceil(bytes / granularity) * granularity;

  describe(`${name} as a hypervisor`, () => {
    let subject: HypervisorSubject;
    beforeEach(async () => {
      subject = await makeSubject();
    });
    afterEach(async () => {
      await subject[Symbol.asyncDispose]();
    });

    async function snapshot(externalId: string, snapshotId: string): Promise<TakenSnapshot> {
      const [taken] = await subject.hypervisor.takeSnapshots([{ externalId, snapshotId }], { quiesce: false });
      return taken!;
    }

    async function read(descriptor: ExportDescriptor, range: Extent): Promise<Buffer> {
      const target = Buffer.alloc(range.length, 0xff);
      await using reader = await subject.hypervisor.openReader(descriptor);
      await reader.read(target, range.offset);
      return target;
    }

    test("it can be used as it is set up", async () => {
      assert.deepEqual((await subject.hypervisor.check()).warnings, []);
    });

    describe("volumes", () => {
      test("are listed and described with their size", async () => {
        const size = rounded(1_000_003);
        const externalId = await subject.makeVolume("disk-a", size);
        const listed = (await collect(subject.hypervisor.listVolumes())).find(
          (volume) => volume.externalId === externalId,
        );
        assert.equal(listed?.sizeBytes, size);
        assert.equal(listed.unsupported, undefined);
        assert.deepEqual(await subject.hypervisor.describeVolume(externalId), listed);
      });

      test("that are not there are VolumeNotFound", async () => {
        await assert.rejects(subject.hypervisor.describeVolume("no-such-volume"), VolumeNotFound);
        await assert.rejects(snapshot("no-such-volume", "snap_none"), VolumeNotFound);
      });
    });

    describe("a snapshot", () => {
      test("keeps the bytes of its moment while the volume goes on", async () => {
        const size = rounded(300_000);
        const externalId = await subject.makeVolume("disk-a", size);
        const before = randomBytes(size);
        await subject.writeVolume(externalId, before, 0);
        const taken = await snapshot(externalId, "snap_1");
        await subject.writeVolume(externalId, randomBytes(1000), 500);
        const descriptor = await subject.hypervisor.openExport(taken);
        assert.equal(descriptor.sizeBytes, size);
        assert.deepEqual(await read(descriptor, { offset: 0, length: size }), before);
        await subject.hypervisor.closeExport(descriptor);
      });

      test("lies where it was announced to lie", async () => {
        const externalId = await subject.makeVolume("disk-a", rounded(4096));
        const planned = subject.hypervisor.plannedInstallPath({ externalId, snapshotId: "snap_1" });
        assert.equal((await snapshot(externalId, "snap_1")).installPath, planned);
      });

      test("that exists already is returned as it is", async () => {
        const externalId = await subject.makeVolume("disk-a", rounded(4096));
        await subject.writeVolume(externalId, Buffer.from("before"), 0);
        const first = await snapshot(externalId, "snap_1");
        await subject.writeVolume(externalId, Buffer.from("after."), 0);
        assert.deepEqual(await snapshot(externalId, "snap_1"), first);
        const descriptor = await subject.hypervisor.openExport(first);
        assert.equal((await read(descriptor, { offset: 0, length: 6 })).toString(), "before");
      });

      test("of several volumes is made of all of them or of none", async () => {
        const a = await subject.makeVolume("disk-a", rounded(4096));
        const b = await subject.makeVolume("disk-b", rounded(8192));
        const requests = [a, b].map((externalId, n) => ({ externalId, snapshotId: `snap_${n}` }));
        const taken = await subject.hypervisor.takeSnapshots(requests, { quiesce: false });
        assert.deepEqual(
          taken.map((one) => [one.snapshotId, one.sizeBytes]),
          [
            ["snap_0", rounded(4096)],
            ["snap_1", rounded(8192)],
          ],
        );
        for (const { installPath } of taken) await subject.hypervisor.deleteSnapshot(installPath);
        const withMissing = [...requests, { externalId: "no-such-volume", snapshotId: "snap_2" }];
        await assert.rejects(subject.hypervisor.takeSnapshots(withMissing, { quiesce: false }), VolumeNotFound);
        assert.equal(await subject.countSnapshots(), 0);
      });

      test("taken twice at once is one snapshot", async () => {
        const externalId = await subject.makeVolume("disk-a", rounded(1_000_000));
        await subject.writeVolume(externalId, randomBytes(1_000_000), 0);
        const [one, other] = await Promise.all([snapshot(externalId, "snap_1"), snapshot(externalId, "snap_1")]);
        assert.deepEqual(one, other);
        assert.equal(await subject.countSnapshots(), 1);
      });

      test("is deleted; gone is success; reading it then is ExportLost", async () => {
        const externalId = await subject.makeVolume("disk-a", rounded(4096));
        const taken = await snapshot(externalId, "snap_1");
        await subject.hypervisor.deleteSnapshot(taken.installPath);
        await subject.hypervisor.deleteSnapshot(taken.installPath);
        assert.equal(await subject.countSnapshots(), 0);
        await assert.rejects(subject.hypervisor.openExport(taken), ExportLost);
      });
    });

    test("all snapshots of a volume are deleted at once where they are parts of it, and none of another", async (t) => {
      if (!subject.hypervisor.deleteAllSnapshots) return t.skip("copies lie apart from their volumes");
      const [externalId, other] = [await subject.makeVolume("disk-a", 8192), await subject.makeVolume("disk-b", 8192)];
      for (const snapshotId of ["snap_1", "snap_2"]) {
        await snapshot(externalId, snapshotId);
        await subject.writeVolume(externalId, randomBytes(512), 4096);
      }
      await snapshot(other, "snap_3");
      const content = await subject.readVolume(externalId);
      for (const _ of [1, 2]) {
        assert.deepEqual(await subject.hypervisor.deleteAllSnapshots(externalId), { finished: true });
        assert.equal(await subject.countSnapshots(), 1);
        assert.deepEqual(await subject.readVolume(externalId), content);
      }
    });

    describe("an export", () => {
      test("is plain JSON that other processes can go on with, and closes twice", async () => {
        const externalId = await subject.makeVolume("disk-a", rounded(4096));
        await subject.writeVolume(externalId, Buffer.from("content"), 100);
        const taken = await snapshot(externalId, "snap_1");
        const descriptor: ExportDescriptor = JSON.parse(JSON.stringify(await subject.hypervisor.openExport(taken)));
        assert.equal(descriptor.kind, subject.hypervisor.kind);
        assert.equal((await read(descriptor, { offset: 100, length: 7 })).toString(), "content");
        await subject.hypervisor.closeExport(descriptor);
        await subject.hypervisor.closeExport(descriptor);
      });

      test("tells extents in order that hold all that is not zero", async () => {
        const mebibyte = 1024 * 1024;
        const externalId = await subject.makeVolume("disk-a", 64 * mebibyte);
        for (const at of [0, 10, 40]) await subject.writeVolume(externalId, randomBytes(mebibyte), at * mebibyte);
        const descriptor = await subject.hypervisor.openExport(await snapshot(externalId, "snap_1"));
        const extents = await collect(subject.hypervisor.extents(descriptor, { offset: 0, length: 64 * mebibyte }));
        let end = 0;
        for (const extent of extents) {
          assert.ok(extent.length > 0 && extent.offset >= end);
          end = extent.offset + extent.length;
        }
        assert.ok(end <= 64 * mebibyte);
        for (const at of [0, 10, 40]) assert.ok(isCovered(extents, at * mebibyte, mebibyte));
        const part = await collect(
          subject.hypervisor.extents(descriptor, { offset: 10.5 * mebibyte, length: mebibyte }),
        );
        assert.ok(part.every(({ offset, length }) => offset >= 10.5 * mebibyte && offset + length <= 11.5 * mebibyte));
        assert.ok(isCovered(part, 10.5 * mebibyte, 0.5 * mebibyte));
        await subject.hypervisor.closeExport(descriptor);
      });

      test("of a volume without bytes has no extents", async () => {
        const externalId = await subject.makeVolume("disk-a", 0);
        const descriptor = await subject.hypervisor.openExport(await snapshot(externalId, "snap_1"));
        assert.equal(descriptor.sizeBytes, 0);
        assert.deepEqual(await collect(subject.hypervisor.extents(descriptor, { offset: 0, length: 0 })), []);
      });

      test("is read by several readers at once", async () => {
        const size = rounded(200_000);
        const externalId = await subject.makeVolume("disk-a", size);
        const content = randomBytes(size);
        await subject.writeVolume(externalId, content, 0);
        const descriptor = await subject.hypervisor.openExport(await snapshot(externalId, "snap_1"));
        const offsets = [0, 50_000, 100_000, 150_000];
        const parts = await Promise.all(offsets.map((offset) => read(descriptor, { offset, length: 50_000 })));
        assert.deepEqual(Buffer.concat(parts), content.subarray(0, 200_000));
      });

      test("of each of several volumes is read at the same time", async () => {
        const size = rounded(500_000);
        const contents = [randomBytes(size), randomBytes(size), randomBytes(size)];
        const requests = [];
        for (const [n, content] of contents.entries()) {
          const externalId = await subject.makeVolume(`disk-${n}`, size);
          await subject.writeVolume(externalId, content, 0);
          requests.push({ externalId, snapshotId: `snap_${n}` });
        }
        const taken = await subject.hypervisor.takeSnapshots(requests, { quiesce: false });
        for (const { externalId } of requests) await subject.writeVolume(externalId, randomBytes(1000), 1000);
        const descriptors = await Promise.all(taken.map((one) => subject.hypervisor.openExport(one)));
        const bytes = await Promise.all(descriptors.map((one) => read(one, { offset: 0, length: size })));
        assert.deepEqual(bytes, contents);
        await Promise.all(descriptors.map((one) => subject.hypervisor.closeExport(one)));
      });

      test("that is read past its end is ExportLost", async () => {
        const externalId = await subject.makeVolume("disk-a", rounded(4096));
        const descriptor = await subject.hypervisor.openExport(await snapshot(externalId, "snap_1"));
        await assert.rejects(read(descriptor, { offset: rounded(4096) - 10, length: 20 }), ExportLost);
      });
    });

    describe("change tracking", () => {
      const size = rounded(6_000_000);

      async function changes(descriptor: ExportDescriptor, since: TakenSnapshot): Promise<Extent[] | undefined> {
        const extents = await subject.hypervisor.changedExtents?.(descriptor, since);
        return extents && collect(extents);
      }

      async function bytesOf(taken: TakenSnapshot): Promise<Buffer> {
        const descriptor = await subject.hypervisor.openExport(taken);
        return read(descriptor, { offset: 0, length: descriptor.sizeBytes });
      }

      /** Every byte that differs is in an extent; extents are in order and inside the volume. */
      function assertCovered(extents: readonly Extent[], before: Buffer, after: Buffer): void {
        let end = 0;
        for (const extent of extents) {
          assert.ok(extent.length > 0 && extent.offset >= end, "out of order, or overlapping");
          assert.deepEqual(after.subarray(end, extent.offset), before.subarray(end, extent.offset));
          end = extent.offset + extent.length;
        }
        assert.ok(end <= after.length, "outside of the volume");
        assert.deepEqual(after.subarray(end), before.subarray(end));
      }

      test("is offered by those who say so, and by nobody else", () => {
        assert.equal(subject.hypervisor.changedExtents !== undefined, subject.hypervisor.capabilities.changeTracking);
      });

      test("tells every byte that differs from each earlier snapshot, those that became zeros too", async (t) => {
        if (!subject.hypervisor.capabilities.changeTracking) return t.skip("changes are not tracked");
        const externalId = await subject.makeVolume("disk-a", size);
        await subject.writeVolume(externalId, randomBytes(2_000_000), 0);
        const first = await snapshot(externalId, "snap_1");
        await subject.writeVolume(externalId, randomBytes(70_000), 1_000_001);
        await subject.writeVolume(externalId, randomBytes(10), 5_000_000);
        const second = await snapshot(externalId, "snap_2");
        await subject.writeVolume(externalId, Buffer.alloc(300_000), 900_000);
        await subject.writeVolume(externalId, randomBytes(1), size - 1);
        const third = await snapshot(externalId, "snap_3");
        const bytes = [await bytesOf(first), await bytesOf(second), await bytesOf(third)] as const;
        const descriptor = await subject.hypervisor.openExport(third);
        const sinceFirst = await changes(descriptor, first);
        const sinceSecond = await changes(descriptor, second);
        assert.ok(sinceFirst && sinceSecond, "it cannot tell, with nothing in the way");
        assertCovered(sinceFirst, bytes[0], bytes[2]);
        assertCovered(sinceSecond, bytes[1], bytes[2]);
        const told = sinceSecond.reduce((sum, { length }) => sum + length, 0);
        assert.ok(told < size / 2, `${told} of ${size} bytes are told for a change of 300,001`);
        await subject.hypervisor.closeExport(descriptor);
      });

      test("tells nothing against a snapshot that it never saw, or a later one", async (t) => {
        if (!subject.hypervisor.capabilities.changeTracking) return t.skip("changes are not tracked");
        const externalId = await subject.makeVolume("disk-a", size);
        const first = await snapshot(externalId, "snap_1");
        await subject.writeVolume(externalId, randomBytes(1000), 0);
        const second = await snapshot(externalId, "snap_2");
        const installPath = subject.hypervisor.plannedInstallPath({ externalId, snapshotId: "snap_unknown" });
        const descriptor = await subject.hypervisor.openExport(second);
        assert.equal(await changes(descriptor, { ...first, snapshotId: "snap_unknown", installPath }), undefined);
        assert.equal(await changes(await subject.hypervisor.openExport(first), second), undefined);
      });
    });

    describe("a restored volume", () => {
      const volume: NewVolume = { restoreId: "job_1", name: "restored-disk", sizeBytes: rounded(2_000_001) };

      async function fill(content: Uint8Array, offset: number): Promise<void> {
        await using writer = await subject.hypervisor.openWriter(volume);
        await writer.write(content, offset);
        await writer.flush();
      }

      async function names(): Promise<string[]> {
        return (await collect(subject.hypervisor.listVolumes())).map((one) => one.name);
      }

      test("is seen once it is published, with what was written and zeros elsewhere", async () => {
        await subject.hypervisor.createVolume(volume);
        await fill(Buffer.from("somewhere"), 1_000_000);
        await fill(Buffer.from("at the end"), volume.sizeBytes - 10);
        assert.deepEqual(await names(), []);
        const published = await subject.hypervisor.publishVolume(volume);
        assert.equal(published.name, volume.name);
        assert.equal(published.sizeBytes, volume.sizeBytes);
        assert.deepEqual(await names(), [volume.name]);
        const expected = Buffer.alloc(volume.sizeBytes);
        expected.write("somewhere", 1_000_000);
        expected.write("at the end", volume.sizeBytes - 10);
        assert.deepEqual(await subject.readVolume(published.externalId), expected);
      });

      test("is created and published twice with the same outcome", async () => {
        await subject.hypervisor.createVolume(volume);
        await fill(Buffer.from("kept"), 0);
        await subject.hypervisor.createVolume(volume);
        const first = await subject.hypervisor.publishVolume(volume);
        assert.deepEqual(await subject.hypervisor.publishVolume(volume), first);
        assert.equal((await subject.readVolume(first.externalId)).toString("utf8", 0, 4), "kept");
      });

      test("never takes the name of another volume", async () => {
        const other = await subject.makeVolume(volume.name, rounded(4096));
        await assert.rejects(subject.hypervisor.createVolume(volume), VolumeNameTaken);
        assert.equal((await subject.readVolume(other)).length, rounded(4096));
      });

      test("does not overwrite a volume that got the name meanwhile", async () => {
        await subject.hypervisor.createVolume(volume);
        const other = await subject.makeVolume(volume.name, rounded(4096));
        await assert.rejects(subject.hypervisor.publishVolume(volume), VolumeNameTaken);
        assert.equal((await subject.readVolume(other)).length, rounded(4096));
      });

      test("can be discarded, twice, before it is published", async () => {
        await subject.hypervisor.createVolume(volume);
        await subject.hypervisor.discardVolume(volume);
        await subject.hypervisor.discardVolume(volume);
        assert.deepEqual(await names(), []);
        await subject.hypervisor.createVolume(volume);
        await subject.hypervisor.publishVolume(volume);
      });

      test("is left alone by a discard once it is published", async () => {
        await subject.hypervisor.createVolume(volume);
        await subject.hypervisor.publishVolume(volume);
        await subject.hypervisor.discardVolume(volume);
        assert.deepEqual(await names(), [volume.name]);
      });
    });

    describe("a VM", () => {
      test("is described by itself as it is listed; gone is undefined", async (t) => {
        const { hypervisor } = subject;
        assert.equal(hypervisor.describeVm !== undefined, hypervisor.listVms !== undefined);
        if (!hypervisor.listVms || !hypervisor.describeVm) return t.skip("there are no VMs");
        for (const name of ["disk-a", "disk-b"]) await subject.makeVolume(name, rounded(4096));
        const listed = await collect(hypervisor.listVms());
        assert.equal(listed.length, 2);
        for (const vm of listed) assert.deepEqual(await hypervisor.describeVm(vm.externalId), vm);
        assert.equal(await hypervisor.describeVm("00000000-0000-4000-8000-000000000000"), undefined);
      });
    });

    describe("a VM's definition", () => {
      const restored: NewVolume = { restoreId: "job_2", name: "restored-disk", sizeBytes: rounded(4096) };

      async function vms(): Promise<VmDescription[]> {
        return subject.hypervisor.listVms ? collect(subject.hypervisor.listVms()) : [];
      }

      async function restoredVolume(): Promise<string> {
        await subject.hypervisor.createVolume(restored);
        return (await subject.hypervisor.publishVolume(restored)).externalId;
      }

      test("comes with a snapshot, and makes VMs, where there are VMs and nowhere else", async () => {
        const { hypervisor } = subject;
        assert.equal(hypervisor.defineVm !== undefined, hypervisor.listVms !== undefined);
        const { vm } = await snapshot(await subject.makeVolume("disk-a", rounded(4096)), "snap_1");
        assert.equal(vm !== undefined, hypervisor.listVms !== undefined);
      });

      test("makes another VM that has the restored volume as the disk and does not run, once", async (t) => {
        const { hypervisor } = subject;
        if (!hypervisor.defineVm) return t.skip("there are no VMs");
        const { vm } = await snapshot(await subject.makeVolume("disk-a", rounded(4096)), "snap_1");
        const before = await vms();
        const source = before.find(({ externalId }) => externalId === vm?.externalId);
        assert.ok(vm && source);
        assert.deepEqual([source.name, source.disks[0]?.target], [vm.name, vm.target]);
        const { definition, target } = vm;
        const wanted = { name: "another", definition, target, volumeExternalId: await restoredVolume() };
        const externalId = await hypervisor.defineVm(wanted);
        assert.equal(await hypervisor.defineVm(wanted), externalId);
        const [made, ...others] = (await vms()).filter(
          (one) => !before.some((old) => old.externalId === one.externalId),
        );
        const { volumeExternalId } = wanted;
        assert.deepEqual(
          [made?.externalId, made?.name, made?.state, made?.disks, others],
          [externalId, "another", "stopped", [{ target, volumeExternalId }], []],
        );
        assert.equal((await hypervisor.describeVolume(volumeExternalId)).unsupported, undefined);
      });

      test("makes no VM of a name, or with a disk, that another VM has", async (t) => {
        const { hypervisor } = subject;
        if (!hypervisor.defineVm) return t.skip("there are no VMs");
        const taken = await subject.makeVolume("disk-a", rounded(4096));
        const { vm } = await snapshot(taken, "snap_1");
        assert.ok(vm);
        const before = await vms();
        const free = await restoredVolume();
        for (const change of [{ volumeExternalId: free }, { volumeExternalId: taken, name: "another" }])
          await assert.rejects(hypervisor.defineVm({ ...vm, ...change }), OperationRefused);
        assert.deepEqual(await vms(), before);
      });
    });

    describe("a volume that is restored in place", () => {
      const sizeBytes = rounded(300_000);
      const before = randomBytes(sizeBytes);
      const after = randomBytes(sizeBytes);

      /** With bytes that are written and not published yet. */
      async function begun(size = sizeBytes): Promise<NewVolume & { replaces: string }> {
        const replaces = await subject.makeVolume("disk-a", sizeBytes);
        await subject.writeVolume(replaces, before, 0);
        const volume = { restoreId: "job_1", name: "disk-a", sizeBytes: size, replaces };
        if ((await subject.hypervisor.describeVolume(replaces)).inUse) {
          await assert.rejects(subject.hypervisor.createVolume(volume), OperationRefused);
          await subject.stopUsing?.(replaces);
        }
        await subject.hypervisor.createVolume(volume);
        await subject.hypervisor.createVolume(volume);
        await using writer = await subject.hypervisor.openWriter(volume);
        await writer.write(after.subarray(0, size), 0);
        await writer.flush();
        return volume;
      }

      async function only(externalId: string): Promise<void> {
        const listed = await collect(subject.hypervisor.listVolumes());
        assert.deepEqual(
          listed.map((one) => one.externalId),
          [externalId],
        );
      }

      test("is as it was until it is published, then it is what was written, and the same volume", async () => {
        const volume = await begun();
        assert.deepEqual(await subject.readVolume(volume.replaces), before);
        const published = await subject.hypervisor.publishVolume(volume);
        assert.equal(published.externalId, volume.replaces);
        assert.deepEqual(await subject.hypervisor.publishVolume(volume), published);
        assert.deepEqual(await subject.readVolume(volume.replaces), after);
        await only(volume.replaces);
        for (const _ of [1, 2]) await subject.hypervisor.forgetReplaced(volume);
        assert.deepEqual(await subject.readVolume(volume.replaces), after);
        await only(volume.replaces);
        await subject.writeVolume(volume.replaces, Buffer.from("used"), 0);
      });

      test("gets the size of what was written", async () => {
        const volume = await begun(sizeBytes - 4096);
        assert.equal((await subject.hypervisor.publishVolume(volume)).sizeBytes, sizeBytes - 4096);
        await subject.hypervisor.forgetReplaced(volume);
      });

      for (const published of [false, true])
        test(`is as it was when that is discarded ${published ? "after" : "before"} it was published`, async () => {
          const volume = await begun();
          if (published) await subject.hypervisor.publishVolume(volume);
          for (const _ of [1, 2]) await subject.hypervisor.discardVolume(volume);
          assert.deepEqual(await subject.readVolume(volume.replaces), before);
          await only(volume.replaces);
          await assert.rejects(subject.hypervisor.publishVolume(volume), VolumeNotFound);
          assert.deepEqual(await subject.readVolume(volume.replaces), before);
          await subject.writeVolume(volume.replaces, Buffer.from("used"), 0);
        });

      test("must be there", async () => {
        const replaces = await subject.makeVolume("disk-a", sizeBytes);
        const volume = { restoreId: "job_1", name: "gone", sizeBytes, replaces: `${replaces}-gone` };
        await assert.rejects(subject.hypervisor.createVolume(volume), VolumeNotFound);
      });
    });
  });
}

function isCovered(extents: readonly Extent[], offset: number, length: number): boolean {
  let position = offset;
  for (const extent of extents) {
    if (extent.offset <= position) position = Math.max(position, extent.offset + extent.length);
  }
  return position >= offset + length;
}
