import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, test } from "node:test";
import { MemoryObjectStore, type MemoryObjectStoreOptions } from "../../test/support/memory-object-store.ts";
import {
  backup,
  copyAll,
  never,
  planBackup,
  restore,
  SparseVolume,
  smallGeometry,
  useGeometry,
} from "../../test/support/repository.ts";
import { RepositoryDamaged, VerificationFailed } from "../domain/errors.ts";
import { publishRoot } from "./publish.ts";
import { collectJob } from "./sweep.ts";
import { verifyBackup } from "./verify.ts";

const content = randomBytes(smallGeometry.chunkBytes * smallGeometry.pageChunks * 4);

async function copied(options: MemoryObjectStoreOptions = {}) {
  const store = new MemoryObjectStore(options);
  await useGeometry(store, "vol", smallGeometry);
  const target = { store, domain: "vol", snapshotId: "snap1", jobId: "job1" };
  const volume = SparseVolume.of(content);
  const plan = await planBackup(target, volume);
  await copyAll(target, plan, volume);
  const verify = (until = never) => verifyBackup(target, { planHash: plan.planHash, until });
  return { store, target, volume, plan, verify };
}

describe("verification", () => {
  const damages: Record<string, (body: Uint8Array) => Uint8Array | undefined> = {
    "is missing": () => undefined,
    "is cut short": (body) => body.subarray(1),
    "has other bytes": (body) => body.fill(0),
  };
  for (const [what, damage] of Object.entries(damages)) {
    for (const kind of ["packs", "pages"]) {
      for (const checksums of [true, false]) {
        const how = checksums ? "by the store's checksum" : "by reading it back";
        test(`finds that one of the ${kind} ${what} ${how}, and the next attempt makes it good`, async () => {
          const { store, target, volume, plan, verify } = await copied({ checksums });
          const key = store.keys(`domains/vol/${kind}/`)[2]!;
          store.damage(key, damage);
          await assert.rejects(verify(), (error) => error instanceof VerificationFailed && error.message.includes(key));
          await assert.rejects(publishRoot(target, plan), VerificationFailed);
          await copyAll(target, plan, volume, 2);
          assert.deepEqual(await verify(), { finished: true });
          await publishRoot(target, plan);
          assert.deepEqual(await (await restore({ ...target, jobId: "job2" })).content(), content);
        });
      }
    }
  }

  test("finds that a shard has no result", async () => {
    const { store, verify } = await copied();
    await store.deleteEveryVersionBelow("domains/vol/jobs/job1/results/");
    await assert.rejects(verify(), VerificationFailed);
  });

  test("finds that a pack of the base is gone, and the next attempt does without it", async () => {
    const { store, target, volume, plan, verify } = await copied();
    await verify();
    await publishRoot(target, plan);
    const second = { ...target, snapshotId: "snap2", jobId: "job2" };
    const secondPlan = await planBackup(second, volume, ["snap1"]);
    await copyAll(second, secondPlan, volume);
    const lost = store.keys("domains/vol/packs/job1/")[1]!;
    store.damage(lost, () => undefined);
    const verifySecond = () => verifyBackup(second, { planHash: secondPlan.planHash, until: never });
    await assert.rejects(
      verifySecond(),
      (error) => error instanceof VerificationFailed && error.message.includes(lost),
    );
    await copyAll(second, secondPlan, volume, 2);
    await verifySecond();
    await publishRoot(second, secondPlan);
    assert.deepEqual(await (await restore({ ...second, jobId: "job3" })).content(), content);
  });

  test("goes on where its time ran out, and does nothing when it is done", async () => {
    const { verify } = await copied();
    assert.deepEqual(await verify(() => true), { finished: false });
    assert.deepEqual(await verify(), { finished: true });
    assert.deepEqual(await verify(() => true), { finished: true });
  });
});

describe("publishing", () => {
  test("twice is success", async () => {
    const { target, plan, verify } = await copied();
    await verify();
    assert.deepEqual(await publishRoot(target, plan), await publishRoot(target, plan));
  });

  test("tells the bytes that came into the store", async () => {
    const { store, target, plan, verify } = await copied();
    await verify();
    const { storedBytes, logicalBytes } = await publishRoot(target, plan);
    let bytes = 0;
    for (const key of [
      ...store.keys("domains/vol/packs/"),
      ...store.keys("domains/vol/pages/"),
      ...store.keys("domains/vol/roots/"),
    ]) {
      bytes += (await store.head(key))!.size;
    }
    assert.deepEqual([storedBytes, logicalBytes], [bytes, content.length]);
  });

  test("before verification, or after the job was collected, is refused", async () => {
    const { target, plan, verify } = await copied();
    await assert.rejects(publishRoot(target, plan), VerificationFailed);
    await verify();
    await collectJob(target);
    await assert.rejects(publishRoot(target, plan), VerificationFailed);
  });

  test("after an earlier job of the snapshot that died before its rows could say so is success", async () => {
    const { store, target, plan, verify } = await copied();
    await verify();
    await backup({ ...target, jobId: "job0" }, SparseVolume.of(content));
    const { logicalBytes } = await publishRoot(target, plan);
    assert.equal(logicalBytes, content.length);
    const restored = await restore({ store, domain: target.domain, snapshotId: target.snapshotId, jobId: "job9" });
    assert.deepEqual(await restored.content(), Buffer.from(content));
  });

  test("over another backup of the same snapshot is refused", async () => {
    const { store, target, plan, verify } = await copied();
    await verify();
    await backup({ ...target, jobId: "job0" }, SparseVolume.of(randomBytes(1000)));
    const before = await store.get("domains/vol/roots/snap1");
    await assert.rejects(publishRoot(target, plan), RepositoryDamaged);
    assert.deepEqual(await store.get("domains/vol/roots/snap1"), before);
  });
});
