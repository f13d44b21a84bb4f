/** Exports of the KVM adapter, and what may happen to them while they are read. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { after, afterEach, beforeEach, describe, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { ExportLost, HypervisorUnavailable, PathOutsideDirectory } from "../../lambdas/domain/errors.ts";
import type { KvmExport } from "../../lambdas/hypervisors/kvm/export.ts";
import type { TakenSnapshot } from "../../lambdas/hypervisors/port.ts";
import type { Domain } from "../../lambdas/protocols/libvirt/procedures.ts";
import { run, startServer } from "../../local/kvm-host/processes.ts";
import { startSshd } from "../../local/kvm-host/sshd.ts";
import { AdapterHost, type KvmSubject } from "./adapter-host.ts";
import { whileAway } from "./away.ts";
import { startImageWriter } from "./image-writer.ts";
import { assertNothingLost, makeWritingDisk, untilWritten } from "./writing-guest.ts";

const mib = 1024 * 1024;
const sizeBytes = 64 * mib;
const host = await AdapterHost.start();
after(() => host[Symbol.asyncDispose]());

let subject: KvmSubject;
let volume: string;
let domain: Domain;
beforeEach(async () => {
  subject = await host.makeSubject();
  volume = subject.image('it\'s a "disk" & more.qcow2');
  makeWritingDisk(volume, "qcow2", sizeBytes);
  domain = await subject.define('it\'s <a> "VM" & more', [{ target: "vda", path: volume, format: "qcow2" }]);
});
afterEach(() => subject[Symbol.asyncDispose]());

async function take(snapshotId = "snap_1"): Promise<TakenSnapshot> {
  const [taken] = await subject.hypervisor.takeSnapshots([{ externalId: volume, snapshotId }], { quiesce: false });
  return taken!;
}

async function readAll(descriptor: KvmExport, pieceBytes = mib, between = async () => {}): Promise<Buffer> {
  const target = Buffer.alloc(descriptor.sizeBytes, 0xee);
  await using reader = await subject.hypervisor.openReader(descriptor);
  for (let at = 0; at < target.length; at += pieceBytes) {
    await reader.read(target.subarray(at, at + pieceBytes), at);
    await between();
  }
  return target;
}

/** Processes that serve this export. */
function servers({ socket }: KvmExport): number[] {
  const found = run(
    "sh",
    "-c",
    'pgrep -x qemu-nbd | while read pid; do grep -qaF "$1" /proc/$pid/cmdline && echo $pid; done; true',
    "sh",
    socket,
  );
  return found
    .split("\n")
    .filter((line) => line !== "")
    .map(Number);
}

describe("an export of a VM that writes all the time", () => {
  test("shows the frozen bytes while the VM is stopped, started and ended in between", async () => {
    await subject.start(domain);
    await untilWritten(host.uri, domain);
    const taken = await take();
    assert.equal(taken.consistency, "crash");
    const descriptor = await subject.hypervisor.openExport(taken);
    const steps = [
      () => subject.destroy(domain),
      () => subject.start(domain),
      () => subject.destroy(domain),
      async () => assert.equal((await subject.definition(domain)).disks[0]?.file, taken.installPath),
      () => subject.start(domain),
    ];
    const bytes = await readAll(descriptor, 8 * mib, async () => {
      await steps.shift()?.();
      await pause(300);
    });
    assert.equal(steps.length, 0);
    assert.ok(bytes.equals(subject.readImage(volume, "qcow2")), "not what lies in the frozen file");
    assertNothingLost(bytes, 1);
    await subject.hypervisor.closeExport(descriptor);
  });

  test("and what changed between two of its snapshots, is all that differs", async () => {
    await subject.start(domain);
    await untilWritten(host.uri, domain);
    const first = await take("snap_1");
    await untilWritten(host.uri, domain);
    const second = await take("snap_2");
    const descriptors = [
      await subject.hypervisor.openExport(first),
      await subject.hypervisor.openExport(second),
    ] as const;
    const [before, bytes] = [await readAll(descriptors[0]), await readAll(descriptors[1])];
    const changed = await subject.hypervisor.changedExtents(descriptors[1], first);
    assert.ok(changed);
    let told = 0;
    for await (const { offset, length } of changed) {
      bytes.copy(before, offset, offset, offset + length);
      told += length;
    }
    assert.ok(before.equals(bytes), "something differs that was not told");
    assert.ok(told > 0 && told < sizeBytes / 8, `${told} bytes are told`);
    for (const descriptor of descriptors) await subject.hypervisor.closeExport(descriptor);
  });
});

describe("an export", () => {
  test("that many open at the same time is one process, and closing ends it", async () => {
    const taken = await take();
    const workers = Array.from({ length: 4 }, () => subject.newHypervisor());
    const descriptors = await Promise.all(workers.map((worker) => worker.openExport(taken)));
    assert.equal(new Set(descriptors.map((descriptor) => JSON.stringify(descriptor))).size, 1);
    const [descriptor] = descriptors as [KvmExport];
    assert.equal(servers(descriptor).length, 1);
    await Promise.all(workers.map((worker) => worker.closeExport(descriptor)));
    assert.deepEqual(servers(descriptor), []);
    assert.ok(!existsSync(subject.own("exports", "snap_1")));
    await assert.rejects(subject.hypervisor.openReader(descriptor), HypervisorUnavailable);
  });

  test("whose qemu-nbd is killed fails readers in a way that is worth another attempt, which finds it again", async () => {
    const descriptor = await subject.hypervisor.openExport(await take());
    const reader = await subject.hypervisor.openReader(descriptor);
    const [pid] = servers(descriptor);
    const reads = Array.from({ length: 64 }, (_, index) => reader.read(Buffer.alloc(mib), index * mib));
    process.kill(pid!, "SIGKILL");
    const failures = (await Promise.allSettled(reads)).flatMap((read) =>
      read.status === "rejected" ? [read.reason] : [],
    );
    assert.ok(
      failures.every((error) => error instanceof HypervisorUnavailable),
      String(failures[0]),
    );
    await assert.rejects(reader.read(Buffer.alloc(mib), 0), HypervisorUnavailable);
    assert.deepEqual(await subject.hypervisor.openExport(descriptor), descriptor);
    await reader.read(Buffer.alloc(mib), 0);
    await reader[Symbol.asyncDispose]();
    assert.ok((await readAll(descriptor)).equals(subject.readImage(volume, "qcow2")));
  });

  test("is not touched by a number of a process that another one has now", async (t) => {
    const descriptor = await subject.hypervisor.openExport(await take());
    const [pid] = servers(descriptor);
    process.kill(pid!, "SIGKILL");
    const bystander = await startServer(["sleep", "60"], () => true);
    t.after(() => bystander.stop());
    run("sh", "-c", 'echo "$1" > "$2"', "sh", `${bystander.pid}`, subject.own("exports", "snap_1", "pid"));
    await subject.hypervisor.openExport(descriptor);
    assert.equal(servers(descriptor).length, 1);
    run("sh", "-c", 'echo "$1" > "$2"', "sh", `${bystander.pid}`, subject.own("exports", "snap_1", "pid"));
    for (const server of servers(descriptor)) process.kill(server);
    await subject.hypervisor.closeExport(descriptor);
    process.kill(bystander.pid, 0);
  });

  test("outlives the SSH connection that opened it, and readers find their way back", async (t) => {
    const sshd = await startSshd(host.folder);
    t.after(() => sshd.stop());
    const first = subject.newHypervisor(host.settings(subject.owner, sshd));
    const taken = await take();
    // Its own home is where this server's user has the folder.
    const descriptor = await first.openExport(taken);
    const reader = await first.openReader(descriptor);
    await reader.read(Buffer.alloc(mib), 0);
    run("pkill", "-P", `${sshd.pid}`);
    await assert.rejects(reader.read(Buffer.alloc(mib), 0), HypervisorUnavailable);
    await reader.read(Buffer.alloc(mib), 0);
    await reader[Symbol.asyncDispose]();
    assert.equal(servers(descriptor).length, 1);
    await first.closeExport(descriptor);
  });

  test("waits for a moment until nobody writes to its files", async (t) => {
    const taken = await take();
    const holder = await startImageWriter(volume);
    t.after(() => holder.stop());
    const opening = subject.hypervisor.openExport(taken);
    await pause(1500);
    assert.equal(existsSync(subject.own("exports", "snap_1", "pid")), false);
    await holder.stop();
    const descriptor = await opening;
    assert.ok((await readAll(descriptor)).equals(subject.readImage(volume, "qcow2")));
  });

  test("that nobody needs is closed, and no other", async () => {
    assert.deepEqual(await subject.hypervisor.closeStaleExports(async () => false), [], "there is none yet");
    const kept = await subject.hypervisor.openExport(await take("snap_kept"));
    const stale = await subject.hypervisor.openExport(await take("snap_stale"));
    const asked: string[] = [];
    const closed = await subject.newHypervisor().closeStaleExports(async (snapshotId) => {
      asked.push(snapshotId);
      return snapshotId === "snap_kept";
    });
    assert.deepEqual([closed, asked.sort()], [["snap_stale"], ["snap_kept", "snap_stale"]]);
    assert.deepEqual([servers(kept).length, servers(stale).length], [1, 0]);
    assert.equal(readFileSync(subject.own("exports", "snap_kept", "record.json"), "utf8").length > 0, true);
  });

  test("of a path that is no snapshot, or of another one, is refused; of one that is gone, it is lost", async () => {
    const taken = await take();
    for (const installPath of [volume, "/etc/passwd", `${taken.installPath}/../x.snap_1.qcow2`, ""]) {
      await assert.rejects(subject.hypervisor.openExport({ snapshotId: "snap_1", installPath }), PathOutsideDirectory);
    }
    await assert.rejects(subject.hypervisor.openExport({ ...taken, snapshotId: "snap_2" }), PathOutsideDirectory);
    const gone = {
      snapshotId: "snap_2",
      installPath: subject.hypervisor.plannedInstallPath({ externalId: volume, snapshotId: "snap_2" }),
    };
    await assert.rejects(subject.hypervisor.openExport(gone), ExportLost);
  });

  test("of files that are away is worth another attempt, until the volume is really deleted", async () => {
    const below = await take("snap_1");
    const top = await take("snap_2");
    run("mv", volume, `${volume}.away`);
    await assert.rejects(subject.hypervisor.openExport(below), HypervisorUnavailable);
    run("mv", `${volume}.away`, volume);
    await whileAway(subject.images, async () => {
      for (const taken of [below, top])
        await assert.rejects(subject.hypervisor.openExport(taken), HypervisorUnavailable);
    });
    await subject.hypervisor.closeExport(await subject.hypervisor.openExport(below));
    await host.libvirt.call("domainUndefine", { domain, flags: 0 });
    for (const file of [volume, below.installPath, top.installPath]) rmSync(file);
    for (const taken of [below, top]) await assert.rejects(subject.hypervisor.openExport(taken), ExportLost);
  });
});
