/** Volumes that are restored: made, written by several workers at once, and published under their name. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { after, describe, test } from "node:test";
import {
  HypervisorUnavailable,
  OperationRefused,
  PrimaryStorageFull,
  VolumeNameTaken,
  VolumeNotFound,
} from "../../lambdas/domain/errors.ts";
import { RestoredVolume } from "../../lambdas/hypervisors/kvm/restored-volume.ts";
import type { NewVolume, VolumeWriter } from "../../lambdas/hypervisors/port.ts";
import { run } from "../../local/kvm-host/processes.ts";
import { Lab } from "./merge-lab.ts";
import { assertNothingLost, diskBytes, makeWritingDisk, untilWritten } from "./writing-guest.ts";

const lab = await Lab.start();
const images = lab.folder.file("images");
await definePool("default", images);
after(() => lab[Symbol.asyncDispose]());

const mib = 1024 * 1024;
let count = 0;

async function definePool(name: string, path: string): Promise<void> {
  const xml = `<pool type='dir'><name>${name}</name><target><path>${path}</path></target></pool>`;
  const { pool } = await lab.libvirt.call("poolDefineXml", { xml, flags: 0 });
  await lab.libvirt.call("poolCreate", { pool, flags: 0 });
}

/** With a fresh name that ends in `ending`. */
function newVolume(sizeBytes: number, ending = ".qcow2"): NewVolume {
  const number = ++count;
  return { restoreId: `job_${number}`, name: `restored${number}${ending}`, sizeBytes };
}

async function write(volume: NewVolume, data: Uint8Array, offset: number, host = lab.host): Promise<void> {
  await using writer = await new RestoredVolume(host, volume).openWriter();
  await writer.write(data, offset);
  await writer.flush();
}

function unfinished(): string[] {
  return readdirSync(images).filter((name) => name.startsWith(".snapferry-"));
}

for (const format of ["qcow2", "raw"] as const) {
  describe(`a restored ${format} volume`, () => {
    test("has what several workers wrote at once, and takes no room for zeros", async () => {
      const volume = newVolume(64 * mib + 512, `.${format}`);
      const restored = new RestoredVolume(lab.host, volume);
      await restored.create();
      const expected = Buffer.alloc(volume.sizeBytes);
      randomBytes(8 * mib).copy(expected, 3 * mib + 1000);
      expected.fill(0, 5 * mib + 77, 7 * mib);
      randomBytes(mib).copy(expected, expected.length - mib);
      const shard = 16 * mib;
      const shards = Array.from({ length: Math.ceil(expected.length / shard) }, (_, index) => index * shard);
      const worker = async (offset: number) => {
        const host = lab.newHost();
        await using writer: VolumeWriter = await new RestoredVolume(host, volume).openWriter();
        const end = Math.min(offset + shard, expected.length);
        for (let at = offset; at < end; at += mib)
          await writer.write(expected.subarray(at, Math.min(end, at + mib)), at);
        await writer.flush();
        await host.close();
      };
      await Promise.all(shards.map(worker));
      const path = await restored.publish();
      assert.equal(path, `${images}/${volume.name}`);
      assert.ok(diskBytes(path, format).equals(expected));
      assert.ok(statSync(path).blocks * 512 < 11 * mib, `${statSync(path).blocks * 512} bytes`);
      assert.equal(JSON.parse(run("qemu-img", "info", "--output=json", path)).format, format);
      if (format === "qcow2") run("qemu-img", "check", "-q", path);
    });

    test("has zeros where an earlier attempt wrote something else", async () => {
      const volume = newVolume(8 * mib, `.${format}`);
      const restored = new RestoredVolume(lab.host, volume);
      await restored.create();
      await write(volume, randomBytes(4 * mib), 0);
      await write(volume, Buffer.alloc(4 * mib), 0);
      await write(volume, Buffer.from("end"), 8 * mib - 3);
      const bytes = diskBytes(await restored.publish(), format);
      assert.ok(bytes.subarray(0, -3).equals(Buffer.alloc(8 * mib - 3)));
      assert.equal(bytes.subarray(-3).toString(), "end");
    });
  });
}

describe("a restored volume", () => {
  test("is not there before it is published, and nothing else is afterwards; each step may be repeated", async () => {
    const volume = newVolume(mib);
    const restored = new RestoredVolume(lab.host, volume);
    await Promise.all([restored.create(), new RestoredVolume(lab.newHost(), volume).create()]);
    await write(volume, Buffer.from("kept"), 0);
    await restored.create();
    assert.ok(!existsSync(`${images}/${volume.name}`));
    const path = await restored.publish();
    assert.equal(await restored.publish(), path);
    await restored.create();
    assert.deepEqual(unfinished(), []);
    await restored.discard();
    await restored.discard();
    assert.equal(diskBytes(path, "qcow2").toString("utf8", 0, 4), "kept");
  });

  test("is discarded with its qemu-nbd, twice, and can be begun again", async () => {
    const volume = newVolume(mib);
    const restored = new RestoredVolume(lab.host, volume);
    await restored.create();
    await write(volume, Buffer.from("old"), 0);
    await restored.discard();
    await restored.discard();
    assert.deepEqual(unfinished(), []);
    await assert.rejects(restored.openWriter(), VolumeNotFound);
    await assert.rejects(restored.publish(), VolumeNotFound);
    await restored.create();
    assert.ok(diskBytes(await restored.publish(), "qcow2").equals(Buffer.alloc(mib)));
  });

  test("never takes the name of a file that is there, even a broken link", async () => {
    const early = newVolume(mib);
    writeFileSync(`${images}/${early.name}`, "other");
    await assert.rejects(new RestoredVolume(lab.host, early).create(), VolumeNameTaken);
    const late = newVolume(mib);
    const restored = new RestoredVolume(lab.host, late);
    await restored.create();
    writeFileSync(`${images}/${late.name}`, "other");
    await assert.rejects(restored.publish(), VolumeNameTaken);
    for (const { name } of [early, late]) assert.equal(readFileSync(`${images}/${name}`, "utf8"), "other");
    const link = newVolume(mib);
    symlinkSync("/nowhere", `${images}/${link.name}`);
    await assert.rejects(new RestoredVolume(lab.host, link).create(), VolumeNameTaken);
    await restored.discard();
  });

  test("lies in the pool, or at the path, that its name says", async () => {
    const other = lab.folder.file("other");
    mkdirSync(other);
    await definePool("other pool", other);
    for (const [place, path] of [
      [{ pool: "other pool", name: "a disk" }, `${other}/a disk`],
      [{ name: `${other}/b.raw` }, `${other}/b.raw`],
    ] as const) {
      const restored = new RestoredVolume(lab.host, { ...newVolume(mib), ...place });
      await restored.create();
      assert.equal(await restored.publish(), path);
      assert.ok(existsSync(path));
    }
    const elsewhere = { ...newVolume(mib), pool: "no such pool" };
    await assert.rejects(new RestoredVolume(lab.host, elsewhere).create(), {
      name: "OperationRefused",
      message: "There is no storage pool no such pool on the host.",
    });
    const volumeGroup = `<pool type='logical'><name>group</name><target><path>/dev/group</path></target></pool>`;
    await lab.libvirt.call("poolDefineXml", { xml: volumeGroup, flags: 0 });
    await assert.rejects(new RestoredVolume(lab.host, { ...elsewhere, pool: "group" }).create(), {
      name: "OperationRefused",
      message: "The storage pool group has no folder for files.",
    });
    await new RestoredVolume(lab.host, elsewhere).discard();
    const stopped = `<pool type='dir'><name>stopped</name><target><path>${other}-2</path></target></pool>`;
    await lab.libvirt.call("poolDefineXml", { xml: stopped, flags: 0 });
    await assert.rejects(new RestoredVolume(lab.host, { ...elsewhere, pool: "stopped" }).create(), {
      name: "OperationRefused",
      message: "The storage pool stopped is not active.",
    });
    for (const name of [
      "disk.snap_1.qcow2",
      `${other}/disk.snap_1.qcow2`,
      "/etc/../etc/x",
      `${other}/`,
      "x".repeat(240),
      "new\nline",
    ]) {
      const restored = new RestoredVolume(lab.host, { ...newVolume(mib), name });
      await assert.rejects(restored.create(), OperationRefused, name);
      await restored.discard();
    }
  });

  test("whose folder is away is not said to be gone", async () => {
    const folder = lab.folder.file("mounted");
    mkdirSync(folder);
    const volume = { ...newVolume(mib), name: `${folder}/volume.qcow2` };
    const restored = new RestoredVolume(lab.host, volume);
    await restored.create();
    renameSync(folder, `${folder}.away`);
    await assert.rejects(restored.openWriter(), HypervisorUnavailable);
    await assert.rejects(restored.publish(), HypervisorUnavailable);
    renameSync(`${folder}.away`, folder);
    assert.ok(diskBytes(await restored.publish(), "qcow2").equals(Buffer.alloc(mib)));
  });

  test("has any size, none too", async () => {
    const restored = new RestoredVolume(lab.host, newVolume(0));
    await restored.create();
    assert.equal(diskBytes(await restored.publish(), "qcow2").length, 0);
  });

  test("is written again after its qemu-nbd was killed; who wrote to that is told", async () => {
    const volume = newVolume(4 * mib);
    const restored = new RestoredVolume(lab.host, volume);
    await restored.create();
    const writer = await restored.openWriter();
    await writer.write(randomBytes(mib), 0);
    process.kill(
      Number(readFileSync(`${await lab.host.ownFolder()}/restores/${volume.restoreId}/pid`, "utf8")),
      "SIGKILL",
    );
    await assert.rejects(writer.flush(), HypervisorUnavailable);
    await writer[Symbol.asyncDispose]();
    const content = randomBytes(4 * mib);
    await write(volume, content, 0);
    assert.ok(diskBytes(await restored.publish(), "qcow2").equals(content));
  });

  test("for which there is no room is told so", async (t) => {
    const small = lab.folder.file("small");
    mkdirSync(small);
    run("mount", "-t", "tmpfs", "-o", "size=2m", "none", small);
    t.after(() => run("umount", small));
    const volume = { ...newVolume(16 * mib), name: `${small}/full.raw` };
    const restored = new RestoredVolume(lab.host, volume);
    await restored.create();
    await assert.rejects(write(volume, randomBytes(8 * mib), 0), PrimaryStorageFull);
    await restored.discard();
    assert.deepEqual(readdirSync(small), []);
  });

  test("boots as the disk of a VM", async () => {
    const source = lab.image("source.raw");
    makeWritingDisk(source, "raw", 16 * mib);
    const volume = newVolume(16 * mib);
    const restored = new RestoredVolume(lab.host, volume);
    await restored.create();
    await write(volume, readFileSync(source), 0);
    const path = await restored.publish();
    const domain = await lab.define("restored", path);
    await lab.start(domain);
    await untilWritten(lab.settings.uri, domain);
    await lab.stop(domain);
    assertNothingLost(diskBytes(path, "qcow2"), 1);
  });
});
