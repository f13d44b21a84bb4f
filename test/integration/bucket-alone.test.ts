import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, it } from "node:test";
import { DeleteObjectCommand } from "@aws-sdk/client-s3";
import { DeleteCommand, QueryCommand } from "@aws-sdk/lib-dynamodb";
import { dedupDomain, volumeIdFor } from "../../lambdas/domain/inventory.ts";
import type { DescribedSnapshot } from "../../lambdas/domain/snapshot-description.ts";
import { domainKeys } from "../../lambdas/repository/layout.ts";
import { getSnapshot } from "../../lambdas/tables/snapshots.ts";
import { importBackup } from "../../lambdas/transactions/import-snapshot.ts";
import { type CliRun, runCommand } from "../support/cli.ts";
import { type Answer, cloud, type TestCloud } from "../support/cloud.ts";
import { registerStore, type TestStore, versionsIn } from "../support/stores.ts";
import { endedJob, noise, snapshotIn, TestHypervisor } from "../support/volumes.ts";
import { servicesOf } from "../support/workflows.ts";

const MiB = 2 ** 20;

let test: TestCloud;
let directory: string;
before(async () => {
  test = await cloud();
  directory = await mkdtemp(path.join(tmpdir(), "snapferry-images-"));
});
after(() => rm(directory, { recursive: true }));

/** Credentials for the cloud's services, and nothing of the API. */
function awsOnly(): Record<string, string> {
  return {
    AWS_ENDPOINT_URL: test.endpoint,
    AWS_ACCESS_KEY_ID: "test",
    AWS_SECRET_ACCESS_KEY: "test",
    AWS_REGION: "us-east-1",
  };
}

async function cli(tenant: string, args: readonly string[]): Promise<CliRun> {
  const SNAPFERRY_TOKEN = await test.token(tenant, "admin");
  return runCommand(args, { env: { ...awsOnly(), SNAPFERRY_URL: test.url, SNAPFERRY_TOKEN } });
}

function done(run: CliRun): CliRun {
  assert.equal(run.code, 0, run.err);
  return run;
}

async function backUp(tenant: string, volumeId: string, body: object) {
  const created = await test.call("POST", `/volumes/${volumeId}/snapshots`, { tenant, body });
  assert.equal(created.status, 202, JSON.stringify(created.body));
  const snapshot = await snapshotIn(test, created.body.snapshot.id, ["BackedUp", "Error"], { tenant });
  assert.equal(snapshot.state, "BackedUp", JSON.stringify(snapshot));
  return snapshot;
}

async function restoredDigest(tenant: string, hypervisor: TestHypervisor, snapshotId: string): Promise<string> {
  const name = `restored-${randomUUID()}`;
  const { status, body } = await test.call("POST", `/snapshots/${snapshotId}/restore`, {
    tenant,
    body: { target: { hypervisorId: hypervisor.id, name } },
  });
  assert.equal(status, 202, JSON.stringify(body));
  const job = await endedJob(test, body.job.id, { tenant });
  assert.equal(job.state, "Succeeded", JSON.stringify(job));
  return hypervisor.digest(name);
}

/** What a lost database is to this tenant: nothing of it is in any table. */
async function loseRows(tenant: string): Promise<void> {
  const { database } = await servicesOf(test);
  const { snapshots, storeReferences, jobs, volumes, hypervisors, stores } = database.tables;
  for (const TableName of [snapshots, storeReferences, jobs, volumes, hypervisors, stores]) {
    const sortKey = TableName === storeReferences ? "reference" : "id";
    const { Items = [] } = await database.client.send(
      new QueryCommand({
        TableName,
        KeyConditionExpression: "tenant = :tenant",
        ExpressionAttributeValues: { ":tenant": tenant },
      }),
    );
    for (const item of Items)
      await database.client.send(new DeleteCommand({ TableName, Key: { tenant, [sortKey]: item[sortKey] } }));
  }
}

/** The hypervisor that was there, under its id. */
async function registerAgain(tenant: string, { id, directory }: TestHypervisor): Promise<Answer> {
  return test.call("POST", "/hypervisors", { tenant, role: "admin", body: { kind: "file", directory, id } });
}

/** The bucket of a store, registered once more. Answers the new id. */
async function registerBucket(tenant: string, { bucket, proxy }: TestStore, options: object = {}): Promise<string> {
  const [key] = [`snapferry/${tenant}/again-${randomUUID()}`];
  const { CreateSecretCommand } = await import("@aws-sdk/client-secrets-manager");
  const SecretString = JSON.stringify({ accessKeyId: "test", secretAccessKey: "test" });
  await test.clients.secrets.send(new CreateSecretCommand({ Name: key, SecretString }));
  const { status, body } = await test.call("POST", "/stores", {
    tenant,
    role: "admin",
    body: { name: "again", bucket, endpoint: proxy.endpoint, pathStyle: true, secretId: key, ...options },
  });
  assert.equal(status, 201, JSON.stringify(body));
  return body.id;
}

describe("a bucket that is all that is left", () => {
  const tenant = `lost-${randomUUID().slice(0, 8)}`;
  const tags = { env: "prod", "a:b=c": "ü" };
  let hypervisor: TestHypervisor;
  let store: TestStore;
  let first: { id: string; digest: string };
  let second: { id: string; digest: string };
  let volumeId: string;
  let at: string[];

  before(async () => {
    hypervisor = await TestHypervisor.register(test, tenant);
    store = await registerStore(test, tenant);
    at = ["--bucket", store.bucket, "--endpoint", test.endpoint];
    volumeId = await hypervisor.addVolume("web", 24 * MiB + 512, [{ offset: 0, data: noise(9 * MiB) }]);
    const { id } = await backUp(tenant, volumeId, {
      name: "nightly",
      description: "all\nof it",
      tags,
      storeId: store.id,
    });
    first = { id, digest: await hypervisor.digest("web") };
    await hypervisor.change("web", [{ offset: 20 * MiB, data: noise(5_000) }]);
    second = { id: (await backUp(tenant, volumeId, { storeId: store.id })).id, digest: await hypervisor.digest("web") };
  });
  after(async () => {
    if (hypervisor) await rm(hypervisor.directory, { recursive: true, force: true });
    await store?.close();
  });

  it("tells what is in it to whoever has credentials for it", async () => {
    const { out } = done(await runCommand(["store", "inspect", ...at, "--json", "--sizes"], { env: awsOnly() }));
    const { domains } = JSON.parse(out);
    assert.deepEqual(
      domains.map(({ domain }: { domain: string }) => domain),
      [dedupDomain(tenant, volumeId)],
    );
    const [one, two] = domains[0].snapshots;
    assert.deepEqual([one.snapshotId, two.snapshotId], [first.id, second.id]);
    assert.equal(one.sizeBytes, 24 * MiB + 512);
    assert.equal(one.description.name, "nightly");
    assert.equal(one.description.volumeName, "web");
    assert.equal(one.description["tag:env"], "prod");
    const shown = (await test.call("GET", `/snapshots/${first.id}`, { tenant })).body;
    const roots = Number(shown.bytes.stored) - one.storedBytes;
    assert.ok(
      roots > 0 && roots < 5_000,
      `${shown.bytes.stored} bytes, and ${one.storedBytes} of them without the root`,
    );
    assert.ok(two.storedBytes < MiB);
    assert.deepEqual([one.sharesWith, two.sharesWith], [[], [first.id]]);
    const text = done(await runCommand(["store", "inspect", ...at], { env: awsOnly() })).out;
    assert.match(text, new RegExp(`${first.id} +nightly +web +`));
    assert.match(text, /1 domains, 2 snapshots/);
    const detail = done(await runCommand(["store", "inspect", first.id, ...at], { env: awsOnly() })).out;
    assert.match(detail, /tag:env +prod/);
  });

  it("is verified, restored and downloaded without the service's help in reading", async () => {
    const verified = await runCommand(["store", "verify", "--all", "--full", ...at, "--json"], { env: awsOnly() });
    assert.deepEqual(JSON.parse(done(verified).out).damaged, 0);
    const file = path.join(directory, "web.img");
    done(await runCommand(["store", "restore", second.id, ...at, "--raw", file], { env: awsOnly() }));
    assert.ok((await readFile(file)).equals(await readFile(path.join(hypervisor.directory, "web"))));
    assert.ok((await stat(file)).blocks * 512 < 12 * MiB);
    const again = await runCommand(["store", "restore", second.id, ...at, "--raw", file], { env: awsOnly() });
    assert.equal(again.code, 1);
    assert.match(again.err, /--raw: .*--force/);
    const downloaded = path.join(directory, "downloaded.img");
    done(await cli(tenant, ["snapshots", "download", second.id, "--raw", downloaded]));
    assert.ok((await readFile(downloaded)).equals(await readFile(file)));
    const qcow2 = path.join(directory, "web.qcow2");
    const { out } = done(await cli(tenant, ["snapshots", "download", first.id, "--qcow2", qcow2, "--json"]));
    assert.deepEqual(JSON.parse(out).lost, []);
    assert.ok((await stat(qcow2)).size < 12 * MiB);
    const reader = await test.call("GET", `/snapshots/${first.id}/location`, { tenant, role: "reader" });
    assert.equal(reader.status, 403);
  });

  it("is what snapshots, volumes and incrementals are made of again, in a service that knows nothing of them", async () => {
    await loseRows(tenant);
    assert.deepEqual((await test.call("GET", "/snapshots", { tenant })).body.items, []);
    const storeId = await registerBucket(tenant, store);
    const page = (cursor?: string) =>
      test.call("POST", `/stores/${storeId}/import?limit=1${cursor === undefined ? "" : `&cursor=${cursor}`}`, {
        tenant,
        role: "admin",
      });
    const begun = await page();
    assert.equal(begun.status, 200, JSON.stringify(begun.body));
    assert.deepEqual([begun.body.imported, begun.body.known], [[{ snapshotId: first.id, volumeId }], 0]);
    const { out } = done(await cli(tenant, ["store", "import", storeId, "--json"]));
    assert.deepEqual(JSON.parse(out), { imported: [{ snapshotId: second.id, volumeId }], refused: [], known: 1 });
    const { database } = await servicesOf(test);
    const row = await getSnapshot(database, tenant, first.id);
    assert.match(done(await cli(tenant, ["store", "import", "again"])).out, /0 snapshots.*2 were known already/);
    assert.deepEqual(await getSnapshot(database, tenant, first.id), row);
    assert.equal((await page(begun.body.nextCursor)).body.known, 1);

    const { items } = (await test.call("GET", "/snapshots", { tenant })).body;
    assert.deepEqual(
      items.map(({ id, state }: { id: string; state: string }) => [id, state]),
      [
        [second.id, "BackedUp"],
        [first.id, "BackedUp"],
      ],
    );
    const shown = items[1];
    assert.deepEqual([shown.name, shown.description, shown.tags], ["nightly", "all\nof it", tags]);
    assert.deepEqual([shown.storeId, shown.volumeId, shown.bytes.logical], [storeId, volumeId, 24 * MiB + 512]);
    assert.equal((await test.call("GET", `/volumes/${volumeId}`, { tenant })).body.status, "missing");

    assert.equal((await registerAgain(tenant, hypervisor)).status, 201);
    const twice = await registerAgain(tenant, hypervisor);
    assert.deepEqual([twice.status, twice.body.type], [409, "/problems/hypervisor-in-use"]);
    await test.call("POST", `/hypervisors/${hypervisor.id}/discover`, { tenant, role: "admin" });
    assert.equal((await test.call("GET", `/volumes/${volumeId}`, { tenant })).body.status, "available");
    assert.equal(await restoredDigest(tenant, hypervisor, first.id), first.digest);

    await hypervisor.change("web", [{ offset: 7 * MiB, data: noise(3_000) }]);
    const third = await backUp(tenant, volumeId, { storeId });
    const job = (await test.call("GET", `/jobs/${third.job.id}`, { tenant })).body;
    assert.deepEqual([job.backup.kind, job.backup.base], ["incremental", second.id]);
    assert.ok(third.bytes.stored < MiB, `${third.bytes.stored} bytes`);

    for (const { id } of [first, second]) {
      const deleted = await test.call("DELETE", `/snapshots/${id}`, { tenant });
      assert.equal(deleted.status, 202, JSON.stringify(deleted.body));
      await snapshotIn(test, id, ["Destroyed"], { tenant });
    }
    assert.equal(await restoredDigest(tenant, hypervisor, third.id), await hypervisor.digest("web"));
    const roots = await versionsIn(test, store.bucket, domainKeys(dedupDomain(tenant, volumeId)).roots);
    assert.deepEqual(
      roots.map((key) => path.basename(key)),
      [third.id],
    );
  });

  it("gives nothing to another tenant, and says why", async () => {
    const other = `other-${randomUUID().slice(0, 8)}`;
    const storeId = await registerBucket(other, store);
    const run = await cli(other, ["store", "import", storeId]);
    assert.equal(run.code, 1);
    assert.match(run.out, /0 snapshots.*\n.*another tenant/);
    assert.deepEqual((await test.call("GET", "/snapshots", { tenant: other })).body.items, []);
    for (const [role, tenant, status] of [
      ["operator", other, 403],
      ["admin", "stranger", 404],
    ] as const)
      assert.equal((await test.call("POST", `/stores/${storeId}/import`, { tenant, role })).status, status);
    const wrong = await test.call("POST", `/stores/${storeId}/import?cursor=x`, { tenant: other, role: "admin" });
    assert.deepEqual([wrong.status, wrong.body.errors[0].parameter], [400, "cursor"]);
  });
});

describe("the stack's own bucket", () => {
  it("gives each tenant back its own, and shows nothing of the others", async () => {
    const [mine, theirs] = [`mine-${randomUUID().slice(0, 8)}`, `theirs-${randomUUID().slice(0, 8)}`];
    const snapshots = new Map<string, string>();
    const hypervisors: TestHypervisor[] = [];
    for (const tenant of [mine, theirs]) {
      const hypervisor = await TestHypervisor.register(test, tenant);
      hypervisors.push(hypervisor);
      const volumeId = await hypervisor.addVolume("v", MiB, [{ offset: 0, data: noise(1_000) }]);
      snapshots.set(tenant, (await backUp(tenant, volumeId, {})).id);
    }
    await loseRows(mine);
    await loseRows(theirs);
    const { out } = done(await cli(mine, ["store", "import", "default", "--json"]));
    const { imported, refused } = JSON.parse(out);
    assert.deepEqual(
      imported.map(({ snapshotId }: { snapshotId: string }) => snapshotId),
      [snapshots.get(mine)],
    );
    assert.deepEqual(refused, []);
    const { items } = (await test.call("GET", "/snapshots", { tenant: mine })).body;
    assert.deepEqual(
      items.map(({ id, storeId }: { id: string; storeId: string }) => [id, storeId]),
      [[snapshots.get(mine), "default"]],
    );
    const file = path.join(directory, "default.img");
    done(await cli(mine, ["snapshots", "download", String(snapshots.get(mine)), "--raw", file]));
    const [hypervisor] = hypervisors;
    assert.ok((await readFile(file)).equals(await readFile(path.join(hypervisor?.directory ?? "", "v"))));
    for (const { directory } of hypervisors) await rm(directory, { recursive: true });
  });
});

describe("an encrypted bucket", () => {
  it("opens to whoever may use its key, keeps its names from all others, and is imported", async () => {
    const tenant = `sealed-${randomUUID().slice(0, 8)}`;
    const hypervisor = await TestHypervisor.register(test, tenant);
    const store = await registerStore(test, tenant, { encryption: "client" });
    const volumeId = await hypervisor.addVolume("payroll", 4 * MiB, [{ offset: 0, data: noise(2 * MiB) }]);
    const { id } = await backUp(tenant, volumeId, { name: "board meeting", storeId: store.id });
    const digest = await hypervisor.digest("payroll");
    const at = ["--bucket", store.bucket, "--endpoint", test.endpoint];

    const without = { ...awsOnly(), AWS_ENDPOINT_URL_KMS: "http://127.0.0.1:1" };
    const hidden = done(await runCommand(["store", "inspect", ...at, "--json"], { env: without }));
    assert.ok(!/payroll|board/.test(hidden.out));
    assert.match(hidden.out, /"keyProblem": "KMS cannot be asked/);
    const file = path.join(directory, "payroll.img");
    const refused = await runCommand(["store", "restore", id, ...at, "--raw", file], { env: without });
    assert.equal(refused.code, 4, refused.err);
    assert.match(refused.err, /data key.*--kms-profile/);
    assert.ok(!(await readdir(directory)).some((name) => name.startsWith("payroll.img")));

    const opened = done(await runCommand(["store", "inspect", id, ...at, "--encrypted"], { env: awsOnly() }));
    assert.match(opened.out, /volumeName +payroll/);
    done(await runCommand(["store", "verify", id, ...at, "--full", "--encrypted"], { env: awsOnly() }));
    done(await cli(tenant, ["snapshots", "download", id, "--raw", file]));
    assert.ok((await readFile(file)).equals(await readFile(path.join(hypervisor.directory, "payroll"))));

    await loseRows(tenant);
    const plain = await registerBucket(tenant, store);
    const unreadable = await cli(tenant, ["store", "import", plain]);
    assert.equal(unreadable.code, 1);
    assert.match(unreadable.out, /encrypted and cannot be read/);
    const sealed = await registerBucket(tenant, store, { encryption: "client" });
    assert.match(done(await cli(tenant, ["store", "import", sealed])).out, /1 snapshots of 1 volumes/);
    await registerAgain(tenant, hypervisor);
    assert.equal(await restoredDigest(tenant, hypervisor, id), digest);
    await hypervisor.remove();
    await store.close();
  });
});

describe("a backup of which a pack is gone", () => {
  it("fails a restore with the object and the bytes, and a salvage restores all the rest and tells the same", async () => {
    const tenant = `salvage-${randomUUID().slice(0, 8)}`;
    const hypervisor = await TestHypervisor.register(test, tenant);
    const store = await registerStore(test, tenant);
    const volumeId = await hypervisor.addVolume("web", 40 * MiB, [{ offset: 0, data: noise(40 * MiB) }]);
    const { id } = await backUp(tenant, volumeId, { storeId: store.id });
    const [key = ""] = await versionsIn(test, store.bucket, domainKeys(dedupDomain(tenant, volumeId)).packs);
    await test.clients.s3.send(new DeleteObjectCommand({ Bucket: store.bucket, Key: key }));
    const restore = (name: string) => ["snapshots", "restore", id, "--to", hypervisor.id, "--name", name, "--watch"];
    const failed = await cli(tenant, restore("whole"));
    assert.equal(failed.code, 1, failed.out);
    const lost = /RepositoryDamaged: .*\/packs\/.* Bytes (\d+)-(\d+) of the volume are lost/.exec(failed.err);
    const [first, last] = [Number(lost?.[1]), Number(lost?.[2])];
    assert.ok(failed.err.includes(key.slice(-40)) && first >= 0 && last - first > 15 * MiB, failed.err);

    const salvaged = await cli(tenant, [...restore("rest"), "--salvage", "--json"]);
    assert.equal(salvaged.code, 6, salvaged.err);
    const { job } = JSON.parse(salvaged.out);
    assert.deepEqual([job.state, job.salvage, job.lost.length], ["Succeeded", true, 1]);
    assert.match(job.lost[0], new RegExp(`${key.slice(-40)}. Bytes ${first}-${last} of the volume`));
    assert.ok(salvaged.err.includes(job.lost[0]));
    const expected = await readFile(path.join(hypervisor.directory, "web"));
    expected.fill(0, first, last + 1);
    assert.ok((await readFile(path.join(hypervisor.directory, "rest"))).equals(expected));
    const whole = await backUp(tenant, volumeId, { storeId: store.id, full: true });
    const unhurt = await cli(tenant, [
      "snapshots",
      "restore",
      whole.id,
      "--to",
      hypervisor.id,
      "--name",
      "unhurt",
      "--watch",
      "--salvage",
    ]);
    assert.equal(unhurt.code, 0, unhurt.err);
    assert.equal(await hypervisor.digest("unhurt"), await hypervisor.digest("web"));
    await hypervisor.remove();
    await store.close();
  });
});

describe("what a tenant's own store says", () => {
  it("gives it no right to another's hypervisor, and no volume of it", async () => {
    const { database } = await servicesOf(test);
    const [owner, squatter] = [`owner-${randomUUID().slice(0, 8)}`, `squatter-${randomUUID().slice(0, 8)}`];
    const hypervisor = await TestHypervisor.register(test, owner);
    const volumeId = volumeIdFor(hypervisor.id, "later");
    const described: DescribedSnapshot = {
      tenant: squatter,
      volumeId,
      volumeExternalId: "later",
      hypervisorId: hypervisor.id,
      hypervisorTenant: owner,
      createdAt: "2026-01-01T00:00:00.000Z",
      tags: {},
    };
    const found = {
      tenant: squatter,
      storeId: "store_01JD7QXN8ZK4V1TQ3C5M9R2WEY",
      snapshotId: "snap_01JD7QXN8ZK4V1TQ3C5M9R2WEY",
      jobId: "job_01JD7QXN8ZK4V1TQ3C5M9R2WEY",
      sizeBytes: 1,
      encrypted: false,
      publishedAt: new Date(),
      described,
    };
    assert.equal(await importBackup(database, found, new Date().toISOString()), "written");
    assert.equal(await importBackup(database, found, new Date().toISOString()), "replay");
    assert.equal((await getSnapshot(database, squatter, found.snapshotId))?.hypervisorTenant, squatter);
    const restore = await test.call("POST", `/snapshots/${found.snapshotId}/restore`, {
      tenant: squatter,
      body: { target: { hypervisorId: hypervisor.id, name: "intruder" } },
    });
    assert.equal(restore.status, 404, JSON.stringify(restore.body));
    assert.equal(await hypervisor.addVolume("later", 512), volumeId);
    const rows = await Promise.all(
      [owner, squatter].map((tenant) => test.call("GET", `/volumes/${volumeId}`, { tenant })),
    );
    assert.deepEqual(
      rows.map(({ body }) => body.status),
      ["available", "missing"],
    );
    await loseRows(squatter);
    await hypervisor.remove();
  });
});
