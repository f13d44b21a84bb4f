/** Restores to a KVM host through API, Step Functions and functions: the volume is found, becomes a VM's disk, and boots. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { CreateSecretCommand } from "@aws-sdk/client-secrets-manager";
import { cloud, eventually } from "../support/cloud.ts";
import { endedJob, snapshotIn, TestHypervisor } from "../support/volumes.ts";
import { AdapterHost } from "./adapter-host.ts";
import { assertNothingLost, makeWritingDisk } from "./writing-guest.ts";

const diskBytes = 64 * 2 ** 20;
const api = await cloud();
const host = await AdapterHost.start();
const subject = await host.makeSubject();
const source = await TestHypervisor.register(api);
after(async () => {
  await source.remove();
  await subject[Symbol.asyncDispose]();
  await host[Symbol.asyncDispose]();
});

function asAdministrator(method: string, path: string, body?: object) {
  return api.call(method, path, { role: "admin", ...(body && { body }) });
}

async function volumesOf(hypervisorId: string): Promise<{ id: string; name: string; status: string }[]> {
  return (await api.call("GET", `/volumes?hypervisorId=${hypervisorId}&limit=100`)).body.items;
}

test("a backup is restored to a storage pool, becomes a disk of a VM, and boots", async () => {
  const secretId = `snapferry/acme/kvm-restore-${host.sshd.port}`;
  await api.clients.secrets.send(new CreateSecretCommand({ Name: secretId, SecretString: host.sshd.userKey }));
  const registered = await asAdministrator("POST", "/hypervisors", {
    kind: "kvm",
    endpoint: `ssh://root@127.0.0.1:${host.sshd.port}`,
    hostKey: readFileSync(join(host.sshd.home, "host.pub"), "utf8").trim(),
    secretId,
    uri: host.uri,
  });
  assert.equal(registered.status, 201, JSON.stringify(registered.body));
  const hypervisorId: string = registered.body.id;

  const boot = host.folder.file("boot.raw");
  makeWritingDisk(boot, "raw", diskBytes);
  const volumeId = await source.addVolume("boot.raw", diskBytes, [
    { offset: 0, data: readFileSync(boot).subarray(0, 4096) },
  ]);
  const taken = await api.call("POST", `/volumes/${volumeId}/snapshots`, { body: {} });
  assert.equal(taken.status, 202, JSON.stringify(taken.body));
  await snapshotIn(api, taken.body.snapshot.id, ["BackedUp"]);

  const target = { hypervisorId, name: "restored.qcow2" };
  const restore = await api.call("POST", `/snapshots/${taken.body.snapshot.id}/restore`, { body: { target } });
  assert.equal(restore.status, 202, JSON.stringify(restore.body));
  const job = await endedJob(api, restore.body.job.id);
  assert.equal(job.state, "Succeeded", JSON.stringify(job));

  const path = subject.image("restored.qcow2");
  const [restored, ...others] = await volumesOf(hypervisorId);
  assert.deepEqual(others, []);
  assert.deepEqual([restored?.id, restored?.name], [job.target.volumeId, "restored.qcow2"]);
  const domain = await subject.define("fresh", []);
  const discovered = await asAdministrator("POST", `/hypervisors/${hypervisorId}/discover`);
  assert.equal(discovered.status, 200, JSON.stringify(discovered.body));
  const found = await volumesOf(hypervisorId);
  assert.deepEqual(
    found.map(({ id, status }) => [id, status]),
    [[job.target.volumeId, "available"]],
    "a discovery finds another volume",
  );

  const { body } = await api.call("GET", `/vms?hypervisorId=${hypervisorId}`);
  const operations = `/vms/${body.items[0].id}/operations`;
  const attached = await asAdministrator("POST", operations, { operation: "attach-disk", volumeId: restored?.id });
  assert.equal(attached.status, 200, JSON.stringify(attached.body));
  const started = await asAdministrator("POST", operations, { operation: "start" });
  assert.equal(started.status, 200, JSON.stringify(started.body));
  await eventually("the VM uses the disk", async () => (await subject.diskOf(path)).running);
  await pause(2_000);
  await subject.destroy(domain);
  assertNothingLost(subject.readImage(path, "qcow2"), 1);
});
