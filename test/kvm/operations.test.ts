/** What is done to VMs on request, on the real libvirt. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { after, describe, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { OperationRefused, VmNotFound, VolumeNotFound } from "../../lambdas/domain/errors.ts";
import { readVm } from "../../lambdas/hypervisors/kvm/discovery.ts";
import { DomainXml } from "../../lambdas/hypervisors/kvm/domain-xml.ts";
import { mergeSnapshot } from "../../lambdas/hypervisors/kvm/merge.ts";
import { operateVm } from "../../lambdas/hypervisors/kvm/vm-operations.ts";
import { defineVmFrom } from "../../lambdas/hypervisors/kvm/vm-operations-define.ts";
import { attachDisk, replaceDisk } from "../../lambdas/hypervisors/kvm/vm-operations-disks.ts";
import { reinstall } from "../../lambdas/hypervisors/kvm/vm-operations-reinstall.ts";
import type { VmOperationRequest } from "../../lambdas/hypervisors/port.ts";
import { domainState, domainXml } from "../../lambdas/protocols/libvirt/flags.ts";
import type { Domain } from "../../lambdas/protocols/libvirt/procedures.ts";
import { guestFiles, domainXml as guestXml, makeDisk } from "../../local/kvm-host/guest.ts";
import { run } from "../../local/kvm-host/processes.ts";
import { makeAcpiDisk, withSleepAndPanic } from "./acpi-guests.ts";
import { assertLocked } from "./locked-start.ts";
import { Lab } from "./merge-lab.ts";
import { assertNothingLost, diskBytes, makeWritingDisk, untilWritten } from "./writing-guest.ts";

const files = await guestFiles();
const lab = await Lab.start();
after(() => lab[Symbol.asyncDispose]());

const mib = 1024 * 1024;
const none = { flags: 0 };
let count = 0;

async function vm(): Promise<{ domain: Domain; volume: string; name: string }> {
  const name = `vm${++count}`;
  const volume = lab.image(`${name}.qcow2`);
  makeWritingDisk(volume, "qcow2", 16 * mib);
  return { domain: await lab.define(name, volume), volume, name };
}

const operate = (domain: Domain, request: VmOperationRequest) => operateVm(lab.host, domain.uuid, request);

const stop = (domain: Domain, milliseconds: number) =>
  operateVm(lab.host, domain.uuid, { operation: "stop" }, { until: Date.now() + milliseconds });

async function acpiGuest(guest: Parameters<typeof makeAcpiDisk>[1]): Promise<Domain> {
  const disk = lab.image(`${guest}.raw`);
  makeAcpiDisk(disk, guest);
  const domain = await lab.define(guest, disk, "raw");
  const { xml } = await lab.libvirt.call("domainGetXml", { domain, flags: domainXml.inactive });
  return (await lab.libvirt.call("domainDefineXml", { xml: withSleepAndPanic(xml), ...none })).domain;
}

async function state(domain: Domain): Promise<number> {
  return (await lab.libvirt.call("domainGetState", { domain, ...none })).state;
}

async function definition(domain: Domain, of: "running" | "defined"): Promise<DomainXml> {
  const flags = of === "running" ? 0 : domainXml.inactive;
  return new DomainXml((await lab.libvirt.call("domainGetXml", { domain, flags })).xml);
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 90_000; !(await holds()); await pause(200)) {
    if (Date.now() > deadline) throw new Error("This did not come about.");
  }
}

describe("a VM", () => {
  test("is started, goes on after a pause, and is ended; so already is success", async () => {
    const { domain, volume } = await vm();
    for (let time = 0; time < 2; time++) await operate(domain, { operation: "start" });
    assert.equal(await state(domain), domainState.running);
    run("virsh", "-q", "-c", lab.settings.uri, "suspend", domain.uuid);
    assert.equal(await state(domain), domainState.paused);
    await operate(domain, { operation: "start" });
    assert.equal(await state(domain), domainState.running);
    await untilWritten(lab.settings.uri, domain);
    for (let time = 0; time < 2; time++) await operate(domain, { operation: "destroy" });
    assert.equal(await state(domain), domainState.shutoff);
    assertNothingLost(diskBytes(volume, "qcow2"), 1);
  });

  test("without a system that hears it is not stopped, and that is said", async () => {
    const { domain } = await vm();
    assert.deepEqual(await operate(domain, { operation: "stop" }), { finished: true });
    await operate(domain, { operation: "start" });
    assert.deepEqual(await stop(domain, 1_000), { finished: false });
    assert.equal(await state(domain), domainState.running);
    const stopped = operate(domain, { operation: "stop" });
    await lab.stop(domain);
    assert.deepEqual(await stopped, { finished: true });
  });

  test("whose system takes its time to stop is waited for when it is asked again", async () => {
    const domain = await acpiGuest("stopsWhenAsked");
    await operate(domain, { operation: "start" });
    // Until the guest hears, nothing is left of what it was asked.
    const asked = async () => (await stop(domain, 1_000)).finished;
    assert.equal(await asked(), false);
    assert.deepEqual(await operate(domain, { operation: "stop" }), { finished: true });
    assert.equal(await state(domain), domainState.shutoff);
  });

  test("that has suspended itself wakes up when it is started", async () => {
    const domain = await acpiGuest("suspends");
    await operate(domain, { operation: "start" });
    await until(async () => (await state(domain)) === domainState.suspended);
    await operate(domain, { operation: "start" });
    assert.equal(await state(domain), domainState.running);
  });

  test("that has crashed is not started before it was ended", async () => {
    const domain = await acpiGuest("crashes");
    await operate(domain, { operation: "start" });
    await until(async () => (await state(domain)) === domainState.crashed);
    await assert.rejects(operate(domain, { operation: "start" }), {
      name: "OperationRefused",
      message: /has crashed: "destroy" ends it/,
    });
    await operate(domain, { operation: "destroy" });
    await operate(domain, { operation: "start" });
  });

  test("that is started twice at once is started; one that takes too long is asked for again", async () => {
    const { domain } = await vm();
    await assert.rejects(operateVm(lab.host, domain.uuid, { operation: "start" }, { until: Date.now() }), {
      name: "HypervisorUnavailable",
      message: /is still being started: ask for the same again/,
    });
    await Promise.all([1, 2].map(() => operate(domain, { operation: "start" })));
    assert.equal(await state(domain), domainState.running);
  });

  test("that is gone is VmNotFound; what its state does not allow is refused in libvirt's words", async () => {
    const { domain } = await vm();
    await assert.rejects(operate(domain, { operation: "reboot" }), {
      name: "OperationRefused",
      message: /not running/,
    });
    await lab.libvirt.call("domainUndefine", { domain, ...none });
    await assert.rejects(operate(domain, { operation: "start" }), VmNotFound);
  });

  test("gets other processors and memory with its next start", async () => {
    const { domain } = await vm();
    for (const [cpus, mebibytes] of [
      [3, 96],
      [1, 48],
    ] as const) {
      await operate(domain, { operation: "change-cpu", cpus });
      await operate(domain, { operation: "change-memory", memoryBytes: mebibytes * mib });
      await operate(domain, { operation: "start" });
      const xml = (await definition(domain, "running")).toString();
      assert.match(xml, new RegExp(`<vcpu [^>]*>${cpus}</vcpu>`));
      assert.match(xml, new RegExp(`<memory unit="KiB">${mebibytes * 1024}<`));
      assert.match(xml, new RegExp(`<currentMemory unit="KiB">${mebibytes * 1024}<`));
      await operate(domain, { operation: "change-cpu", cpus: 2 });
      assert.match((await definition(domain, "defined")).toString(), /<vcpu [^>]*>2</);
      await operate(domain, { operation: "destroy" });
    }
    await operate(domain, { operation: "change-cpu", cpus: 4096 });
    await assert.rejects(operate(domain, { operation: "start" }), { name: "OperationRefused", message: /CPUs/ });
  });

  test("gets discs and gives them back, stopped and running", async () => {
    const { domain } = await vm();
    const [first, second] = ["a.iso", "b.iso"].map((name) => lab.image(name)) as [string, string];
    for (const iso of [first, second]) writeFileSync(iso, randomBytes(mib));
    const discs = async (of: "running" | "defined") =>
      (await definition(domain, of)).disks.flatMap(({ device, file }) => (device === "cdrom" && file ? [file] : []));
    await assert.rejects(operate(domain, { operation: "attach-iso", path: "/no/such.iso" }), OperationRefused);
    await operate(domain, { operation: "start" });
    await assert.rejects(operate(domain, { operation: "attach-iso", path: first }), OperationRefused);
    await operate(domain, { operation: "destroy" });
    for (let time = 0; time < 2; time++) await operate(domain, { operation: "attach-iso", path: first });
    assert.deepEqual(await discs("defined"), [first]);
    await operate(domain, { operation: "start" });
    // Its firmware resets the drives.
    await untilWritten(lab.settings.uri, domain);
    await assert.rejects(operate(domain, { operation: "attach-iso", path: second }), OperationRefused);
    for (let time = 0; time < 2; time++) await operate(domain, { operation: "detach-iso" });
    assert.deepEqual([await discs("running"), await discs("defined")], [[], []]);
    await operate(domain, { operation: "attach-iso", path: second });
    assert.deepEqual([await discs("running"), await discs("defined")], [[second], [second]]);
    await operate(domain, { operation: "destroy" });
    await operate(domain, { operation: "detach-iso" });
    assert.deepEqual(await discs("defined"), []);
  });

  test("is started while its stopped disk is merged: the merge gives way, goes on, and nothing is lost", async () => {
    const { domain, volume } = await vm();
    run("qemu-img", "resize", "-q", volume, "64M");
    await operate(domain, { operation: "start" });
    await untilWritten(lab.settings.uri, domain);
    const overlay = await lab.snapshot(domain, volume, `snap_op${count}`);
    await operate(domain, { operation: "destroy" });
    run("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 16M 40M", overlay);
    const merge = { exports: async () => [], bytesPerSecond: 4 * mib };
    const working = await mergeSnapshot(lab.host, overlay, { ...merge, until: Date.now() + 100 });
    assert.deepEqual(working, { finished: false });
    await assertLocked(() => lab.start(domain));
    await operate(domain, { operation: "start" });
    await untilWritten(lab.settings.uri, domain);
    assert.deepEqual(await mergeSnapshot(lab.host, overlay, { ...merge, bytesPerSecond: 64 * mib }), {
      finished: true,
    });
    assert.deepEqual(await lab.chain(domain, "running"), [volume]);
    await untilWritten(lab.settings.uri, domain);
    await operate(domain, { operation: "destroy" });
    const bytes = diskBytes(volume, "qcow2");
    assertNothingLost(bytes, 2);
    assert.ok(bytes.subarray(16 * mib, 56 * mib).every((byte) => byte === 7));
  });
});

describe("a disk", () => {
  test("of no VM is attached and detached, with its snapshots; so already is success", async () => {
    const { domain } = await vm();
    const other = await vm();
    await lab.start(other.domain);
    const overlay = await lab.snapshot(other.domain, other.volume, `snap_disk${count}`);
    await lab.stop(other.domain);
    const attach = { operation: "attach-disk", volumeExternalId: other.volume } as const;
    await assert.rejects(operate(domain, attach), { name: "OperationRefused", message: new RegExp(other.name) });
    await lab.libvirt.call("domainUndefine", { domain: other.domain, ...none });
    for (let time = 0; time < 2; time++) await operate(domain, attach);
    const { file, format } = (await definition(domain, "defined")).disk("vdb")!;
    assert.deepEqual([file, format], [overlay, "qcow2"]);
    const detach = { ...attach, operation: "detach-disk" } as const;
    for (let time = 0; time < 2; time++) await operate(domain, detach);
    assert.equal((await definition(domain, "defined")).disk("vdb"), undefined);
    await operate(domain, { operation: "start" });
    await operate(domain, attach);
    assert.equal((await definition(domain, "running")).disk("vdb")?.file, overlay);
    assert.equal((await definition(domain, "defined")).disk("vdb")?.file, overlay);
    await operate(domain, { operation: "destroy" });
  });

  test("that would make QEMU open other files of the host, or is none, is not attached", async () => {
    const { domain } = await vm();
    const attach = (volumeExternalId: string) => operate(domain, { operation: "attach-disk", volumeExternalId });
    const evil = lab.image("evil");
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", "/etc/passwd", evil, "1M");
    await assert.rejects(attach(evil), { name: "OperationRefused", message: /\/etc\/passwd/ });
    const data = lab.image("data");
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", `data_file=${lab.image("other.bin")}`, data, "1M");
    await assert.rejects(attach(data), OperationRefused);
    await assert.rejects(attach(lab.image("nothing")), VolumeNotFound);
    const raw = lab.image("plain");
    writeFileSync(raw, randomBytes(mib));
    await attach(raw);
    assert.equal((await definition(domain, "defined")).disk("vdb")?.format, "raw");
  });

  test("of a stopped VM is replaced, and the old one stays; of a running one it is not", async () => {
    const { domain, volume } = await vm();
    const fresh = lab.image(`fresh${count}.qcow2`);
    makeWritingDisk(fresh, "qcow2", 16 * mib);
    const disk = { file: fresh, format: "qcow2" } as const;
    await lab.start(domain);
    await assert.rejects(replaceDisk(lab.host, domain, "vda", disk), OperationRefused);
    await lab.stop(domain);
    assert.equal(await replaceDisk(lab.host, domain, "vda", disk), volume);
    assert.equal(await replaceDisk(lab.host, domain, "vda", disk), undefined);
    assert.ok(existsSync(volume));
    await lab.start(domain);
    await untilWritten(lab.settings.uri, domain);
    await lab.stop(domain);
    assertNothingLost(diskBytes(fresh, "qcow2"), 1);
    const extra = lab.image(`extra${count}.raw`);
    run("qemu-img", "create", "-q", "-f", "raw", extra, "1M");
    const found = (await readVm(lab.host, domain))!;
    assert.equal(await attachDisk(lab.host, found, { file: extra, format: "raw" }), "vdb");
  });

  test("is reinstalled from an image, whose copy is not the image; the old one stays", async () => {
    const { domain, volume, name } = await vm();
    const image = lab.image(`image${count}.raw`);
    makeWritingDisk(image, "raw", 16 * mib);
    const before = diskBytes(image, "raw");
    const reinstall = { operation: "reinstall", imagePath: image } as const;
    await lab.start(domain);
    await assert.rejects(operate(domain, reinstall), OperationRefused);
    await lab.stop(domain);
    await assert.rejects(operate(domain, { ...reinstall, imagePath: "/no/such/image" }), VolumeNotFound);
    for (let time = 1; time <= 2; time++) {
      await operate(domain, reinstall);
      const fresh = (await definition(domain, "defined")).disk("vda")!.file!;
      assert.equal(fresh, lab.image(`${name}-reinstalled-${time}.qcow2`));
      await lab.start(domain);
      await untilWritten(lab.settings.uri, domain);
      await lab.stop(domain);
      assertNothingLost(diskBytes(fresh, "qcow2"), 1);
    }
    assert.ok(diskBytes(image, "raw").equals(before));
    assert.ok(existsSync(volume));
    assert.deepEqual(
      readdirSync(lab.folder.file("images")).filter((file) => file.startsWith(".")),
      [],
    );
  });
});

describe("a reinstallation", () => {
  const hidden = () =>
    readdirSync(lab.folder.file("images")).filter((file) => file.startsWith(".snapferry-reinstall-"));

  /** The VM is started after it was looked at; the copy stays under its hidden name. */
  async function refused({ domain, name }: { domain: Domain; name: string }, image: string): Promise<string> {
    const stopped = (await readVm(lab.host, domain))!;
    const before = new Set(hidden());
    await lab.start(domain);
    await assert.rejects(reinstall(lab.host, stopped, image), OperationRefused);
    await lab.stop(domain);
    assert.deepEqual(
      readdirSync(lab.folder.file("images")).filter((file) => file.startsWith(name)),
      [`${name}.qcow2`],
    );
    const [copy, other] = hidden().filter((file) => !before.has(file));
    assert.ok(copy !== undefined && other === undefined);
    return lab.image(copy);
  }

  test("that is refused leaves no disk behind, and its copy is used later while the image is the same", async () => {
    const made = await vm();
    const image = lab.image(`same${count}.raw`);
    writeFileSync(image, randomBytes(mib));
    const { ino } = statSync(await refused(made, image));
    await operate(made.domain, { operation: "reinstall", imagePath: image });
    const fresh = statSync((await definition(made.domain, "defined")).disk("vda")!.file!);
    assert.deepEqual([fresh.ino, fresh.nlink, hidden()], [ino, 1, []]);
  });

  test("uses no copy of an image that has changed since, and collects the old ones", async () => {
    const made = await vm();
    const image = lab.image(`changed${count}.raw`);
    writeFileSync(image, randomBytes(mib));
    const copy = await refused(made, image);
    writeFileSync(image, randomBytes(mib));
    const again = { operation: "reinstall", imagePath: image } as const;
    await operate(made.domain, again);
    const fresh = (await definition(made.domain, "defined")).disk("vda")!.file!;
    assert.ok(diskBytes(fresh, "qcow2").equals(readFileSync(image)));
    assert.ok(existsSync(copy));
    utimesSync(copy, 0, 0);
    await operate(made.domain, again);
    assert.deepEqual(hidden(), []);
  });
});

describe("a saved definition", () => {
  test("makes another VM with the restored disk, once", async () => {
    const { domain, name } = await vm();
    const log = lab.image("console.log");
    const ofHost = `<serial type='file'><source path='${log}'/></serial><graphics type='vnc' port='5999' autoport='no' listen='0.0.0.0'/>`;
    const smbios = `<sysinfo type='smbios'><system><entry name='uuid'>${domain.uuid}</entry></system></sysinfo>`;
    const xml = (await definition(domain, "defined"))
      .toString()
      .replace("</devices>", `${ofHost}</devices>${smbios}`)
      .replace("</os>", "<smbios mode='sysinfo'/></os>");
    const restored = lab.image(`restored${count}.qcow2`);
    makeWritingDisk(restored, "qcow2", 16 * mib);
    const disks = new Map([["vda", { file: restored, format: "qcow2" }]] as const);
    const uuid = await defineVmFrom(lab.host, xml, { name: `${name}-restored`, disks });
    assert.equal(await defineVmFrom(lab.host, xml, { name: `${name}-restored`, disks }), uuid);
    assert.notEqual(uuid, domain.uuid);
    await operateVm(lab.host, uuid, { operation: "start" });
    const { domain: made } = await lab.libvirt.call("domainLookupByUuid", { uuid });
    const running = (await definition(made, "running")).toString();
    assert.match(running, /<serial type="pty">/);
    assert.match(running, /<listen type="address" address="127\.0\.0\.1"\/>/);
    await untilWritten(lab.settings.uri, { uuid });
    await operateVm(lab.host, uuid, { operation: "destroy" });
    assert.ok(!existsSync(log));
    assertNothingLost(diskBytes(restored, "qcow2"), 1);
    await assert.rejects(defineVmFrom(lab.host, xml, { name, disks }), OperationRefused);
    const unknown = new Map([["vdz", { file: restored, format: "qcow2" }]] as const);
    await assert.rejects(defineVmFrom(lab.host, xml, { name: "other", disks: unknown }), OperationRefused);
  });
});

describe("a guest with a system", () => {
  test("lets go of a disk, reboots and stops when it is asked to", async () => {
    const disk = lab.image("guest.qcow2");
    makeDisk(disk);
    const agentSocket = lab.folder.file("agent.sock");
    const xml = guestXml({ name: "guest", files, disk, agentSocket });
    const { domain } = await lab.libvirt.call("domainDefineXml", { xml, ...none });
    const extra = lab.image("guest-extra.qcow2");
    run("qemu-img", "create", "-q", "-f", "qcow2", extra, "8M");
    await operate(domain, { operation: "start" });
    await until(async () => (await definition(domain, "running")).guestAgent === "connected");
    await operate(domain, { operation: "attach-disk", volumeExternalId: extra });
    await operate(domain, { operation: "detach-disk", volumeExternalId: extra });
    for (const which of ["running", "defined"] as const)
      assert.equal((await definition(domain, which)).disk("vdb"), undefined);
    const agent = async () => (await definition(domain, "running")).guestAgent;
    await operate(domain, { operation: "reboot" });
    await until(async () => (await agent()) !== "connected");
    await until(async () => (await agent()) === "connected");
    assert.deepEqual(await operate(domain, { operation: "stop" }), { finished: true });
    assert.equal(await state(domain), domainState.shutoff);
  });
});
