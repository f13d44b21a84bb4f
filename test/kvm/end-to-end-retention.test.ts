/** What stays on a KVM host after backups and deletions, through API, Step Functions and functions. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { CreateSecretCommand } from "@aws-sdk/client-secrets-manager";
import { workFolder } from "../../local/kvm-host/processes.ts";
import { cloud, eventually } from "../support/cloud.ts";
import { endedJob, noise, snapshotIn, TestHypervisor } from "../support/volumes.ts";
import { changeSettings } from "../support/workflows.ts";
import { AdapterHost } from "./adapter-host.ts";
import { assertLocked } from "./locked-start.ts";

const MiB = 2 ** 20;
const diskBytes = 48 * MiB;
const secretId = "snapferry/acme/kvm-retention";

const api = await cloud();
const programs = workFolder();
const host = await AdapterHost.start({ searchPath: `${programs.path}:/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin` });
const subject = await host.makeSubject({ running: true });
const copies = await TestHypervisor.register(api);
after(async () => {
  await changeSettings(api, { "primary.maxChain": "16" });
  await limitStore(null);
  await copies.remove();
  await subject[Symbol.asyncDispose]();
  await host[Symbol.asyncDispose]();
  programs.remove();
});

/** While this file is there, merges of stopped VMs are slow. */
const slowly = programs.file("slowly");
writeFileSync(
  programs.file("qemu-img"),
  `#!/bin/sh
if [ "$1" = commit ] && [ -e ${slowly} ]; then shift; exec /usr/bin/qemu-img commit -r ${MiB} "$@"; fi
exec /usr/bin/qemu-img "$@"
`,
  { mode: 0o755 },
);

let disk: string;
let volumeId: string;
let vmId: string;

function asAdministrator(method: string, path: string, body?: object) {
  return api.call(method, path, { role: "admin", ...(body && { body }) });
}

before(async () => {
  await api.clients.secrets.send(new CreateSecretCommand({ Name: secretId, SecretString: host.sshd.userKey }));
  disk = await subject.makeVolume("disk", diskBytes);
  await subject.writeVolume(disk, noise(diskBytes - MiB), 0);
  const registered = await asAdministrator("POST", "/hypervisors", {
    kind: "kvm",
    endpoint: `ssh://root@127.0.0.1:${host.sshd.port}`,
    hostKey: readFileSync(join(host.sshd.home, "host.pub"), "utf8").trim(),
    secretId,
    uri: host.uri,
  });
  assert.equal(registered.status, 201, JSON.stringify(registered.body));
  const { id } = registered.body;
  assert.equal((await asAdministrator("POST", `/hypervisors/${id}/discover`)).status, 200);
  const { body } = await api.call("GET", `/volumes?hypervisorId=${id}`);
  [{ id: volumeId }] = body.items;
  const { body: vms } = await api.call("GET", `/vms?hypervisorId=${id}`);
  [{ id: vmId }] = vms.items;
});

/** Slow enough that something can happen in the middle. */
async function limitStore(bytesPerSecond: number | null): Promise<void> {
  const { status, body } = await asAdministrator("PATCH", "/stores/default", { limits: { bytesPerSecond } });
  assert.equal(status, 200, JSON.stringify(body));
}

/** Asks for a snapshot after something was written, and answers its id. */
async function take(body: object = {}): Promise<string> {
  await subject.writeVolume(disk, noise(100_000), 5 * MiB);
  const answer = await api.call("POST", `/volumes/${volumeId}/snapshots`, { body: { asyncBackup: true, ...body } });
  assert.equal(answer.status, 202, JSON.stringify(answer.body));
  return answer.body.snapshot.id;
}

async function backUp(): Promise<{ id: string; job: string; reading: string }> {
  const id = await take();
  const snapshot = await snapshotIn(api, id, ["BackedUp"], { seconds: 120 });
  const { body: job } = await api.call("GET", `/jobs/${snapshot.job.id}`);
  return { id, job: job.id, reading: job.backup.reading };
}

async function isOnPrimary(id: string): Promise<boolean> {
  const { body } = await api.call("GET", `/snapshots/${id}`);
  return body.references.some(({ role }: { role: string }) => role === "Primary");
}

async function deleted(id: string): Promise<string> {
  const { status, body } = await api.call("DELETE", `/snapshots/${id}`);
  assert.equal(status, 202, JSON.stringify(body));
  return body.job.id;
}

async function operate(operation: string, state: string): Promise<void> {
  const { status, body } = await asAdministrator("POST", `/vms/${vmId}/operations`, { operation });
  assert.deepEqual([status, body.state], [200, state], JSON.stringify(body));
}

describe("snapshots of a VM that runs", () => {
  let reference: string;
  let next: string;

  test("leave the newest on the host, which the next backup is told its changes from", async () => {
    const first = await backUp();
    assert.equal(first.reading, "everything");
    assert.equal(await isOnPrimary(first.id), true);
    const second = await backUp();
    assert.equal(second.reading, "changed");
    await eventually("the earlier one is merged", async () => !(await isOnPrimary(first.id)), { seconds: 60 });
    assert.equal(await isOnPrimary(second.id), true);
    assert.equal(await subject.countSnapshots(), 1);
    reference = second.id;
  });

  test("are deleted once no backup reads the chain any more", async () => {
    await limitStore(MiB);
    next = await take({ full: true });
    await eventually(`${next} is being copied`, async () => {
      const { body } = await api.call("GET", `/snapshots/${next}`);
      return body.progress?.bytesDone > 0;
    });
    const jobId = await deleted(reference);
    const { body: waiting } = await eventually("the deletion waits", async () => {
      const answer = await api.call("GET", `/jobs/${jobId}`);
      return answer.body.phase === "WaitingForExport" && answer;
    });
    assert.equal(waiting.state, "Running");
    assert.equal(await subject.countSnapshots(), 2);
    await limitStore(null);
    await snapshotIn(api, next, ["BackedUp"], { seconds: 120 });
    const job = await endedJob(api, jobId, { seconds: 180 });
    assert.equal(job.state, "Succeeded", JSON.stringify(job));
    assert.equal(await subject.countSnapshots(), 1);
    assert.equal(await isOnPrimary(next), true);
  });

  test("are not taken beyond primary.maxChain", async () => {
    await changeSettings(api, { "primary.maxChain": "2" });
    await limitStore(MiB);
    const another = await take({ full: true });
    const refused = await api.call("POST", `/volumes/${volumeId}/snapshots`, { body: {} });
    assert.equal(refused.status, 409, JSON.stringify(refused.body));
    assert.equal(refused.body.type, "/problems/primary-chain-is-full");
    assert.deepEqual(refused.body.snapshots, [another, next]);
    await limitStore(null);
    await snapshotIn(api, another, ["BackedUp"], { seconds: 120 });
    await eventually("there is room again", async () => !(await isOnPrimary(next)), { seconds: 60 });
    next = another;
  });

  test("leave a hidden copy when the newest is deleted: the next backup reads what changed since the one before", async () => {
    const newest = await backUp();
    await eventually("the earlier one is merged", async () => !(await isOnPrimary(next)), { seconds: 60 });
    assert.equal((await endedJob(api, await deleted(newest.id), { seconds: 120 })).state, "Succeeded");
    assert.equal(await subject.countSnapshots(), 1);
    await subject.writeVolume(disk, noise(70_000), 20 * MiB);
    const following = await backUp();
    assert.equal(following.reading, "changed");
    const { body: job } = await api.call("GET", `/jobs/${following.job}`);
    assert.equal(job.backup.base, next);
    assert.ok(job.progress.bytesTotal < 2 * MiB, JSON.stringify(job.progress));
    await eventually("the hidden copy is merged", async () => (await subject.countSnapshots()) === 1, { seconds: 60 });
    assert.equal(await isOnPrimary(following.id), true);
    next = following.id;
  });

  test("leave nothing on the host when all are deleted, although the VM is started in the middle of a merge", async () => {
    const bytes = await subject.readVolume(disk);
    const { status, body } = await api.call("POST", `/snapshots/${next}/restore`, {
      body: { target: { hypervisorId: copies.id, name: "copy" } },
    });
    assert.equal(status, 202, JSON.stringify(body));
    assert.equal((await endedJob(api, body.job.id)).state, "Succeeded");
    assert.ok(readFileSync(join(copies.directory, "copy")).equals(bytes));

    const { body: left } = await api.call("GET", `/snapshots?volumeId=${volumeId}`);
    assert.equal(left.items[0].id, next);
    const succeeded = async (jobId: string) =>
      assert.equal((await endedJob(api, jobId, { seconds: 120 })).state, "Succeeded");
    const [last, ...others] = left.items.map(({ id }: { id: string }) => id).reverse();
    for (const id of others.reverse()) await succeeded(await deleted(id));
    assert.equal(await subject.countSnapshots(), 1);
    await operate("destroy", "stopped");
    await subject.writeVolume(disk, noise(32 * MiB), 8 * MiB);
    const changed = await subject.readVolume(disk);
    writeFileSync(slowly, "");
    const jobId = await deleted(last);
    const mergesStopped = async () => readdirSync(subject.images).some((name) => /^\.snapferry-.*\.pid$/.test(name));
    await eventually("the stopped disk is being merged", mergesStopped);
    await assertLocked(async () => subject.start((await subject.diskOf(disk)).domain));
    await operate("start", "running");
    await succeeded(jobId);
    assert.equal(await subject.countSnapshots(), 0);
    const { path, running } = await subject.diskOf(disk);
    assert.deepEqual([path, running], [disk, true]);
    assert.ok((await subject.readVolume(disk)).equals(changed));
    assert.deepEqual(
      readdirSync(subject.images).filter((name) => name.startsWith(".")),
      [],
    );
  });
});
