/** Volumes that are taken out of protection and into it again, through API, garbage collection and functions. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { CreateSecretCommand } from "@aws-sdk/client-secrets-manager";
import { newId } from "../../lambdas/domain/ids.ts";
import { cloud } from "../support/cloud.ts";
import { endedJob, noise, snapshotIn, TestHypervisor } from "../support/volumes.ts";
import { changeSettings, collectUntil } from "../support/workflows.ts";
import { AdapterHost } from "./adapter-host.ts";

const MiB = 2 ** 20;
const diskBytes = 48 * MiB;

const api = await cloud();
const host = await AdapterHost.start();
const secretId = `snapferry/acme/kvm-protection-${host.sshd.port}`;
const subject = await host.makeSubject({ running: true });
const directory = await TestHypervisor.register(api);
after(async () => {
  await changeSettings(api, { "primary.retain": "reference" });
  await directory.remove();
  await subject[Symbol.asyncDispose]();
  await host[Symbol.asyncDispose]();
});

let disk: string;
let volumeId: string;
let vmId: string;
/** The last snapshot that was backed up, and what the volume held then. */
let latest: { id: string; bytes: Buffer };

async function asked(method: string, path: string, status: number, body?: object) {
  const answer = await api.call(method, path, { role: "admin", ...(body && { body }) });
  assert.equal(answer.status, status, `${method} ${path}: ${JSON.stringify(answer.body)}`);
  return answer.body;
}

before(async () => {
  await api.clients.secrets.send(new CreateSecretCommand({ Name: secretId, SecretString: host.sshd.userKey }));
  disk = await subject.makeVolume("disk", diskBytes);
  await subject.writeVolume(disk, noise(8 * MiB), 0);
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

/** Backs the volume up after something was written, and tells how. */
async function backUp() {
  await subject.writeVolume(disk, noise(100_000), 5 * MiB);
  const bytes = await subject.readVolume(disk);
  const { snapshot } = await asked("POST", `/volumes/${volumeId}/snapshots`, 202, { asyncBackup: true });
  const backedUp = await snapshotIn(api, snapshot.id, ["BackedUp"], { seconds: 120 });
  latest = { id: snapshot.id, bytes };
  return (await asked("GET", `/jobs/${backedUp.job.id}`, 200)).backup;
}

async function unprotected(id: string): Promise<void> {
  const { protection } = await asked("POST", `/volumes/${id}/unprotect`, 202, {});
  assert.equal(protection, "ending");
  await collectUntil(api, `nothing is left of ${id}`, async () => {
    const volume = await asked("GET", `/volumes/${id}`, 200);
    assert.equal(volume.protectionError, undefined, JSON.stringify(volume));
    return volume.protection === "ended";
  });
}

async function assertOnOwnFile(bytes: Buffer): Promise<void> {
  assert.equal((await subject.diskOf(disk)).path, disk);
  assert.equal(await subject.countSnapshots(), 0);
  assert.ok((await subject.readVolume(disk)).equals(bytes), "the volume holds other bytes");
}

describe("a volume of a VM", () => {
  test("is not taken out of protection while a snapshot has no backup", async () => {
    assert.equal((await backUp()).reading, "everything");
    const { snapshot } = await asked("POST", `/volumes/${volumeId}/snapshots`, 202, { asyncBackup: true });
    const refused = await asked("POST", `/volumes/${volumeId}/unprotect`, 409, {});
    assert.equal(refused.type, "/problems/snapshot-is-not-backed-up");
    assert.deepEqual(refused.snapshots, [snapshot.id]);
    await snapshotIn(api, snapshot.id, ["BackedUp"], { seconds: 120 });
  });

  test("that runs is its one file again when it was, and a layer that no row names is merged too", async () => {
    await backUp();
    const snapshotId = newId("snapshot");
    await subject.hypervisor.takeSnapshots([{ externalId: disk, snapshotId }], { quiesce: false });
    await subject.writeVolume(disk, noise(100_000), 6 * MiB);
    const bytes = await subject.readVolume(disk);
    assert.notEqual(await subject.countSnapshots(), 0);
    await unprotected(volumeId);
    await assertOnOwnFile(bytes);
    const { references } = await asked("GET", `/snapshots/${latest.id}`, 200);
    assert.deepEqual(
      references.map(({ role }: { role: string }) => role),
      ["Image"],
    );
  });

  test("takes no snapshot then, alone or with its VM", async () => {
    for (const path of [`/volumes/${volumeId}/snapshots`, `/vms/${vmId}/snapshots`]) {
      const refused = await asked("POST", path, 409, {});
      assert.equal(refused.type, "/problems/volume-is-unprotected");
    }
    assert.equal(await subject.countSnapshots(), 0);
  });

  test("is restored from the store all the same", async () => {
    const { job } = await asked("POST", `/snapshots/${latest.id}/restore`, 202, {
      target: { hypervisorId: directory.id, name: "copy" },
    });
    assert.equal((await endedJob(api, job.id)).state, "Succeeded");
    assert.ok(readFileSync(join(directory.directory, "copy")).equals(latest.bytes));
  });

  test("that is protected again is backed up as an incremental, by reading everything once", async () => {
    await asked("POST", `/volumes/${volumeId}/protect`, 200, {});
    const before = latest.id;
    const { kind, base, reading } = await backUp();
    assert.deepEqual({ kind, base, reading }, { kind: "incremental", base: before, reading: "everything" });
    assert.equal((await backUp()).reading, "changed");
  });

  test("that does not run is its one file again, too, and starts", async () => {
    const bytes = await subject.readVolume(disk);
    const { domain } = await subject.diskOf(disk);
    await subject.destroy(domain);
    await unprotected(volumeId);
    await assertOnOwnFile(bytes);
    await subject.start(domain);
    await assertOnOwnFile(bytes);
  });
});

test("of a volume of a directory the copies go, although they would be kept", async () => {
  await changeSettings(api, { "primary.retain": "true" });
  const id = await directory.addVolume("data", MiB, [{ offset: 0, data: noise(1000) }]);
  const { snapshot } = await asked("POST", `/volumes/${id}/snapshots`, 202, {});
  await snapshotIn(api, snapshot.id, ["BackedUp"]);
  const rolesOf = async () => {
    const { references } = await asked("GET", `/snapshots/${snapshot.id}`, 200);
    return references.map(({ role }: { role: string }) => role).sort();
  };
  assert.deepEqual(await rolesOf(), ["Image", "Primary"]);
  await unprotected(id);
  assert.deepEqual(await rolesOf(), ["Image"]);
});
