/** Volumes that are restored in place on a KVM host: what is refused, who may start meanwhile, and what is found after a crash. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
} from "node:fs";
import { join } from "node:path";
import { after, afterEach, beforeEach, describe, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import {
  ChainChanged,
  HypervisorFailed,
  HypervisorUnavailable,
  OperationRefused,
  VolumeNotFound,
} from "../../lambdas/domain/errors.ts";
import type { NewVolume } from "../../lambdas/hypervisors/port.ts";
import type { Domain } from "../../lambdas/protocols/libvirt/procedures.ts";
import { run } from "../../local/kvm-host/processes.ts";
import { AdapterHost, type KvmSubject } from "./adapter-host.ts";
import { whileAway } from "./away.ts";
import { assertLocked } from "./locked-start.ts";

const host = await AdapterHost.start();
after(() => host[Symbol.asyncDispose]());

const sizeBytes = 4 * 2 ** 20;
let subject: KvmSubject;
let disk: string;
let domain: Domain;
let volume: NewVolume;
let old: Buffer;
let restored: Buffer;

beforeEach(async () => {
  subject = await host.makeSubject();
  disk = await subject.makeVolume("disk", sizeBytes);
  old = randomBytes(sizeBytes);
  restored = randomBytes(sizeBytes);
  await subject.writeVolume(disk, old, 0);
  ({ domain } = await subject.diskOf(disk));
  volume = { restoreId: "job_1", name: "disk", sizeBytes, replaces: disk };
});
afterEach(() => subject[Symbol.asyncDispose]());

async function write(): Promise<void> {
  await subject.hypervisor.createVolume(volume);
  await using writer = await subject.hypervisor.openWriter(volume);
  await writer.write(restored, 0);
  await writer.flush();
}

/** The host restarts: no process of Snapferry's is left. */
async function killServers(): Promise<void> {
  for (const folder of ["restores", "guards"]) {
    const pid = subject.own(folder, "job_1", "pid");
    if (!existsSync(pid)) continue;
    const number = Number(readFileSync(pid, "utf8"));
    process.kill(number, "SIGKILL");
    while (!hasEnded(number)) await pause(10);
  }
}

/** A lock goes with its process, before somebody takes notice of the end. */
function hasEnded(pid: number): boolean {
  try {
    return /\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return true;
  }
}

const isLocked = () => assertLocked(() => subject.start(domain));

async function assertHolds(bytes: Buffer): Promise<void> {
  assert.deepEqual(readdirSync(subject.images), ["disk"]);
  assert.ok((await subject.readVolume(disk)).equals(bytes));
  await subject.start(domain);
  await subject.destroy(domain);
}

describe("a disk that is restored in place", () => {
  test("starts with no VM from the beginning until what it held is gone", async () => {
    await subject.hypervisor.createVolume(volume);
    await isLocked();
    await write();
    await isLocked();
    await subject.hypervisor.publishVolume(volume);
    await isLocked();
    await subject.hypervisor.forgetReplaced(volume);
    await assertHolds(restored);
  });

  test("is put back, or stays, after the host was restarted at any step", async () => {
    await write();
    await killServers();
    await subject.hypervisor.publishVolume(volume);
    await isLocked();
    await killServers();
    await subject.hypervisor.publishVolume(volume);
    await isLocked();
    await killServers();
    await subject.hypervisor.discardVolume(volume);
    await assertHolds(old);
  });

  test("is not taken from under a VM that was started on the new bytes, and is put back when that has stopped", async () => {
    await write();
    await subject.hypervisor.publishVolume(volume);
    await killServers();
    await subject.start(domain);
    await assert.rejects(subject.hypervisor.discardVolume(volume), HypervisorFailed);
    assert.ok((await subject.readVolume(disk)).equals(restored));
    await subject.destroy(domain);
    await subject.hypervisor.discardVolume(volume);
    await assertHolds(old);
  });

  test("is not exchanged for a file that a VM was started on", async () => {
    await write();
    await killServers();
    await subject.start(domain);
    await assert.rejects(subject.hypervisor.publishVolume(volume), OperationRefused);
    await subject.destroy(domain);
    await subject.hypervisor.discardVolume(volume);
    await assertHolds(old);
  });

  test("that was made by somebody else anew meanwhile is not overwritten", async () => {
    await write();
    await subject.hypervisor.publishVolume(volume);
    // The second name of the old file, and an unfinished one, as a crash before the exchange leaves them.
    renameSync(disk, subject.image(".snapferry-job_1.qcow2"));
    copyFileSync(subject.image(".snapferry-job_1.replaced"), disk);
    await killServers();
    await assert.rejects(subject.hypervisor.publishVolume(volume), ChainChanged);
    await assert.rejects(subject.hypervisor.discardVolume(volume), ChainChanged);
    assert.ok((await subject.readVolume(disk)).equals(old));
  });

  test("is refused where another image stands on it, beside it or in another folder, under whatever name", async () => {
    const elsewhere = host.folder.file("elsewhere");
    mkdirSync(elsewhere);
    symlinkSync(subject.images, join(elsewhere, "link"));
    for (const [base, clone] of [
      [disk, subject.image("clone")],
      [join(elsewhere, "link", "disk"), subject.image("clone")],
      [disk, join(elsewhere, "clone")],
      [join(elsewhere, "link", "disk"), join(elsewhere, "clone")],
    ] as const) {
      run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", clone);
      const vm = await subject.define("vm-clone", [{ target: "vda", path: clone, format: "qcow2" }]);
      await assert.rejects(subject.hypervisor.createVolume(volume), {
        name: "OperationRefused",
        message: `${clone} stands on ${disk}, which cannot be replaced below it.`,
      });
      await subject.start(vm);
      await assert.rejects(subject.hypervisor.createVolume(volume), OperationRefused);
      await subject.destroy(vm);
      await host.libvirt.call("domainUndefine", { domain: vm, flags: 0 });
      rmSync(clone);
    }
    await subject.define("vm-link", [{ target: "vda", path: join(elsewhere, "link", "disk"), format: "qcow2" }]);
    await assert.rejects(subject.hypervisor.createVolume(volume), {
      name: "OperationRefused",
      message: /^vm-link uses .*link\/disk/,
    });
    assert.ok((await subject.readVolume(disk)).equals(old));
  });

  test("is refused where the definition says what lies below", async () => {
    const base = subject.image("base");
    run("qemu-img", "create", "-q", "-f", "raw", base, `${sizeBytes}`);
    const below = `<backingStore type='file'><format type='raw'/><source file='${base}'/><backingStore/></backingStore>`;
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", subject.image("above"));
    const xml = `<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='${subject.image("above")}'/>${below}<target dev='vdb' bus='virtio'/></disk>`;
    await subject.define("vm-above", [], xml);
    const above = { ...volume, replaces: subject.image("above") };
    await assert.rejects(subject.hypervisor.createVolume(above), (error: Error) => {
      assert.ok(error instanceof OperationRefused);
      return /says that .*above stands on .*base/.test(error.message);
    });
  });

  test("that is a link is none", async () => {
    renameSync(disk, subject.image("elsewhere"));
    run("ln", "-s", subject.image("elsewhere"), disk);
    await assert.rejects(subject.hypervisor.createVolume(volume), VolumeNotFound);
  });

  test("that is gone is cleaned up after all the same", async () => {
    await write();
    run("rm", disk);
    await subject.hypervisor.discardVolume(volume);
    assert.deepEqual(readdirSync(subject.images), []);
    await host.libvirt.call("domainUndefine", { domain, flags: 0 });
    await subject.hypervisor.discardVolume(volume);
    await subject.hypervisor.forgetReplaced(volume);
  });

  test("whose folder is away is neither refused for good nor said to be done with", async () => {
    const { hypervisor } = subject;
    const away = () =>
      whileAway(subject.images, async () => {
        await assert.rejects(hypervisor.createVolume(volume), HypervisorUnavailable);
        await assert.rejects(hypervisor.openWriter(volume), HypervisorUnavailable);
        await assert.rejects(hypervisor.publishVolume(volume), HypervisorUnavailable);
        await assert.rejects(hypervisor.discardVolume(volume), HypervisorUnavailable);
        await assert.rejects(hypervisor.forgetReplaced(volume), HypervisorUnavailable);
      });
    await away();
    await write();
    await killServers();
    await away();
    await hypervisor.publishVolume(volume);
    await killServers();
    await away();
    await hypervisor.forgetReplaced(volume);
    await assertHolds(restored);
  });
});
