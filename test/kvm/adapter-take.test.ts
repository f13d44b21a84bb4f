/** Snapshots that the KVM adapter takes, also when an earlier try was interrupted. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { after, afterEach, beforeEach, describe, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { HypervisorFailed, QuiesceFailed, VolumeNotFound } from "../../lambdas/domain/errors.ts";
import { DomainXml } from "../../lambdas/hypervisors/kvm/domain-xml.ts";
import type { SnapshotRequest, TakenSnapshot } from "../../lambdas/hypervisors/port.ts";
import { blockCommit } from "../../lambdas/protocols/libvirt/flags.ts";
import type { Domain } from "../../lambdas/protocols/libvirt/procedures.ts";
import { run } from "../../local/kvm-host/processes.ts";
import { AdapterHost, type DiskFile, type KvmSubject } from "./adapter-host.ts";
import { startImageWriter } from "./image-writer.ts";
import { makeWritingDisk, newestNumber, numbersPerSecond, untilWritten } from "./writing-guest.ts";

const mib = 1024 * 1024;
const sizeBytes = 16 * mib;
const host = await AdapterHost.start();
after(() => host[Symbol.asyncDispose]());

let subject: KvmSubject;
beforeEach(async () => {
  subject = await host.makeSubject();
});
afterEach(() => subject[Symbol.asyncDispose]());

/** A VM with two disks that it does not write to, one of each format. */
async function vm(name: string): Promise<{ domain: Domain; disks: [string, string] }> {
  const disks: [DiskFile, DiskFile] = [
    { target: "vda", path: subject.image(`${name}.qcow2`), format: "qcow2" },
    { target: "vdb", path: subject.image(`${name}.raw`), format: "raw" },
  ];
  for (const { path, format } of disks) run("qemu-img", "create", "-q", "-f", format, path, `${sizeBytes}`);
  return { domain: await subject.define(name, disks), disks: [disks[0].path, disks[1].path] };
}

const requestsFor = (paths: readonly string[], moment = 1): SnapshotRequest[] =>
  paths.map((externalId, index) => ({ externalId, snapshotId: `snap_${moment}_${index}` }));

function take(requests: readonly SnapshotRequest[], quiesce: boolean | "preferred" = false): Promise<TakenSnapshot[]> {
  return subject.hypervisor.takeSnapshots(requests, { quiesce });
}

async function tops(domain: Domain): Promise<(string | undefined)[]> {
  return (await subject.definition(domain)).disks.map(({ file }) => file);
}

describe("snapshots", () => {
  test("of the disks of several VMs are taken, those of one VM at one moment; discs and other disks stay", async () => {
    const [a, b] = [await vm("a"), await vm("b")];
    await subject.start(b.domain);
    const requests = requestsFor([...a.disks, b.disks[1]]);
    const taken = await take(requests);
    assert.deepEqual(
      taken.map(({ installPath, sizeBytes: size, consistency }) => [installPath, size, consistency]),
      requests.map((request, index) => [
        subject.hypervisor.plannedInstallPath(request),
        sizeBytes,
        index < 2 ? "offline" : "crash",
      ]),
    );
    assert.deepEqual(await tops(a.domain), [taken[0]!.installPath, taken[1]!.installPath]);
    assert.deepEqual(await tops(b.domain), [b.disks[0], taken[2]!.installPath]);
    await subject.start(a.domain);
    assert.deepEqual(await take(requests), taken, "what it is worth does not change when the VM is started");
  });

  test("of several VMs are none when one of the volumes is not there", async () => {
    const { disks } = await vm("a");
    await assert.rejects(take(requestsFor([...disks, subject.image("none")])), VolumeNotFound);
    assert.equal(await subject.countSnapshots(), 0);
  });

  test("of two disks that a guest writes in turn are of one moment", async () => {
    const path = subject.image("writing.qcow2");
    makeWritingDisk(path, "qcow2", sizeBytes);
    const { disks } = await vm("other");
    run("virsh", "-q", "-c", host.uri, "undefine", "other");
    const domain = await subject.define("writing", [
      { target: "vda", path, format: "qcow2" },
      { target: "vdb", path: disks[1], format: "raw" },
    ]);
    await subject.start(domain);
    await untilWritten(host.uri, domain);
    const [first] = await take(requestsFor([path, disks[1]]));
    await untilWritten(host.uri, domain);
    const frozen = newestNumber(subject.readImage(path, "qcow2"));
    const now = newestNumber(subject.readImage(first!.installPath, "qcow2"));
    assert.ok(now > frozen && now - frozen < 60 * numbersPerSecond, `${frozen} and ${now}`);
  });

  test("that an earlier try made and could not tell of are found", async () => {
    const { domain, disks } = await vm("a");
    await subject.start(domain);
    const requests = requestsFor(disks);
    const workers = Array.from({ length: 3 }, () => subject.newHypervisor());
    const taken = await Promise.all(workers.map((worker) => worker.takeSnapshots(requests, { quiesce: false })));
    for (const one of taken) assert.deepEqual(one, taken[0]);
    assert.equal(await subject.countSnapshots(), 2);
    run("rm", subject.own("taken", "snap_1_0"));
    assert.equal((await take(requests))[0]!.consistency, "crash", "without a note it is the least that is sure");
  });

  test("are taken although an interrupted try left empty files", async () => {
    for (const running of [false, true]) {
      const { domain, disks } = await vm(`vm-${running}`);
      if (running) await subject.start(domain);
      const [request, other] = requestsFor(disks, running ? 2 : 1);
      const leftover = subject.hypervisor.plannedInstallPath(request!);
      run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", disks[0], "-u", leftover, `${sizeBytes}`);
      const taken = await take([request!, other!]);
      assert.deepEqual(
        await tops(domain),
        taken.map(({ installPath }) => installPath),
      );
    }
  });

  test("are not taken over a file of that name that holds data or is in use, and nothing changes", async (t) => {
    const { domain, disks } = await vm("a");
    const requests = requestsFor(disks);
    const leftover = subject.hypervisor.plannedInstallPath(requests[0]!);
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", disks[0], leftover);
    const holder = await startImageWriter(leftover);
    t.after(() => holder.stop());
    await assert.rejects(take(requests), HypervisorFailed);
    await holder.stop();
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", leftover);
    await assert.rejects(take(requests), {
      name: "HypervisorFailed",
      message: /holds data, but the disk does not use it/,
    });
    assert.ok(existsSync(leftover));
    assert.deepEqual(await tops(domain), disks);
    assert.equal(await subject.countSnapshots(), 1);
  });

  test("with writes held need an agent, and without one nothing is created unless that is only preferred", async () => {
    const { domain, disks } = await vm("a");
    await subject.start(domain);
    await assert.rejects(take(requestsFor(disks), true), { name: "QuiesceFailed", message: /cannot be held/ });
    assert.deepEqual(await tops(domain), disks);
    const taken = await take(requestsFor(disks), "preferred");
    assert.deepEqual(
      taken.map(({ consistency }) => consistency),
      ["crash", "crash"],
    );
    await subject.destroy(domain);
    const stopped = await take(requestsFor(disks, 2), true);
    assert.deepEqual(
      stopped.map(({ consistency }) => consistency),
      ["offline", "offline"],
    );
  });

  test("of a VM whose memory is saved to disk are refused: it would go on with the disks that it had", async () => {
    const { domain, disks } = await vm("a");
    await subject.start(domain);
    await host.libvirt.call("domainManagedSave", { domain, flags: 0 });
    await assert.rejects(take(requestsFor(disks)), { name: "OperationRefused", message: /managed save/ });
    assert.equal(await subject.countSnapshots(), 0);
    await subject.start(domain);
    assert.deepEqual(
      (await take(requestsFor(disks))).map(({ consistency }) => consistency),
      ["crash", "crash"],
    );
  });

  test("of a disk that is being merged are taken when that has ended", async () => {
    const { domain, disks } = await vm("a");
    await subject.start(domain);
    const [first] = await take(requestsFor([disks[0]]));
    await subject.writeVolume(disks[0], Buffer.alloc(8 * mib, 2), 0);
    const merge = { domain, disk: "vda", base: disks[0], top: first!.installPath, bandwidth: 1 };
    await host.libvirt.call("domainBlockCommit", { ...merge, flags: blockCommit.active });
    const taking = take(requestsFor(disks, 2));
    await pause(2000);
    assert.deepEqual(await tops(domain), [first!.installPath, disks[1]]);
    await host.libvirt.call("domainBlockJobAbort", { domain, disk: "vda", flags: 0 });
    const taken = await taking;
    assert.deepEqual(
      await tops(domain),
      taken.map(({ installPath }) => installPath),
    );
  });

  test("come with what the VM will be started with, without its secrets", async () => {
    const path = subject.image("disk.qcow2");
    const plugged = subject.image("plugged.qcow2");
    for (const disk of [path, plugged]) run("qemu-img", "create", "-q", "-f", "qcow2", disk, `${sizeBytes}`);
    const console = `<graphics type='vnc' listen='0.0.0.0' autoport='yes' passwd='hunter2'/>`;
    const domain = await subject.define("secret", [{ target: "vda", path, format: "qcow2" }], console);
    await subject.start(domain);
    run("virsh", "-q", "-c", host.uri, "setvcpus", "secret", "1", "--config");
    run("virsh", "-q", "-c", host.uri, "setmaxmem", "secret", "48M", "--config");
    const source = ["--driver", "qemu", "--subdriver", "qcow2", "--live"];
    run("virsh", "-q", "-c", host.uri, "attach-disk", "secret", plugged, "vdb", ...source);
    const [taken, ofPlugged] = await take(requestsFor([path, plugged]));
    const { definition = "", ...vm } = taken?.vm ?? {};
    assert.deepEqual(vm, { externalId: domain.uuid, name: "secret", target: "vda" });
    assert.ok(!definition.includes("hunter2"));
    assert.match(definition, /<memory unit='KiB'>49152</);
    assert.equal(ofPlugged?.vm, undefined, "a disk that the VM will not have with its next start");
    const anew = new DomainXml(definition);
    anew.becomeAnother("another");
    assert.match(anew.toString(), /<graphics type="vnc" autoport="yes" listen="127.0.0.1"/);
  });

  test("whose agent is there but silent fail in time", async () => {
    const path = subject.image("disk.qcow2");
    run("qemu-img", "create", "-q", "-f", "qcow2", path, `${sizeBytes}`);
    const socket = host.folder.file("silent.sock");
    const channel = `<channel type='unix'><source mode='bind' path='${socket}'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>`;
    const domain = await subject.define("silent", [{ target: "vda", path, format: "qcow2" }], channel);
    await subject.start(domain);
    const started = Date.now();
    await assert.rejects(take(requestsFor([path]), true), QuiesceFailed);
    assert.ok(Date.now() - started < 10_000);
    const [vmFound] = await Array.fromAsync(subject.hypervisor.listVms());
    assert.equal(vmFound!.guestAgent, "absent");
  });
});
