/** Restores in place on a KVM host, through API, Step Functions and functions: a stopped VM gets its disk back, and loses nothing when that fails. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { DeleteObjectsCommand, ListObjectsV2Command } from "@aws-sdk/client-s3";
import { CreateSecretCommand } from "@aws-sdk/client-secrets-manager";
import { StopExecutionCommand } from "@aws-sdk/client-sfn";
import { UpdateCommand } from "@aws-sdk/lib-dynamodb";
import { dedupDomain } from "../../lambdas/domain/inventory.ts";
import { run } from "../../local/kvm-host/processes.ts";
import { cloud, eventually } from "../support/cloud.ts";
import { endedJob, noise, snapshotIn, TestHypervisor } from "../support/volumes.ts";
import { collectUntil, servicesOf } from "../support/workflows.ts";
import { AdapterHost } from "./adapter-host.ts";
import { assertLocked } from "./locked-start.ts";
import { assertNothingLost, makeWritingDisk, untilWritten } from "./writing-guest.ts";

const MiB = 2 ** 20;
const diskBytes = 64 * MiB;

const api = await cloud();
const host = await AdapterHost.start();
const secretId = `snapferry/acme/kvm-in-place-${host.sshd.port}`;
const subject = await host.makeSubject();
const copies = await TestHypervisor.register(api);
after(async () => {
  await limitStore(null);
  await copies.remove();
  await subject[Symbol.asyncDispose]();
  await host[Symbol.asyncDispose]();
});

const disk = subject.image("writer.qcow2");
let volumeId: string;
let vmId: string;
let snapshotId: string;
/** What the snapshot holds. */
let frozen: Buffer;

async function asked(method: string, path: string, status: number, body?: object) {
  const answer = await api.call(method, path, { role: "admin", ...(body && { body }) });
  assert.equal(answer.status, status, `${method} ${path}: ${JSON.stringify(answer.body)}`);
  return answer.body;
}

before(async () => {
  await api.clients.secrets.send(new CreateSecretCommand({ Name: secretId, SecretString: host.sshd.userKey }));
  makeWritingDisk(disk, "qcow2", diskBytes);
  const domain = await subject.define("writer", [{ target: "vda", path: disk, format: "qcow2" }]);
  await subject.writeVolume(disk, noise(12 * MiB), 32 * MiB);
  await subject.start(domain);
  const { id } = await asked("POST", "/hypervisors", 201, {
    kind: "kvm",
    endpoint: `ssh://root@127.0.0.1:${host.sshd.port}`,
    hostKey: readFileSync(join(host.sshd.home, "host.pub"), "utf8").trim(),
    secretId,
    uri: host.uri,
  });
  await asked("POST", `/hypervisors/${id}/discover`, 200);
  [{ id: volumeId }] = (await asked("GET", `/volumes?hypervisorId=${id}`, 200)).items;
  [{ id: vmId }] = (await asked("GET", `/vms?hypervisorId=${id}`, 200)).items;
});

const operate = (operation: string, status = 200) => asked("POST", `/vms/${vmId}/operations`, status, { operation });

/** Slow enough that something can happen in the middle. */
async function limitStore(bytesPerSecond: number | null): Promise<void> {
  await asked("PATCH", "/stores/default", 200, { limits: { bytesPerSecond } });
}

async function restoreInPlace(): Promise<string> {
  const { job } = await asked("POST", `/snapshots/${snapshotId}/restore`, 202, { target: { inPlace: true } });
  return job.id;
}

/** The job has ended, and let go of the volume. */
async function ended(jobId: string) {
  const job = await endedJob(api, jobId, { seconds: 180 });
  const isFree = async () => (await asked("GET", `/volumes/${volumeId}`, 200)).status !== "restoring";
  if (job.state === "Succeeded") await eventually("the volume is free", isFree);
  else await collectUntil(api, "the volume is free", isFree);
  return job;
}

function copying(jobId: string) {
  return eventually(`${jobId} copies`, async () => {
    const job = await asked("GET", `/jobs/${jobId}`, 200);
    assert.notEqual(job.state, "Failed", JSON.stringify(job));
    return job.phase === "Copying" && job.progress?.bytesDone > 0;
  });
}

/** The guest has started, and written on. */
async function written(): Promise<void> {
  await untilWritten(host.uri, (await subject.diskOf(disk)).domain);
}

const hidden = () => readdirSync(subject.images).filter((name) => name.startsWith("."));

/** Nothing but the volume's own file is there, and nobody has it open. */
async function assertAlone(bytes: Buffer): Promise<void> {
  assert.deepEqual(readdirSync(subject.images), ["writer.qcow2"]);
  assert.equal((await subject.diskOf(disk)).path, disk);
  assert.ok(subject.readImage(disk, "qcow2").equals(bytes), "the disk holds other bytes");
  run("qemu-io", "-f", "qcow2", "-c", "read 0 512", disk);
  run("qemu-img", "check", "-q", disk);
}

/** By other means than Snapferry. */
async function assertNotStartable(): Promise<void> {
  const { domain } = await subject.diskOf(disk);
  await assertLocked(() => subject.start(domain));
}

/** Changes the disk of the stopped VM, and tells what it holds then. */
async function changed(): Promise<Buffer> {
  await subject.writeVolume(disk, noise(100_000), 40 * MiB);
  return subject.readImage(disk, "qcow2");
}

describe("a restore in place", () => {
  test("is refused while the VM runs", async () => {
    await written();
    const { snapshot } = await asked("POST", `/volumes/${volumeId}/snapshots`, 202, {});
    snapshotId = snapshot.id;
    await snapshotIn(api, snapshotId, ["BackedUp"], { seconds: 120 });
    const { job } = await asked("POST", `/snapshots/${snapshotId}/restore`, 202, {
      target: { hypervisorId: copies.id, name: "copy" },
    });
    assert.equal((await endedJob(api, job.id)).state, "Succeeded");
    frozen = readFileSync(join(copies.directory, "copy"));
    const refused = await asked("POST", `/snapshots/${snapshotId}/restore`, 409, { target: { inPlace: true } });
    assert.equal(refused.type, "/problems/vm-is-running");
    assert.equal(refused.vmId, vmId);
  });

  test("fails, and changes nothing, when the VM was started by other means since it was last looked at", async () => {
    await operate("destroy");
    const { domain } = await subject.diskOf(disk);
    await subject.start(domain);
    await written();
    const job = await ended(await restoreInPlace());
    assert.deepEqual([job.state, job.error?.name], ["Failed", "OperationRefused"], JSON.stringify(job));
    assert.deepEqual(hidden(), []);
    // The snapshot's copy on primary is there, too.
    assert.equal(await subject.countSnapshots(), 1);
    await operate("destroy");
    assertNothingLost(await subject.readVolume(disk), 2);
  });

  test("of a stopped VM gives it the bytes that it had, and it boots with them", async () => {
    const job = await ended(await restoreInPlace());
    assert.equal(job.state, "Succeeded", JSON.stringify(job));
    assert.equal(job.target.volumeId, volumeId);
    await assertAlone(frozen);
    await operate("start");
    await written();
    await operate("destroy");
    assertNothingLost(subject.readImage(disk, "qcow2"), 2);
  });

  test("lets nobody start the VM in the middle: not through Snapferry, nor by other means", async () => {
    await limitStore(MiB);
    const jobId = await restoreInPlace();
    await copying(jobId);
    await assertNotStartable();
    const refused = await operate("start", 409);
    assert.equal(refused.type, "/problems/volume-is-restoring");
    assert.deepEqual(refused.jobs, [jobId]);
    await limitStore(null);
    assert.equal((await ended(jobId)).state, "Succeeded");
    await assertAlone(frozen);
  });

  test("that is cancelled leaves the disk as it was", async () => {
    const bytes = await changed();
    await limitStore(MiB);
    const jobId = await restoreInPlace();
    await copying(jobId);
    await asked("POST", `/jobs/${jobId}/cancel`, 200, {});
    await limitStore(null);
    assert.equal((await ended(jobId)).state, "Cancelled");
    await assertAlone(bytes);
  });

  test("whose worker dies after the exchange and before its success puts the disk back", async () => {
    const bytes = await changed();
    const { database } = await servicesOf(api);
    const changeRow = (UpdateExpression: string, ExpressionAttributeValues?: Record<string, string>) =>
      database.client.send(
        new UpdateCommand({
          TableName: database.tables.volumes,
          Key: { tenant: "acme", id: volumeId },
          UpdateExpression,
          ...(ExpressionAttributeValues && { ExpressionAttributeValues }),
        }),
      );
    await limitStore(MiB);
    const jobId = await restoreInPlace();
    await copying(jobId);
    // While the volume's row names another job this one cannot succeed.
    await changeRow("SET restoringJobId = :job", { ":job": "job_of_somebody_else" });
    await limitStore(null);
    const isExchanged = async () => hidden().join() === `.snapferry-${jobId}.replaced`;
    await eventually("the files are exchanged", isExchanged, { pauseMilliseconds: 10 });
    await assertNotStartable();
    const executionArn = `${api.outputs.StateMachineArnPrefix?.replace(":stateMachine:", ":execution:")}restore-volume:${jobId}`;
    await api.clients.sfn.send(new StopExecutionCommand({ executionArn }));
    assert.ok(subject.readImage(disk, "qcow2").equals(frozen), "it was not exchanged");
    await collectUntil(api, "the old disk is back", async () => hidden().length === 0);
    const job = await asked("GET", `/jobs/${jobId}`, 200);
    assert.deepEqual([job.state, job.error.name], ["Failed", "ExecutionDied"]);
    await changeRow("REMOVE restoringJobId");
    await assertAlone(bytes);
    await operate("start");
    await operate("destroy");
  });

  test("whose store fails in the middle leaves the disk as it was", async () => {
    const bytes = await changed();
    await limitStore(MiB);
    const jobId = await restoreInPlace();
    await copying(jobId);
    const Bucket = api.outputs.BackupBucketName;
    const Prefix = `domains/${dedupDomain("acme", volumeId)}/packs/`;
    const { Contents = [] } = await api.clients.s3.send(new ListObjectsV2Command({ Bucket, Prefix }));
    assert.notEqual(Contents.length, 0, `there is nothing below ${Prefix}`);
    const Objects = Contents.map(({ Key }) => ({ Key }));
    await api.clients.s3.send(new DeleteObjectsCommand({ Bucket, Delete: { Objects } }));
    await limitStore(null);
    const job = await ended(jobId);
    assert.deepEqual([job.state, job.error.name], ["Failed", "RepositoryDamaged"], JSON.stringify(job));
    await assertAlone(bytes);
  });
});

test("a volume of a directory gets its bytes and its size of then back, too", async () => {
  const id = await copies.addVolume("data", MiB, [{ offset: 0, data: noise(10_000) }]);
  const before = readFileSync(join(copies.directory, "data"));
  const { snapshot } = await asked("POST", `/volumes/${id}/snapshots`, 202, {});
  await snapshotIn(api, snapshot.id, ["BackedUp"]);
  await copies.change("data", [{ offset: 5_000, data: noise(2 * MiB) }]);
  const { job } = await asked("POST", `/snapshots/${snapshot.id}/restore`, 202, { target: { inPlace: true } });
  assert.equal((await endedJob(api, job.id)).state, "Succeeded");
  assert.ok(readFileSync(join(copies.directory, "data")).equals(before));
  const volume = await eventually("the volume is free", async () => {
    const found = await asked("GET", `/volumes/${id}`, 200);
    return found.status !== "restoring" && found;
  });
  assert.equal(volume.sizeBytes, MiB);
});
