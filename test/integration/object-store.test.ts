/** The S3 store against a real service: `AWS_ENDPOINT_URL=http://127.0.0.1:4566 node --test test/integration/object-store.test.ts`. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, describe, test } from "node:test";
import { EndpointForbidden, StoreRefused, StoreUnavailable, StoreUnfit } from "../../lambdas/domain/errors.ts";
import { preflightStore } from "../../lambdas/repository/preflight.ts";
import { S3Connection } from "../../lambdas/repository/s3-connection.ts";
import { S3ObjectStore } from "../../lambdas/repository/s3-object-store.ts";
import { objectLockContract, objectStoreContract } from "../contract/object-store.ts";
import { objectStoreUnderFaults } from "../contract/object-store-faults.ts";
import { backup, restore, SparseVolume } from "../support/repository.ts";
import { connectS3Service } from "../support/s3-service.ts";
import { unfitStores } from "../support/unfit-stores.ts";

const endpoint = process.env.AWS_ENDPOINT_URL;
if (!endpoint) {
  throw new Error("AWS_ENDPOINT_URL names no S3 service. Start the local cloud and set it to its address.");
}

const service = await connectS3Service({ endpoint, accessKeyId: "test", secretAccessKey: "test" });
const { connection, bucket, settings, newStore } = service;
after(() => service.close());

objectStoreContract("S3", async () => newStore());
objectLockContract("S3", (locks) => service.openLockable(locks));
objectStoreUnderFaults("S3", () => service.openFaulty());

describe("the S3 store", () => {
  test("passes the preflight", () => preflightStore(newStore()));

  for (const { what, without, words } of unfitStores) {
    test(`a service that ${what} fails the preflight, in words`, async () => {
      const { store, proxy } = await service.openFaulty();
      proxy.fault = () => ({ without });
      await assert.rejects(preflightStore(store), (error) => {
        assert.ok(error instanceof StoreUnfit, String(error));
        assert.match(error.message, words);
        return true;
      });
    });
  }

  test("keeps its prefix to itself", async () => {
    const store = newStore();
    await store.put("key", Buffer.from("value"));
    const whole = new S3ObjectStore({ connection, bucket });
    assert.equal(Buffer.from((await whole.get(store.fullKey("key")))!).toString(), "value");
  });

  test("a bucket that does not exist is refused", async () => {
    const store = new S3ObjectStore({ connection, bucket: `${bucket}-not` });
    await assert.rejects(store.put("key", Buffer.from("value")), StoreRefused);
    await assert.rejects(store.get("key"), StoreRefused);
    await assert.rejects(store.deleteEveryVersion(["key"]), StoreRefused);
    await assert.rejects(store.list("").next(), StoreRefused);
  });

  test("a user's endpoint inside the network is not called unless allowed", async () => {
    const guarded = new S3Connection({ ...settings, allowedCidrs: [] });
    await assert.rejects(new S3ObjectStore({ connection: guarded, bucket }).get("key"), EndpointForbidden);
    guarded.close();
  });

  test("a service that is not there is unavailable", async () => {
    const absent = new S3Connection({ ...settings, endpoint: "http://127.0.0.1:9" });
    await assert.rejects(new S3ObjectStore({ connection: absent, bucket }).get("key"), StoreUnavailable);
    absent.close();
  });

  test("a volume is backed up and comes back", async () => {
    const content = Buffer.concat([randomBytes(3_000_000), Buffer.alloc(2_000_000), Buffer.alloc(1_000_000, "text ")]);
    const target = { store: newStore(), domain: "vol", snapshotId: "snap", jobId: "job" };
    await backup(target, SparseVolume.of(content));
    assert.deepEqual(await (await restore({ ...target, jobId: "job2" })).content(), content);
  });
});
