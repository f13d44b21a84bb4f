import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, test } from "node:test";
import { MemoryObjectStore, type MemoryObjectStoreOptions } from "../../test/support/memory-object-store.ts";
import {
  backup,
  copyAll,
  never,
  planBackup,
  planHinted,
  restore,
  SparseVolume,
  smallGeometry,
  useGeometry,
} from "../../test/support/repository.ts";
import { RepositoryDamaged, VerificationFailed } from "../domain/errors.ts";
import { unpinJob } from "./pin.ts";
import { publishRoot } from "./publish.ts";
import { readRoot } from "./reader.ts";
import { decodeResult, encodeResult } from "./shard-state.ts";
import { pagesOf } from "./tree.ts";
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

  for (const [what, damage] of Object.entries(damages))
    for (const checksums of [true, false])
      test(`finds that a branch ${what} right after it was written${checksums ? "" : ", without checksums of the store"}`, async () => {
        const isOfBranch = (key: string) => key.startsWith("domains/vol/pages/job1/0-");
        const { store, target, plan, verify } = await copied({
          checksums,
          before: (operation, key) => {
            if (operation === "head" && isOfBranch(key)) store.damage(key, damage);
          },
        });
        assert.deepEqual(await verify(), { finished: true });
        await assert.rejects(publishRoot(target, plan), VerificationFailed);
        assert.deepEqual(store.keys("domains/vol/roots/"), []);
      });

  test("finds that a shard has no result", async () => {
    const { store, verify } = await copied();
    await store.deleteEveryVersionBelow("domains/vol/jobs/job1/results/");
    await assert.rejects(verify(), VerificationFailed);
  });

  test("finds that a result is of less than the shard, and the next attempt copies that", async () => {
    const { store, target, volume, plan, verify } = await copied();
    const key = "domains/vol/jobs/job1/results/0-1";
    const object = { key, cipher: undefined };
    const { pages, ...result } = decodeResult((await store.get(key))!, object);
    const cut = { ...result, pages: pages.slice(0, -1), bytesDone: result.bytesDone - 1 };
    store.damage(key, () => encodeResult(cut, object));
    await assert.rejects(verify(), (error) => error instanceof VerificationFailed && error.message.includes(key));
    await copyAll(target, plan, volume, 2);
    await verify();
    await publishRoot(target, plan);
    assert.deepEqual(await (await restore({ ...target, jobId: "job2" })).content(), content);
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

describe("a full verification that has time for a page or two", () => {
  /** A backup that reads its whole volume, or a chunk of its first page and takes the rest over from its base. */
  async function ofBackup(hinted: boolean) {
    let packsRead = 0;
    const store = new MemoryObjectStore({
      before: (operation, key) => {
        if (operation === "get" && key.startsWith("domains/vol/packs/")) packsRead += 1;
      },
    });
    await useGeometry(store, "vol", smallGeometry);
    const target = (n: number) => ({ store, domain: "vol", snapshotId: `snap${n}`, jobId: `job${n}` });
    const volume = SparseVolume.of(content);
    if (hinted) await backup(target(1), volume);
    const hint = { base: "snap1", changed: [{ offset: 0, length: 1 }] };
    const plan = await (hinted ? planHinted(target(2), volume, hint) : planBackup(target(2), volume));
    await copyAll(target(2), plan, volume);
    const verify = async (packs: number) => {
      const before = packsRead;
      const until = () => packsRead >= before + packs;
      const { finished } = await verifyBackup(target(2), { planHash: plan.planHash, until, full: true });
      return { finished, packsRead: packsRead - before };
    };
    return { store, target, verify };
  }

  for (const hinted of [false, true]) {
    const what = hinted ? "what was taken over from the base" : "what was copied";
    test(`reads back ${what} page by page, each once`, async () => {
      const atOnce = await (await ofBackup(hinted)).verify(Number.POSITIVE_INFINITY);
      const { verify } = await ofBackup(hinted);
      const calls: Awaited<ReturnType<typeof verify>>[] = [];
      while (!calls.at(-1)?.finished && calls.length < 10) calls.push(await verify(1));
      assert.ok(calls.at(-1)?.finished && calls.length >= 4, "a call for each page");
      const read = calls.map(({ packsRead }) => packsRead);
      assert.equal(
        read.reduce((sum, packs) => sum + packs),
        atOnce.packsRead,
      );
    });
  }

  test("finds what is damaged in the page that it goes on with", async () => {
    const { store, target, verify } = await ofBackup(true);
    const pages = await Array.fromAsync(pagesOf(target(1), await readRoot(target(1))));
    const key = `domains/vol/packs/${pages.at(-1)!.packs.at(-1)}`;
    store.damage(key, (body) => body.fill(0, 0, 1000));
    for (let page = 0; page < 3; page++) assert.equal((await verify(1)).finished, false);
    await assert.rejects(verify(1), (error) => error instanceof VerificationFailed && error.message.includes(key));
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
    await unpinJob(target);
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
