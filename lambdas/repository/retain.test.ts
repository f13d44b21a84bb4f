import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, it } from "node:test";
import { MemoryObjectStore, type StoreOperation } from "../../test/support/memory-object-store.ts";
import { backup, never, restore, SparseVolume, smallGeometry, useGeometry } from "../../test/support/repository.ts";
import { ObjectLocked, RepositoryDamaged, StoreUnfit } from "../domain/errors.ts";
import type { BackupTarget } from "./pin.ts";
import { publishedAt, retainSnapshot } from "./retain.ts";
import { deleteBackup, sweepDomain } from "./sweep.ts";

const { chunkBytes, pageChunks } = smallGeometry;
const pageBytes = chunkBytes * pageChunks;
const dayMs = 24 * 60 * 60 * 1000;
const start = Date.UTC(2026, 10, 21);

async function newDomain({ objectLock = true } = {}) {
  const clock = { now: start };
  const hooks: { before: (operation: StoreOperation, key: string) => void } = { before: () => undefined };
  const before = (operation: StoreOperation, key: string) => hooks.before(operation, key);
  const store = new MemoryObjectStore({ objectLock, before, now: () => clock.now });
  await useGeometry(store, "vol", smallGeometry);
  const job = (n: number): BackupTarget => ({ store, domain: "vol", snapshotId: `snap${n}`, jobId: `job${n}` });
  const inDays = (days: number) => new Date(start + days * dayMs);
  const lock = (days: number) => ({ mode: "COMPLIANCE" as const, until: inDays(days), outOfTime: never });
  const untilOf = (key: string) => store.retentionOf(key)?.until;
  return { store, clock, hooks, job, inDays, lock, untilOf, location: { store, domain: "vol" } };
}

describe("the retention of a snapshot", () => {
  it("covers every object that the snapshot consists of, and nothing else", async () => {
    const { store, job, lock, inDays, location } = await newDomain();
    await backup(job(1), SparseVolume.of(randomBytes(pageBytes * 5)));
    const content = randomBytes(pageBytes * 5);
    await backup(job(2), SparseVolume.of(content));
    assert.deepEqual(await retainSnapshot(job(2), lock(3)), { finished: true, next: 1024 });
    const retained = store.keys().filter((key) => store.retentionOf(key));
    const ofJob = store.keys().filter((key) => key.includes("/job2/"));
    assert.ok(ofJob.some((key) => key.includes("/packs/")) && ofJob.some((key) => key.includes("/pages/")));
    assert.deepEqual(retained, ["domains/vol/domain.json", ...ofJob, "domains/vol/roots/snap2"].sort());
    for (const key of retained) assert.deepEqual(store.retentionOf(key), { mode: "COMPLIANCE", until: inDays(3) }, key);
    await deleteBackup(job(1));
    assert.equal((await sweepDomain(location, { until: never })).finished, true);
    assert.deepEqual(
      store.keys().filter((key) => key.includes("job1")),
      [],
    );
    assert.ok((await (await restore({ ...job(2), jobId: "restore" })).content()).equals(content));
  });

  it("of a second backup extends that of the objects both share, and leaves the first one's own alone", async () => {
    const { store, job, lock, inDays, untilOf } = await newDomain();
    const content = randomBytes(pageBytes * 3);
    await backup(job(1), SparseVolume.of(content));
    await retainSnapshot(job(1), lock(3));
    const before = new Set(store.keys());
    const changed = Buffer.from(content);
    changed.set(randomBytes(chunkBytes), 0);
    await backup(job(2), SparseVolume.of(changed), ["snap1"]);
    await retainSnapshot(job(2), lock(5));
    const extended = [...before].filter((key) => untilOf(key)?.getTime() === inDays(5).getTime());
    assert.ok(
      extended.some((key) => key.includes("/packs/job1/")),
      "older packs are used again",
    );
    assert.ok(
      extended.some((key) => key.includes("/pages/job1/")),
      "older pages are used again",
    );
    assert.deepEqual(untilOf("domains/vol/roots/snap1"), inDays(3));
    assert.deepEqual(untilOf("domains/vol/roots/snap2"), inDays(5));
    await retainSnapshot(job(1), lock(3));
    await retainSnapshot(job(2), lock(4));
    for (const key of extended) assert.deepEqual(untilOf(key), inDays(5), `${key} was shortened`);
  });

  it("stops before each page when time is short, and goes on from there", async () => {
    const { store, job, lock } = await newDomain();
    await backup(job(1), SparseVolume.of(randomBytes(pageBytes * 6)));
    let calls = 0;
    for (let next = 0, finished = false; !finished; calls++) {
      let asked = 0;
      ({ finished, next } = await retainSnapshot(job(1), { ...lock(1), from: next, outOfTime: () => asked++ === 2 }));
      assert.equal(store.retentionOf("domains/vol/roots/snap1") !== undefined, finished, "the root comes last");
    }
    assert.equal(calls, 3);
    assert.ok(store.keys().every((key) => store.retentionOf(key)));
  });

  it("may fail at any object and run again", async () => {
    const { store, hooks, job, lock } = await newDomain();
    await backup(job(1), SparseVolume.of(randomBytes(pageBytes * 2)));
    for (let dies = 1, done = false; !done; dies++) {
      let requests = 0;
      hooks.before = () => {
        if (++requests === dies) throw new Error("died");
      };
      done = await retainSnapshot(job(1), lock(1)).then(
        () => true,
        (error: Error) => error.message !== "died",
      );
      assert.ok(dies < 100);
    }
    assert.ok(store.keys().every((key) => store.retentionOf(key)));
  });

  it("does without a lost record, and names an object that is missing", async () => {
    const { store, job, lock } = await newDomain();
    await backup(job(1), SparseVolume.of(randomBytes(pageBytes)));
    await store.deleteEveryVersion(["domains/vol/domain.json"]);
    assert.ok((await retainSnapshot(job(1), lock(1))).finished);
    const pack = store.keys("domains/vol/packs/")[0]!;
    store.damage(pack, () => undefined);
    await assert.rejects(retainSnapshot(job(1), lock(2)), (error) => {
      return error instanceof RepositoryDamaged && error.message.includes(pack);
    });
    await assert.rejects(retainSnapshot(job(2), lock(2)), RepositoryDamaged);
  });

  it("is refused by a store without Object Lock", async () => {
    const { job, lock } = await newDomain({ objectLock: false });
    await backup(job(1), SparseVolume.of(randomBytes(pageBytes)));
    await assert.rejects(retainSnapshot(job(1), lock(1)), StoreUnfit);
  });
});

describe("the time of publishing", () => {
  it("is the root's own, however often it is asked for, and of that very snapshot", async () => {
    const { clock, job } = await newDomain();
    await backup(job(10), SparseVolume.of(randomBytes(pageBytes)));
    clock.now += dayMs;
    await assert.rejects(publishedAt(job(1)), RepositoryDamaged);
    await backup(job(1), SparseVolume.of(randomBytes(pageBytes)));
    clock.now += dayMs;
    assert.deepEqual(await publishedAt(job(10)), new Date(start));
    assert.deepEqual(await publishedAt(job(1)), new Date(start + dayMs));
  });
});

describe("a sweep that meets locked garbage", () => {
  it("deletes all else before it tells, and the rest once the lock is over", async () => {
    const { store, clock, job, lock, location } = await newDomain();
    const kept = randomBytes(pageBytes * 2);
    await backup(job(1), SparseVolume.of(randomBytes(pageBytes * 4)));
    await backup(job(2), SparseVolume.of(kept));
    const garbage = store.keys().filter((key) => key.includes("/job1/"));
    const locked = garbage.filter((_, at) => at % 3 === 0);
    assert.ok(locked.length > 3 && locked.length < garbage.length - 3);
    for (const key of locked) await store.retain(key, lock(1));
    await deleteBackup(job(1));
    await assert.rejects(sweepDomain(location, { until: never }), ObjectLocked);
    assert.deepEqual(
      store.keys().filter((key) => key.includes("/job1/")),
      locked,
    );
    assert.ok((await (await restore({ ...job(2), jobId: "restore" })).content()).equals(kept));
    clock.now += dayMs + 1;
    assert.equal((await sweepDomain(location, { until: never })).finished, true);
    assert.deepEqual(
      store.keys().filter((key) => key.includes("/job1/")),
      [],
    );
  });
});
