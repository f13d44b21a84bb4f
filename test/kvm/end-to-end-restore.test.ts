/** Restores to KVM hosts through API, Step Functions and functions: volumes are found, become disks of VMs and VMs of their own, and boot. */
import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { CreateSecretCommand } from "@aws-sdk/client-secrets-manager";
import { getJob } from "../../lambdas/tables/jobs.ts";
import { cloud, eventually } from "../support/cloud.ts";
import { endedJob, snapshotIn, TestHypervisor } from "../support/volumes.ts";
import { collectUntil, servicesOf } from "../support/workflows.ts";
import { AdapterHost, type KvmSubject } from "./adapter-host.ts";
import { assertNothingLost, makeWritingDisk, untilWritten } from "./writing-guest.ts";

const MiB = 2 ** 20;
const diskBytes = 64 * MiB;
const api = await cloud();
const host = await AdapterHost.start();
const subject = await host.makeSubject();
const source = await TestHypervisor.register(api);
let hypervisorId: string;
/** The backup of a disk that boots. */
let bootable: string;

before(async () => {
  hypervisorId = await register(host);
  const boot = host.folder.file("boot.raw");
  makeWritingDisk(boot, "raw", diskBytes);
  const start = [{ offset: 0, data: readFileSync(boot).subarray(0, 4096) }];
  bootable = await backUp(await source.addVolume("boot.raw", diskBytes, start));
});
after(async () => {
  await source.remove();
  await subject[Symbol.asyncDispose]();
  await host[Symbol.asyncDispose]();
});

function asAdministrator(method: string, path: string, body?: object) {
  return api.call(method, path, { role: "admin", ...(body && { body }) });
}

async function register({ sshd, uri }: AdapterHost): Promise<string> {
  const secretId = `snapferry/acme/kvm-restore-${sshd.port}`;
  await api.clients.secrets.send(new CreateSecretCommand({ Name: secretId, SecretString: sshd.userKey }));
  const registered = await asAdministrator("POST", "/hypervisors", {
    kind: "kvm",
    endpoint: `ssh://root@127.0.0.1:${sshd.port}`,
    hostKey: readFileSync(join(sshd.home, "host.pub"), "utf8").trim(),
    secretId,
    uri,
  });
  assert.equal(registered.status, 201, JSON.stringify(registered.body));
  return registered.body.id;
}

async function discover(id = hypervisorId) {
  const discovered = await asAdministrator("POST", `/hypervisors/${id}/discover`);
  assert.equal(discovered.status, 200, JSON.stringify(discovered.body));
  return discovered.body;
}

async function volumesOf(hypervisorId: string): Promise<{ id: string; name: string; status: string }[]> {
  return (await api.call("GET", `/volumes?hypervisorId=${hypervisorId}&limit=100`)).body.items;
}

async function vmNamed(name: string, id = hypervisorId) {
  const { body } = await api.call("GET", `/vms?hypervisorId=${id}&limit=100`);
  return body.items.find((vm: { name: string }) => vm.name === name) ?? assert.fail(`there is no VM ${name}`);
}

/** Answers the snapshot's id when its backup is made. */
async function backUp(volumeId: string): Promise<string> {
  const taken = await api.call("POST", `/volumes/${volumeId}/snapshots`, { body: {} });
  assert.equal(taken.status, 202, JSON.stringify(taken.body));
  const snapshot = await snapshotIn(api, taken.body.snapshot.id, ["BackedUp", "Error"]);
  assert.equal(snapshot.state, "BackedUp", JSON.stringify(snapshot));
  return taken.body.snapshot.id;
}

/** Answers the job when it has ended. */
async function restored(snapshotId: string, target: object) {
  const body = { target: { hypervisorId, ...target } };
  const restore = await api.call("POST", `/snapshots/${snapshotId}/restore`, { body });
  assert.equal(restore.status, 202, JSON.stringify(restore.body));
  return endedJob(api, restore.body.job.id);
}

async function restoredWell(snapshotId: string, target: object) {
  const job = await restored(snapshotId, target);
  assert.equal(job.state, "Succeeded", JSON.stringify(job));
  return job;
}

async function operate(vmId: string, request: object) {
  const { status, body } = await asAdministrator("POST", `/vms/${vmId}/operations`, request);
  assert.equal(status, 200, JSON.stringify(body));
}

/** Lets the VM run for a while from this file, cuts its power, and looks at what it wrote. */
async function assertBoots(on: KvmSubject, path: string, vmId: string): Promise<void> {
  await operate(vmId, { operation: "start" });
  await eventually("the VM uses the disk", async () => (await on.diskOf(path)).running);
  const { domain } = await on.diskOf(path);
  await untilWritten(on.host.uri, domain);
  await on.destroy(domain);
  assertNothingLost(on.readImage(path, "qcow2"), 1);
}

/** A storage pool of this name in a folder of its own, which is answered. */
async function makePool(name: string): Promise<string> {
  const folder = host.folder.file(name);
  mkdirSync(folder);
  const xml = `<pool type='dir'><name>${name}</name><target><path>${folder}</path></target></pool>`;
  const { pool } = await host.libvirt.call("poolDefineXml", { xml, flags: 0 });
  await host.libvirt.call("poolCreate", { pool, flags: 0 });
  return folder;
}

test("a backup is restored to a storage pool, becomes a disk of a VM, and boots", async () => {
  const job = await restoredWell(bootable, { name: "restored.qcow2" });
  const path = subject.image("restored.qcow2");
  const [found, ...others] = await volumesOf(hypervisorId);
  assert.deepEqual(others, []);
  assert.deepEqual([found?.id, found?.name], [job.target.volumeId, "restored.qcow2"]);
  await subject.define("fresh", []);
  await discover();
  assert.deepEqual(
    (await volumesOf(hypervisorId)).map(({ id, status }) => [id, status]),
    [[job.target.volumeId, "available"]],
    "a discovery finds another volume",
  );
  const { id } = await vmNamed("fresh");
  await operate(id, { operation: "attach-disk", volumeId: found?.id });
  await assertBoots(subject, path, id);
});

test("a backup is restored to a pool of another name, and is a disk of a running VM when the job ends", async () => {
  const folder = await makePool("fast");
  const system = subject.image("system.qcow2");
  makeWritingDisk(system, "qcow2", 16 * MiB);
  const domain = await subject.define("running", [{ target: "vda", path: system, format: "qcow2" }]);
  await subject.start(domain);
  await discover();
  const vm = await vmNamed("running");
  const job = await restoredWell(bootable, { name: "data.qcow2", pool: "fast", attachToVmId: vm.id });
  assert.deepEqual([job.target.pool, job.target.vmId], ["fast", vm.id]);
  const { domain: owner, running, path } = await subject.diskOf(join(folder, "data.qcow2"));
  assert.deepEqual([owner.name, running, path], ["running", true, join(folder, "data.qcow2")]);
  const { disks } = (await api.call("GET", `/vms/${vm.id}`)).body;
  assert.deepEqual(
    disks.map(({ target, volumeId }: Record<string, string>) => [target, volumeId]),
    [
      ["vda", vm.disks[0].volumeId],
      ["vdb", job.target.volumeId],
    ],
  );
  const { name, status, unsupported } = (await api.call("GET", `/volumes/${job.target.volumeId}`)).body;
  assert.deepEqual([name, status, unsupported], ["running/vdb", "in-use", undefined]);
  assert.equal((await discover()).added, 0);
  await subject.destroy(await domainOf(owner.name));
});

async function domainOf(name: string) {
  return (await host.libvirt.call("domainLookupByName", { name })).domain;
}

test("a restore that the host refuses fails in words; what is complete by then stays", async () => {
  const refused = await restored(bootable, { name: "nowhere.qcow2", pool: "no-such-pool" });
  assert.deepEqual(
    [refused.state, refused.error],
    ["Failed", { name: "OperationRefused", message: "There is no storage pool no-such-pool on the host." }],
  );
  const domain = await subject.define("short-lived", []);
  await discover();
  const vm = await vmNamed("short-lived");
  await host.libvirt.call("domainUndefine", { domain, flags: 0 });
  const late = await restored(bootable, { name: "kept.qcow2", attachToVmId: vm.id });
  assert.deepEqual([late.state, late.error.name], ["Failed", "VmNotFound"], JSON.stringify(late));
  assert.match(late.error.message, new RegExp(`^The volume ${late.target.volumeId} is restored and stays`));
  const { body: kept } = await api.call("GET", `/volumes/${late.target.volumeId}`);
  assert.deepEqual([kept.status, kept.externalId], ["available", subject.image("kept.qcow2")]);
  const { database } = await servicesOf(api);
  await collectUntil(api, "nothing is left of both", async () => {
    const jobs = await Promise.all([refused, late].map(({ id }) => getJob(database, "acme", id)));
    return jobs.every((job) => job && !job.open);
  });
});

test("a VM that is gone is made anew of its snapshots, here and on another host, and boots", async () => {
  const [system, data] = ["web.qcow2", "web-data.qcow2"].map((name) => subject.image(name)) as [string, string];
  for (const path of [system, data]) makeWritingDisk(path, "qcow2", 16 * MiB);
  const domain = await subject.define("web", [
    { target: "vda", path: system, format: "qcow2" },
    { target: "vdb", path: data, format: "qcow2" },
  ]);
  await discover();
  const { id: webId, disks } = await vmNamed("web");
  const [first, second] = [await backUp(disks[0].volumeId), await backUp(disks[1].volumeId)];
  const { body: snapshot } = await api.call("GET", `/snapshots/${first}`);
  assert.deepEqual(snapshot.vmDefinition, { name: "web", target: "vda" });
  const taken = await api.call("POST", `/snapshots/${first}/restore`, {
    body: { target: { hypervisorId, name: "x.qcow2", newVm: { name: "web" } } },
  });
  assert.deepEqual([taken.status, taken.body.type], [409, "/problems/vm-name-taken"], JSON.stringify(taken.body));
  await host.libvirt.call("domainUndefine", { domain, flags: 0 });
  for (const name of readdirSync(subject.images)) if (name.startsWith("web")) rmSync(subject.image(name));

  const job = await restoredWell(first, { name: "web-2.qcow2", newVm: { name: "web-2" } });
  const made = await vmNamed("web-2");
  assert.deepEqual([job.target.vmId, made.state], [made.id, "stopped"]);
  assert.notEqual(made.id, webId);
  assert.deepEqual(
    made.disks.map(({ target, volumeId }: Record<string, string>) => [target, volumeId]),
    [["vda", job.target.volumeId]],
  );
  await restoredWell(second, { name: "web-2-data.qcow2", attachToVmId: made.id });
  const { disks: both } = await subject.definition(await domainOf("web-2"));
  assert.deepEqual(
    both.map(({ target, file }) => [target, file]),
    [
      ["vda", subject.image("web-2.qcow2")],
      ["vdb", subject.image("web-2-data.qcow2")],
    ],
  );
  await assertBoots(subject, subject.image("web-2.qcow2"), made.id);
  const { added, vms } = await discover();
  assert.deepEqual([added, vms.added], [0, 0]);

  const forgotten = await asAdministrator("DELETE", `/hypervisors/${hypervisorId}?force=true`);
  assert.equal(forgotten.status, 200, JSON.stringify(forgotten.body));
  const otherHost = await AdapterHost.start();
  const elsewhere = await otherHost.makeSubject();
  try {
    const otherId = await register(otherHost);
    const { target } = await restoredWell(first, { hypervisorId: otherId, name: "web.qcow2", newVm: { name: "web" } });
    assert.equal((await vmNamed("web", otherId)).id, target.vmId);
    await assertBoots(elsewhere, elsewhere.image("web.qcow2"), target.vmId);
  } finally {
    await elsewhere[Symbol.asyncDispose]();
    await otherHost[Symbol.asyncDispose]();
  }
});
