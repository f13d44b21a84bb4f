import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, describe, it } from "node:test";
import { CreateKeyCommand, KMSClient } from "@aws-sdk/client-kms";
import { GetObjectCommand } from "@aws-sdk/client-s3";
import { UpdateCommand } from "@aws-sdk/lib-dynamodb";
import { KmsKeyService } from "../../lambdas/composition/kms-key-service.ts";
import { storeLimiter } from "../../lambdas/composition/store-limiter.ts";
import { EncryptionKeyUnavailable } from "../../lambdas/domain/errors.ts";
import { reserveSlice } from "../../lambdas/tables/store-rates.ts";
import { type Answer, cloud, eventually, type TestCloud } from "../support/cloud.ts";
import { registerStore, type TestStore, versionsIn } from "../support/stores.ts";
import { endedJob, noise, snapshotIn, TestHypervisor } from "../support/volumes.ts";
import { servicesOf } from "../support/workflows.ts";

const MiB = 2 ** 20;
const absent = "store_01JD7QXN8ZK4V1TQ3C5M9R2WEY";

let test: TestCloud;
before(async () => {
  test = await cloud();
});

/** A tenant of its own for each test that sets options of the default store. */
function newTenant(): string {
  return `limited-${randomUUID().slice(0, 8)}`;
}

function change(store: string, body: unknown, tenant = "acme"): Promise<Answer> {
  return test.call("PATCH", `/stores/${store}`, { tenant, role: "admin", body });
}

function fieldErrors(answer: Answer): [string, string][] {
  assert.equal(answer.status, 400, JSON.stringify(answer.body));
  return answer.body.errors.map((error: { pointer: string; detail: string }) => [error.pointer, error.detail]);
}

describe("options of a store", () => {
  let plain: TestStore;
  let lockable: TestStore;
  before(async () => {
    plain = await registerStore(test);
    lockable = await registerStore(test, "acme", {
      lockable: true,
      encryption: "client",
      limits: { requestsPerSecond: 1000 },
      objectLock: { mode: "governance", days: 2 },
    });
  });
  after(async () => {
    for (const store of [plain, lockable]) await store?.close();
  });

  it("are what it was registered with", async () => {
    const { body } = await test.call("GET", `/stores/${lockable.id}`);
    assert.equal(body.encryption, "client");
    assert.deepEqual(body.limits, { requestsPerSecond: 1000 });
    assert.deepEqual(body.objectLock, { mode: "governance", days: 2 });
    const other = await test.call("GET", `/stores/${plain.id}`);
    assert.equal(other.body.encryption, "none");
    assert.ok(!("limits" in other.body) && !("objectLock" in other.body));
  });

  it("change one by one; null takes away, what is not named stays", async () => {
    const limitsNow = async (body: unknown) => {
      const answer = await change(plain.id, body);
      assert.equal(answer.status, 200, JSON.stringify(answer.body));
      assert.deepEqual(answer.body, (await test.call("GET", `/stores/${plain.id}`)).body);
      assert.equal(answer.body.bucket, plain.bucket);
      return answer.body.limits;
    };
    assert.deepEqual(await limitsNow({ limits: { bytesPerSecond: MiB } }), { bytesPerSecond: MiB });
    assert.deepEqual(await limitsNow({ limits: { requestsPerSecond: 7 } }), {
      bytesPerSecond: MiB,
      requestsPerSecond: 7,
    });
    assert.deepEqual(await limitsNow({}), { bytesPerSecond: MiB, requestsPerSecond: 7 });
    assert.deepEqual(await limitsNow({ limits: { bytesPerSecond: null } }), { requestsPerSecond: 7 });
    assert.equal(await limitsNow({ limits: null, objectLock: null }), undefined);
  });

  it("of the default store are each tenant's own", async () => {
    const tenant = newTenant();
    const { status, body } = await change("default", { limits: { bytesPerSecond: MiB } }, tenant);
    assert.equal(status, 200, JSON.stringify(body));
    assert.deepEqual(body, {
      id: "default",
      name: "default",
      default: true,
      encryption: "none",
      limits: { bytesPerSecond: MiB },
    });
    assert.ok(!("limits" in (await test.call("GET", "/stores/default", { tenant: newTenant() })).body));
    const { items } = (await test.call("GET", "/stores", { tenant })).body;
    assert.deepEqual(items, [body]);
  });

  it("are refused by name where they cannot be", async () => {
    const wrong = {
      limits: { bytesPerSecond: 1000, requestsPerSecond: 0, wait: 1 },
      objectLock: { mode: "soft", days: 40_000 },
    };
    assert.deepEqual(
      fieldErrors(await change(plain.id, wrong))
        .map(([pointer]) => pointer)
        .sort(),
      ["/limits/bytesPerSecond", "/limits/requestsPerSecond", "/limits/wait", "/objectLock/days", "/objectLock/mode"],
    );
    assert.deepEqual(fieldErrors(await change(lockable.id, { encryption: "none" })), [
      ["/encryption", "is not a field of this request"],
    ]);
    assert.equal((await change(absent, { limits: null })).status, 404);
    assert.equal((await change(absent, { objectLock: { mode: "governance", days: 1 } })).status, 404);
    assert.equal((await change(plain.id, { limits: null }, "other")).status, 404);
    const operator = await test.call("PATCH", `/stores/${plain.id}`, { body: {} });
    assert.equal(operator.status, 403);
  });

  it("lock nothing where the bucket has no Object Lock", async () => {
    const objectLock = { mode: "compliance", days: 30 };
    const [[pointer, detail] = []] = fieldErrors(await change(plain.id, { objectLock }));
    assert.equal(pointer, "/objectLock");
    assert.match(detail ?? "", new RegExp(`bucket ${plain.bucket} has no Object Lock`));
    assert.match(fieldErrors(await change("default", { objectLock }))[0]?.[1] ?? "", /register a bucket that has it/);
    const later = await change(lockable.id, { objectLock });
    assert.deepEqual(later.body.objectLock, objectLock);
  });
});

describe("a locked snapshot", () => {
  it("is not deleted before its date, and is after it", async () => {
    const hypervisor = await TestHypervisor.register(test);
    const volumeId = await hypervisor.addVolume("locked", MiB, [{ offset: 0, data: noise(1000) }]);
    const { body } = await test.call("POST", `/volumes/${volumeId}/snapshots`, { body: {} });
    const { id } = body.snapshot;
    await snapshotIn(test, id, ["BackedUp"]);
    await endedJob(test, body.job.id);
    const lock = (lockedUntil: string) =>
      servicesOf(test).then(({ database }) =>
        database.client.send(
          new UpdateCommand({
            TableName: database.tables.snapshots,
            Key: { tenant: "acme", id },
            UpdateExpression: "SET lockedUntil = :until",
            ExpressionAttributeValues: { ":until": lockedUntil },
          }),
        ),
      );
    await lock("2100-01-01T00:00:00.000Z");
    assert.equal((await test.call("GET", `/snapshots/${id}`)).body.lockedUntil, "2100-01-01T00:00:00.000Z");
    const refused = await test.call("DELETE", `/snapshots/${id}`);
    assert.deepEqual([refused.status, refused.body.type], [409, "/problems/snapshot-is-locked"]);
    assert.match(refused.body.detail, /2100-01-01T00:00:00\.000Z/);
    assert.equal(refused.body.lockedUntil, "2100-01-01T00:00:00.000Z");
    await lock("2020-01-01T00:00:00.000Z");
    const accepted = await test.call("DELETE", `/snapshots/${id}`);
    assert.equal(accepted.status, 202, JSON.stringify(accepted.body));
    await snapshotIn(test, id, ["Destroyed"]);
    await hypervisor.remove();
  });
});

describe("a meter of a limit", () => {
  const slice = { milliseconds: 100, aheadMilliseconds: 60_000 };
  const meter = () => `acme/${randomUUID()}#bytes#1`;

  it("gives each of many workers that come at once a slice of its own", async () => {
    const { database } = await servicesOf(test);
    const name = meter();
    const now = Date.now();
    const all = await Promise.all(Array.from({ length: 20 }, () => reserveSlice(database, name, { ...slice, now })));
    const from = all
      .map((one) => (one.kind === "reserved" ? one.from - now : Number.NaN))
      .sort((one, other) => one - other);
    assert.deepEqual(
      from,
      Array.from({ length: 20 }, (_, at) => at * 100),
    );
  });

  it("gives nothing away beyond the queue, and says until when it is full", async () => {
    const { database } = await servicesOf(test);
    const name = meter();
    const now = Date.now();
    const short = { milliseconds: 400, aheadMilliseconds: 500, now };
    assert.deepEqual(await reserveSlice(database, name, short), { kind: "reserved", from: now });
    assert.deepEqual(await reserveSlice(database, name, short), { kind: "reserved", from: now + 400 });
    assert.deepEqual(await reserveSlice(database, name, short), { kind: "full", until: now + 800 });
    assert.deepEqual(await reserveSlice(database, name, { ...short, now: now + 300 }), {
      kind: "reserved",
      from: now + 800,
    });
  });

  it("keeps nothing of the time in which nobody came, and forgets a time that no clock can have meant", async () => {
    const { database } = await servicesOf(test);
    const name = meter();
    const now = Date.now();
    await reserveSlice(database, name, { ...slice, now });
    assert.deepEqual(await reserveSlice(database, name, { ...slice, now: now + 5000 }), {
      kind: "reserved",
      from: now + 5000,
    });
    const yesterday = now - 86_400_000;
    assert.deepEqual(await reserveSlice(database, name, { ...slice, now: yesterday }), {
      kind: "reserved",
      from: yesterday,
    });
  });
});

describe("a limited store", () => {
  const volumes: TestHypervisor[] = [];
  after(async () => {
    for (const hypervisor of volumes) await hypervisor.remove();
  });

  /** Backs volumes of so many bytes up to the tenant's default store at once; answers how many seconds all of them took. */
  async function backUp(tenant: string, sizes: readonly number[], meanwhile = async () => {}): Promise<number> {
    const hypervisor = await TestHypervisor.register(test, tenant);
    volumes.push(hypervisor);
    const ids: string[] = [];
    for (const [at, size] of sizes.entries())
      ids.push(await hypervisor.addVolume(`volume-${at}`, size, [{ offset: 0, data: noise(size) }]));
    const begin = Date.now();
    const jobs = await Promise.all(
      ids.map(async (id) => (await test.call("POST", `/volumes/${id}/snapshots`, { tenant, body: {} })).body.job.id),
    );
    const [ended] = await Promise.all([
      Promise.all(jobs.map((job) => endedJob(test, job, { tenant, seconds: 120 }))),
      meanwhile(),
    ]);
    for (const job of ended) assert.equal(job.state, "Succeeded", JSON.stringify(job));
    return (Date.now() - begin) / 1000;
  }

  it("takes as long as its limit says, for one backup and for two together", async () => {
    const tenant = newTenant();
    const unlimited = await backUp(tenant, [12 * MiB]);
    await change("default", { limits: { bytesPerSecond: MiB } }, tenant);
    for (const sizes of [[12 * MiB], [8 * MiB, 8 * MiB]]) {
      const least = sizes.reduce((sum, size) => sum + size, 0) / MiB;
      const took = await backUp(tenant, sizes);
      const most = 1.5 * least + 2 * unlimited + 5;
      assert.ok(took >= least - 0.5 && took < most, `${sizes} took ${took} s, ${unlimited} s without a limit`);
    }
  });

  it("gives workers of processes of their own no more than its limit, all together", async () => {
    const tenant = newTenant();
    await change("default", { limits: { bytesPerSecond: 4 * MiB, requestsPerSecond: 50 } }, tenant);
    const { database } = await servicesOf(test);
    const work = async (bytes: number, count: number) => {
      const begin = Date.now();
      const workers = Array.from({ length: 5 }, () => storeLimiter(database, tenant, "default"));
      await Promise.all(
        workers.map(async (worker) => {
          for (let done = 0; done < count; done++) await worker.acquire({ bytes, requests: 1 }, () => false);
        }),
      );
      return (Date.now() - begin) / 1000;
    };
    const ofBytes = await work(MiB, 5);
    assert.ok(ofBytes >= 25 / 4 - 0.5 && ofBytes < 12, `25 MiB at 4 MiB/s took ${ofBytes} s`);
    const ofRequests = await work(10, 60);
    assert.ok(ofRequests >= 300 / 50 - 0.5 && ofRequests < 12, `300 requests at 50 a second took ${ofRequests} s`);
  });

  it("is faster within seconds of a raised limit", async () => {
    const tenant = newTenant();
    await change("default", { limits: { bytesPerSecond: MiB } }, tenant);
    let raisedAt = 0;
    await backUp(tenant, [60 * MiB], async () => {
      await eventually("bytes are on their way", async () => {
        const { body } = await test.call("GET", "/jobs?kind=backup-snapshot&state=Running", { tenant });
        return body.items.some((job: { phase: string }) => job.phase === "Copying");
      });
      await new Promise((resolve) => setTimeout(resolve, 4000));
      assert.equal((await change("default", { limits: null }, tenant)).status, 200);
      raisedAt = Date.now();
    });
    const seconds = (Date.now() - raisedAt) / 1000;
    assert.ok(raisedAt > 0 && seconds < 15, `${seconds} s after the limit went`);
  });
});

describe("an encrypted store", () => {
  const domain = "0123456789abcdef0123456789abcdef";
  const keyService = async () => {
    const credentials = { accessKeyId: "test", secretAccessKey: "test" };
    const kms = new KMSClient({ endpoint: test.endpoint, region: "us-east-1", credentials });
    const { KeyMetadata } = await kms.send(new CreateKeyCommand({}));
    return new KmsKeyService(KeyMetadata?.Arn ?? "", kms);
  };

  it("has data keys that open in their own domain, with their own key, and nowhere else", async () => {
    const keys = await keyService();
    const { plaintext, wrapped } = await keys.generate({ domain });
    assert.equal(plaintext.length, 32);
    assert.deepEqual(Buffer.from(await keys.unwrap(wrapped, { domain })), Buffer.from(plaintext));
    await assert.rejects(keys.unwrap(wrapped, { domain: domain.replace("0", "1") }), EncryptionKeyUnavailable);
    await assert.rejects((await keyService()).unwrap(wrapped, { domain }), EncryptionKeyUnavailable);
  });

  it("holds nothing that can be read, and restores what was there", async () => {
    const store = await registerStore(test, "acme", { encryption: "client" });
    const hypervisor = await TestHypervisor.register(test);
    const secret = Buffer.from("nobody shall read this line of text, not even once. ");
    const data = Buffer.concat([...Array.from({ length: 400 }, () => secret), noise(2 * MiB)]);
    const volumeId = await hypervisor.addVolume("secret", 8 * MiB, [{ offset: 4096, data }]);
    for (const round of ["first", "second"]) {
      const created = await test.call("POST", `/volumes/${volumeId}/snapshots`, { body: { storeId: store.id } });
      const snapshot = await snapshotIn(test, created.body.snapshot.id, ["BackedUp", "Error"]);
      assert.equal(snapshot.state, "BackedUp", JSON.stringify(snapshot));
      const { body } = await test.call("POST", `/snapshots/${snapshot.id}/restore`, {
        body: { target: { hypervisorId: hypervisor.id, name: `${round}-copy` } },
      });
      assert.equal((await endedJob(test, body.job.id)).state, "Succeeded");
      assert.equal(await hypervisor.digest(`${round}-copy`), await hypervisor.digest("secret"));
    }
    const objects = new Map<string, Buffer>();
    for (const Key of await versionsIn(test, store.bucket)) {
      const { Body } = await test.clients.s3
        .send(new GetObjectCommand({ Bucket: store.bucket, Key }))
        .catch(unlessJobHasEnded(Key));
      if (Body) objects.set(Key, Buffer.from(await Body.transformToByteArray()));
    }
    for (const [key, bytes] of objects) assert.ok(!bytes.includes(secret.subarray(0, 16)), key);
    const keys = [...objects.keys()];
    for (const folder of ["packs", "pages", "roots"])
      assert.ok(
        keys.some((key) => key.includes(`/${folder}/`)),
        folder,
      );
    const record = keys.find((key) => key.endsWith("/domain.json")) ?? "";
    assert.match(objects.get(record)?.toString() ?? "", /"wrappedKey"/);
    await hypervisor.remove();
    await store.close();
  });
});

/** What a job kept of its work goes after its end, whenever that is. */
function unlessJobHasEnded(key: string): (error: Error) => { Body?: undefined } {
  return (error) => {
    if (error.name === "NoSuchKey" && key.includes("/jobs/")) return {};
    throw error;
  };
}
