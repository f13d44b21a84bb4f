/** The whole way: VMs of a host with libvirt, QEMU and SSH, through API, Step Functions and functions, into a store and back. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createReadStream, existsSync, globSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { ListObjectsV2Command } from "@aws-sdk/client-s3";
import { CreateSecretCommand } from "@aws-sdk/client-secrets-manager";
import { dedupDomain } from "../../lambdas/domain/inventory.ts";
import { jobKinds } from "../../lambdas/domain/job.ts";
import { backupPool } from "../../lambdas/domain/pool.ts";
import { parseOverlayPath } from "../../lambdas/hypervisors/kvm/overlay-path.ts";
import type { Domain } from "../../lambdas/protocols/libvirt/procedures.ts";
import { domainKeys } from "../../lambdas/repository/layout.ts";
import { openJobs } from "../../lambdas/tables/jobs.ts";
import { getPool } from "../../lambdas/tables/pools.ts";
import { domainXml, guestFiles, makeDisk } from "../../local/kvm-host/guest.ts";
import { run } from "../../local/kvm-host/processes.ts";
import { cloud, eventually } from "../support/cloud.ts";
import { endedJob, noise, snapshotIn, TestHypervisor } from "../support/volumes.ts";
import { workersOf } from "../support/workers.ts";
import { collectUntil, servicesOf } from "../support/workflows.ts";
import { AdapterHost } from "./adapter-host.ts";
import { assertNothingLost, makeWritingDisk, untilWritten } from "./writing-guest.ts";

const MiB = 2 ** 20;
/** More than a worker holds of a volume (three packs, and batches) while a slow store keeps it from going on: the end is not read before something is killed. */
const diskBytes = 96 * MiB;

// First of all: it may take half a minute, and libvirtd hangs up on whoever does not answer its pings for that long.
const files = await guestFiles();
const api = await cloud();
const host = await AdapterHost.start();
const subject = await host.makeSubject();
const copies = await TestHypervisor.register(api);
after(async () => {
  await copies.remove();
  await subject[Symbol.asyncDispose]();
  await host[Symbol.asyncDispose]();
});

const secretId = `snapferry/acme/kvm-host-${host.sshd.port}`;
const registration = {
  kind: "kvm",
  endpoint: `ssh://root@127.0.0.1:${host.sshd.port}`,
  hostKey: readFileSync(join(host.sshd.home, "host.pub"), "utf8").trim(),
  secretId,
  uri: host.uri,
};
const writer = { disk: subject.image("writer.qcow2"), domain: undefined as unknown as Domain, vmId: "", volumeId: "" };
const guestDisks = ["first.qcow2", "second.qcow2"].map((name) => subject.image(name)) as [string, string];
const guestConsole = host.folder.file("console");
let hypervisorId: string;
let guestId: string;
let restores = 0;

function asAdministrator(method: string, path: string, body?: object) {
  return api.call(method, path, { role: "admin", ...(body && { body }) });
}

before(async () => {
  await api.clients.secrets.send(new CreateSecretCommand({ Name: secretId, SecretString: host.sshd.userKey }));
  makeWritingDisk(writer.disk, "qcow2", diskBytes);
  writer.domain = await subject.define("writer", [{ target: "vda", path: writer.disk, format: "qcow2" }]);
  await subject.writeVolume(writer.disk, noise(diskBytes - 8 * MiB), 8 * MiB);
  await subject.start(writer.domain);
  for (const disk of guestDisks) makeDisk(disk);
  const [disk, secondDisk] = guestDisks;
  const agentSocket = host.folder.file("agent.sock");
  const guest = domainXml({ name: "guest", files, disk, secondDisk, agentSocket, console: guestConsole });
  await subject.start(await subject.defineXml(guest));
});

/** The writer's frozen bytes, as QEMU reads them on the host. */
function frozenDigest(snapshotId: string): string {
  const overlay = readdirSync(subject.images).find(
    (name) => parseOverlayPath(subject.image(name))?.snapshotId === snapshotId,
  );
  assert.ok(overlay, `the overlay of ${snapshotId} is not on the host any more`);
  const info = JSON.parse(run("qemu-img", "info", "-U", "--output=json", subject.image(overlay)));
  return digest(subject.readImage(info["full-backing-filename"], info["backing-filename-format"]));
}

function digest(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex");
}

async function digestOfFile(path: string): Promise<string> {
  const sum = createHash("sha256");
  for await (const part of createReadStream(path)) sum.update(part);
  return sum.digest("hex");
}

/** Restores to a directory, and answers the file. */
async function restored(snapshotId: string): Promise<string> {
  const name = `copy-${restores++}`;
  const { status, body } = await api.call("POST", `/snapshots/${snapshotId}/restore`, {
    body: { target: { hypervisorId: copies.id, name } },
  });
  assert.equal(status, 202, JSON.stringify(body));
  const job = await endedJob(api, body.job.id);
  assert.equal(job.state, "Succeeded", JSON.stringify(job));
  return join(copies.directory, name);
}

async function snapshotOf(volumeId: string, body: object = {}) {
  const answer = await api.call("POST", `/volumes/${volumeId}/snapshots`, { body: { asyncBackup: true, ...body } });
  assert.equal(answer.status, 202, JSON.stringify(answer.body));
  const { id } = answer.body.snapshot;
  const { backupJobId } = await eventually(`${id} is on primary`, async () => {
    const { body: job } = await api.call("GET", `/jobs/${answer.body.job.id}`);
    assert.notEqual(job.state, "Failed", JSON.stringify(job));
    return job.state === "Succeeded" && job;
  });
  return { id: id as string, backupJobId: backupJobId as string };
}

/** Waits until a shard of the job is being copied. */
function copying(jobId: string) {
  return eventually(`${jobId} copies`, async () => {
    const { body } = await api.call("GET", `/jobs/${jobId}`);
    return body.phase === "Copying" && body.progress?.bytesDone > 0 && body;
  });
}

/** Slow enough that something can happen in the middle. */
async function limitStore(bytesPerSecond: number | null): Promise<void> {
  const { status, body } = await asAdministrator("PATCH", "/stores/default", { limits: { bytesPerSecond } });
  assert.equal(status, 200, JSON.stringify(body));
}

/** What lasts no longer than a job: exports and what is held of guests on the host, slots, the writer's pins, and what is left to be done. */
async function leftovers(): Promise<string[]> {
  const left = globSync([".snapferry/*/exports/*/", ".snapferry/*/held/*"], { cwd: host.sshd.home });
  const { database } = await servicesOf(api);
  for (const kind of jobKinds) for await (const job of openJobs(database, kind)) left.push(`${job.id} is open`);
  const { running = 0 } = (await getPool(database, backupPool)) ?? {};
  if (running > 0) left.push(`${running} slots are taken`);
  const Prefix = domainKeys(dedupDomain("acme", writer.volumeId)).jobs;
  const pins = await api.clients.s3.send(new ListObjectsV2Command({ Bucket: api.outputs.BackupBucketName, Prefix }));
  return [...left, ...(pins.Contents ?? []).map(({ Key = "" }) => Key)];
}

/** Jobs clean up after they have said that they are done. What a dead one leaves is collected. */
async function nothingIsLeft(): Promise<void> {
  let left: string[] = [];
  const isNothing = async () => {
    left = await leftovers();
    return left.length === 0;
  };
  await collectUntil(api, "nothing is left", isNothing).catch((error: Error) => {
    throw new Error(`${error.message}: ${left.join(", ")}`);
  });
}

/** By means of the operating system. Answers how many were still there. */
function kill(pids: readonly number[]): number {
  const killed = pids.filter((pid) => {
    try {
      return process.kill(pid, "SIGKILL");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
      throw error;
    }
  });
  return killed.length;
}

async function operate(vmId: string, operation: string, status: number, more: object = {}) {
  const answer = await asAdministrator("POST", `/vms/${vmId}/operations`, { operation, ...more });
  assert.equal(answer.status, status, `${operation}: ${JSON.stringify(answer.body)}`);
  return answer.body;
}

/** Processes of this test by what they run. */
function processes(matches: (commandLine: string) => boolean): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return matches(readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " "));
      } catch {
        // It has ended meanwhile.
        return false;
      }
    })
    .map(Number);
}

describe("a KVM host", () => {
  test("is registered by its key, and refused in words by another", async () => {
    const other = readFileSync(join(host.sshd.home, "user.pub"), "utf8").trim();
    const refused = await asAdministrator("POST", "/hypervisors", { ...registration, hostKey: other });
    assert.equal(refused.status, 400);
    assert.equal(refused.body.errors[0].pointer, "/hostKey", JSON.stringify(refused.body));
    const unreachable = await asAdministrator("POST", "/hypervisors", {
      ...registration,
      endpoint: "ssh://root@127.0.0.1:9",
    });
    assert.equal(unreachable.status, 400);
    assert.equal(unreachable.body.errors[0].pointer, "/endpoint", JSON.stringify(unreachable.body));
    const registered = await asAdministrator("POST", "/hypervisors", registration);
    assert.equal(registered.status, 201, JSON.stringify(registered.body));
    assert.ok(!JSON.stringify(registered.body).includes("PRIVATE KEY"));
    hypervisorId = registered.body.id;
  });

  test("shows its VMs and their disks", async () => {
    const discovered = await asAdministrator("POST", `/hypervisors/${hypervisorId}/discover`);
    assert.equal(discovered.status, 200, JSON.stringify(discovered.body));
    const { body } = await api.call("GET", `/vms?hypervisorId=${hypervisorId}`);
    assert.deepEqual(body.items.map(({ name, state }: Record<string, string>) => [name, state]).sort(), [
      ["guest", "running"],
      ["writer", "running"],
    ]);
    const vm = body.items.find(({ name }: { name: string }) => name === "writer");
    [writer.vmId, writer.volumeId] = [vm.id, vm.disks[0].volumeId];
    guestId = body.items.find(({ name }: { name: string }) => name === "guest").id;
  });
});

describe("a volume of a running VM that writes all the time", () => {
  let first: string;

  test("is backed up while the VM is operated, stopped and started, and comes back as it was frozen", async () => {
    await untilWritten(host.uri, writer.domain);
    await limitStore(MiB);
    const { id, backupJobId } = await snapshotOf(writer.volumeId);
    await copying(backupJobId);
    const { vmId, volumeId } = writer;
    const refused = { destroy: {}, "detach-iso": {}, "detach-disk": { volumeId } };
    for (const [operation, more] of Object.entries(refused)) {
      const { type, jobs } = await operate(vmId, operation, 409, more);
      assert.deepEqual([type, jobs], ["/problems/vm-is-backing-up", [backupJobId]]);
    }
    const { body: listed } = await asAdministrator("GET", `/vms/${vmId}/operations`);
    const forbidden = listed.operations.filter(({ jobs }: { jobs?: string[] }) => jobs?.includes(backupJobId));
    const names = forbidden.map(({ operation }: { operation: string }) => operation);
    assert.deepEqual(names, ["destroy", "detach-iso", "detach-disk", "reinstall"]);
    await operate(vmId, "change-cpu", 200, { cpus: 1 });
    await operate(vmId, "reboot", 200);
    await subject.destroy(writer.domain);
    assert.equal((await operate(vmId, "start", 200)).state, "running");
    writer.domain = await domainNamed("writer");
    await untilWritten(host.uri, writer.domain);
    const { body: meanwhile } = await api.call("GET", `/snapshots/${id}`);
    assert.equal(meanwhile.state, "BackingUp", JSON.stringify(meanwhile));
    await limitStore(null);
    const snapshot = await snapshotIn(api, id, ["BackedUp", "Error"], { seconds: 120 });
    assert.equal(snapshot.state, "BackedUp", JSON.stringify(snapshot));
    assert.equal(snapshot.consistency, "crash");
    const { body: job } = await api.call("GET", `/jobs/${backupJobId}`);
    assert.equal(job.attempt, 1, JSON.stringify(job.attempts));
    const file = await restored(id);
    assert.equal(await digestOfFile(file), frozenDigest(id));
    assertNothingLost(readFileSync(file), 1);
    first = id;
  });

  test("is backed up again and again by what changed, and each time comes back as it was frozen", async () => {
    for (let base = first, times = 0; times < 2; times++) {
      await untilWritten(host.uri, writer.domain);
      const { id, backupJobId } = await snapshotOf(writer.volumeId);
      await snapshotIn(api, id, ["BackedUp"]);
      const { body: job } = await api.call("GET", `/jobs/${backupJobId}`);
      assert.deepEqual(job.backup, { kind: "incremental", base, reading: "changed" });
      assert.ok(job.progress.bytesTotal < 16 * MiB, `${job.progress.bytesTotal} bytes were read`);
      const file = await restored(id);
      assert.equal(await digestOfFile(file), frozenDigest(id));
      assertNothingLost(readFileSync(file), 2);
      base = id;
    }
    await nothingIsLeft();
  });

  const deaths: Record<string, () => Promise<number[]>> = {
    "its worker": () => workersOf(api, api.outputs.CopyFunctionName),
    "its qemu-nbd": async () => processes((line) => line.includes("qemu-nbd") && line.includes(subject.images)),
    "its SSH connection": async () => {
      const children = new Set(run("pgrep", "-P", String(host.sshd.pid)).split("\n").map(Number));
      const sessions = new Set(processes((line) => line.startsWith("sshd:")));
      return [...children].filter((pid) => sessions.has(pid));
    },
  };
  for (const [what, find] of Object.entries(deaths)) {
    test(`is backed up although ${what} is killed in the middle`, async () => {
      await limitStore(2 * MiB);
      const { id, backupJobId } = await snapshotOf(writer.volumeId, { full: true });
      await copying(backupJobId);
      assert.ok(kill(await find()) > 0);
      await limitStore(null);
      const snapshot = await snapshotIn(api, id, ["BackedUp", "Error"], { seconds: 150 });
      assert.equal(snapshot.state, "BackedUp", JSON.stringify(snapshot));
      const { body: job } = await api.call("GET", `/jobs/${backupJobId}`);
      assert.equal(job.attempt, 2, JSON.stringify(job.attempts));
      assert.equal(await digestOfFile(await restored(id)), frozenDigest(id));
      await nothingIsLeft();
    });
  }
});

async function domainNamed(name: string): Promise<Domain> {
  const { domains } = await host.libvirt.call("connectListAllDomains", { needResults: 1, flags: 0 });
  const domain = domains.find((each) => each.name === name);
  assert.ok(domain);
  return domain;
}

/** How often the guest has begun to write, and how long it did not between two writes: seconds, and when that was since its start. */
function writesOfGuest() {
  const said = existsSync(guestConsole) ? readFileSync(guestConsole, "utf8") : "";
  const gaps = [...said.matchAll(/^gap (\d+) at (\d+)/gm)];
  return {
    begins: said.split("begins").length - 1,
    hasWritten: said.includes("longest gap"),
    gaps: gaps.map(([, gap, at]) => [Number(gap) / 100, Number(at) / 100]),
  };
}

describe("two disks of a guest with an agent", () => {
  test("are frozen together, clean, for a short time", async (t) => {
    await eventually("the guest writes", async () => writesOfGuest().hasWritten, { seconds: 120 });
    await asAdministrator("POST", `/hypervisors/${hypervisorId}/discover`);
    const before = writesOfGuest().gaps.length;
    const body = { quiesce: true, asyncBackup: true };
    const answer = await api.call("POST", `/vms/${guestId}/snapshots`, { body });
    assert.equal(answer.status, 202, JSON.stringify(answer.body));
    for (const { job } of answer.body.snapshots) assert.equal((await endedJob(api, job.id)).state, "Succeeded");
    const gaps = writesOfGuest().gaps.slice(before);
    const told = gaps.map(([gap, at]) => `${gap} s at ${at} s`).join(", ");
    t.diagnostic(`while its disks were frozen the guest did not write for ${told || "no 0.1 s"}`);
    const counters: number[] = [];
    for (const { id } of answer.body.snapshots) {
      const snapshot = await snapshotIn(api, id, ["BackedUp", "Error"], { seconds: 120 });
      assert.deepEqual([snapshot.state, snapshot.consistency], ["BackedUp", "filesystem"], JSON.stringify(snapshot));
      const file = await restored(id);
      run("/sbin/e2fsck", "-fn", file);
      counters.push(Number(run("/sbin/debugfs", "-R", "cat counter", file)));
    }
    const [one = 0, two = 0] = counters;
    assert.ok(one > 0 && Math.abs(one - two) <= 1, `one moment for both disks, not ${one} and ${two}`);
  });

  test("are of a guest that reboots and stops when it is asked to", async () => {
    const { begins } = writesOfGuest();
    assert.equal((await operate(guestId, "reboot", 200)).state, "running");
    await eventually("it has rebooted", async () => writesOfGuest().begins > begins, { seconds: 120 });
    // Its agent, which hears it, comes a moment later.
    const isStopped = async () => (await operate(guestId, "stop", 200)).state === "stopped";
    await eventually("it has stopped", isStopped, { seconds: 120 });
    assert.equal((await api.call("GET", `/vms/${guestId}`)).body.state, "stopped");
  });
});
