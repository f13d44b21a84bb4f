import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, test } from "node:test";
import fc from "fast-check";
import { MemoryObjectStore, type StoreOperation } from "../../test/support/memory-object-store.ts";
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
import { Killed, workerStore } from "../../test/support/worker-store.ts";
import { RepositoryDamaged } from "../domain/errors.ts";
import { Fingerprints } from "./fingerprints.ts";
import { originalPack } from "./layout.ts";
import { type BackupTarget, pinBase, unpinJob } from "./pin.ts";
import type { PlanSummary } from "./planner.ts";
import { publishRoot } from "./publish.ts";
import { readRoot } from "./reader.ts";
import { deleteBackup, sweepDomain } from "./sweep.ts";
import { pagesOf } from "./tree.ts";
import { verifyBackup } from "./verify.ts";

const { chunkBytes, pageChunks } = smallGeometry;
const pageBytes = chunkBytes * pageChunks;
const hourMs = 60 * 60 * 1000;

type Hook = (operation: StoreOperation, key: string) => void | Promise<void>;

/** A store whose hook can be set when the stage is ready. */
async function newDomain(geometry = smallGeometry) {
  const hooks: { before: Hook } = { before: () => undefined };
  const store = new MemoryObjectStore({ before: (operation, key) => hooks.before(operation, key) });
  await useGeometry(store, "vol", geometry);
  const job = (n: number): BackupTarget => ({ store, domain: "vol", snapshotId: `snap${n}`, jobId: `job${n}` });
  return { store, hooks, job, location: { store, domain: "vol" } };
}

/** Keys that the snapshots of the domain need. */
async function reachable(store: MemoryObjectStore): Promise<string[]> {
  const keys: string[] = [];
  for (const rootKey of store.keys("domains/vol/roots/")) {
    const root = await readRoot({ store, domain: "vol", snapshotId: rootKey.slice("domains/vol/roots/".length) });
    keys.push(rootKey, ...root.branches.map((branch) => `domains/vol/pages/${branch.name}`));
    for await (const page of pagesOf({ store, domain: "vol" }, root)) {
      keys.push(`domains/vol/pages/${page.name}`, ...page.packs.map((pack) => `domains/vol/packs/${pack}`));
    }
  }
  return [...new Set(keys)].sort();
}

async function assertRestores(target: BackupTarget, content: Uint8Array): Promise<void> {
  const volume = await restore({ ...target, jobId: `restore-${target.jobId}` });
  assert.deepEqual(await volume.content(), Buffer.from(content), `${target.snapshotId} came back with other bytes`);
}

describe("the sweep", () => {
  test("takes what only deleted snapshots needed, and nothing that others share", async () => {
    const { store, job, location } = await newDomain();
    const content = randomBytes(pageBytes * 3);
    await backup(job(1), SparseVolume.of(content));
    const changed = Buffer.from(content);
    changed.set(randomBytes(chunkBytes), pageBytes);
    await backup(job(2), SparseVolume.of(changed), ["snap1"]);
    await deleteBackup(job(1));
    const swept = await sweepDomain(location, { until: never });
    assert.ok(swept.finished && swept.deletedObjects > 0 && swept.deletedBytes > 0);
    const left = [
      ...store.keys("domains/vol/packs/"),
      ...store.keys("domains/vol/pages/"),
      ...store.keys("domains/vol/roots/"),
    ];
    assert.deepEqual(left.sort(), await reachable(store));
    await assertRestores(job(2), changed);
  });

  test("leaves nothing of a domain without snapshots", async () => {
    const { store, job, location } = await newDomain();
    await backup(job(1), SparseVolume.of(randomBytes(pageBytes)));
    await deleteBackup(job(1));
    await deleteBackup(job(1));
    await sweepDomain(location, { until: never });
    assert.deepEqual(store.keys(), []);
    assert.deepEqual(await sweepDomain(location, { until: never }), {
      deletedObjects: 0,
      deletedBytes: 0,
      compactedPacks: 0,
      damagedPacks: [],
      finished: true,
      position: "",
    });
  });

  test("leaves all of a running backup alone, and takes what a dead one left once it is collected", async () => {
    const { store, job, location } = await newDomain();
    const volume = SparseVolume.of(randomBytes(pageBytes));
    const plan = await planBackup(job(1), volume);
    await copyAll(job(1), plan, volume);
    const before = store.keys();
    await sweepDomain(location, { until: never });
    assert.deepEqual(store.keys(), before);
    await unpinJob(job(1));
    await sweepDomain(location, { until: never });
    assert.deepEqual(store.keys(), []);
  });

  test("leaves the base of a running backup alone although its snapshot is deleted", async () => {
    const { job, location } = await newDomain();
    const content = randomBytes(pageBytes * 2);
    await backup(job(1), SparseVolume.of(content));
    const plan = await planBackup(job(2), SparseVolume.of(content), ["snap1"]);
    await deleteBackup(job(1));
    await sweepDomain(location, { until: never });
    await copyAll(job(2), plan, SparseVolume.of(content));
    await verifyBackup(job(2), { planHash: plan.planHash, until: never });
    await publishRoot(job(2), plan);
    await unpinJob(job(2));
    await sweepDomain(location, { until: never });
    await assertRestores(job(2), content);
  });

  test("finds the pin of a finished backup until all else of the job is deleted", async () => {
    const { store, hooks, job } = await newDomain();
    const volume = SparseVolume.of(randomBytes(pageBytes));
    const plan = await planBackup(job(1), volume);
    await copyAll(job(1), plan, volume);
    const left = store.keys("domains/vol/jobs/");
    const deleted: string[] = [];
    hooks.before = (operation, key) => void (operation === "delete" && deleted.push(key));
    assert.deepEqual(await unpinJob(job(1)), { finished: true });
    assert.deepEqual([...deleted].sort(), left);
    assert.equal(deleted.at(-1), "domains/vol/jobs/job1/pin");
  });

  test("does not take a restore's work objects for a pin", async () => {
    const { store, job, location } = await newDomain();
    await store.put("domains/vol/jobs/job9/restore/plan", Buffer.from("work"));
    const volume = SparseVolume.of(randomBytes(pageBytes));
    await copyAll(job(9), await planBackup(job(9), volume), volume);
    await store.deleteEveryVersion(["domains/vol/jobs/job9/pin"]);
    await sweepDomain(location, { until: never });
    assert.deepEqual(store.keys("domains/vol/packs/"), []);
    assert.ok(store.keys("domains/vol/jobs/job9/restore/").length > 0);
  });

  test("stops when time is short and goes on when called again", async () => {
    const { store, job, location } = await newDomain();
    await backup(job(1), SparseVolume.of(randomBytes(pageBytes)));
    await deleteBackup(job(1));
    assert.equal((await sweepDomain(location, { until: () => true })).finished, false);
    assert.ok(store.keys("domains/vol/packs/").length > 0);
    assert.equal((await sweepDomain(location, { until: never })).finished, true);
    assert.deepEqual(store.keys(), []);
  });

  test("goes on where an earlier call has come to, and looks at nothing before that again", async () => {
    const { store, hooks, job, location } = await newDomain();
    for (const n of [1, 2]) await backup(job(n), SparseVolume.of(randomBytes(pageBytes)));
    await deleteBackup(job(1));
    let isLate = false;
    hooks.before = (operation, key) => {
      if (operation === "list" && key === "domains/vol/pages/") isLate = true;
    };
    const first = await sweepDomain(location, { until: () => isLate });
    assert.ok(!first.finished && first.deletedObjects > 0);
    const listed: string[] = [];
    hooks.before = (operation, key) => void (operation === "list" && listed.push(key));
    const resumed = await sweepDomain(location, { until: never, from: first.position });
    assert.ok(resumed.finished && resumed.deletedObjects > 0);
    assert.ok(listed.indexOf("domains/vol/pages/") < listed.indexOf("domains/vol/packs/"), "the packs are done");
    hooks.before = () => undefined;
    const left = [...store.keys("domains/vol/packs/"), ...store.keys("domains/vol/pages/")];
    const needed = await reachable(store);
    assert.deepEqual(left.sort(), needed.filter((key) => !key.includes("/roots/")).sort());
  });

  test("reads a branch once, many at once, and asks for the time while it does", async () => {
    const { hooks, job, location } = await newDomain();
    const many = 6;
    for (let n = 1; n <= many; n++) await backup(job(n), SparseVolume.of(randomBytes(pageBytes)));
    const gets = new Map<string, number>();
    const atOnce = { now: 0, most: 0 };
    hooks.before = async (operation, key) => {
      if (operation !== "get") return;
      gets.set(key, (gets.get(key) ?? 0) + 1);
      atOnce.most = Math.max(atOnce.most, ++atOnce.now);
      await new Promise((resolve) => setImmediate(resolve));
      atOnce.now--;
    };
    assert.equal((await sweepDomain(location, { until: never })).finished, true);
    const branches = [...gets].filter(([key]) => key.startsWith("domains/vol/pages/"));
    assert.deepEqual(
      branches.map(([, count]) => count),
      Array.from({ length: many }, () => 1),
    );
    assert.equal(atOnce.most, many);
    gets.clear();
    const late = await sweepDomain(location, { until: () => gets.size > 0 });
    assert.deepEqual([late.finished, late.deletedObjects], [false, 0]);
    assert.deepEqual(
      [...gets.keys()].filter((key) => !key.startsWith("domains/vol/roots/")),
      [],
    );
  });

  test("deletes nothing while a root, a branch or a pin cannot be read, and names them all", async () => {
    const branchOf = async (n: number, { job }: Awaited<ReturnType<typeof newDomain>>) =>
      `domains/vol/pages/${(await readRoot(job(n))).branches[0]!.name}`;
    const cases = [
      { damaged: ["domains/vol/roots/snap1", "domains/vol/roots/snap2"], named: /snapshot snap1 .*snapshot snap2 / },
      { damaged: [(domain: Awaited<ReturnType<typeof newDomain>>) => branchOf(2, domain)], named: /snapshot snap2 / },
      { damaged: ["domains/vol/jobs/job3/pin"], named: /pin of the job job3 / },
    ];
    for (const { damaged, named } of cases) {
      const domain = await newDomain();
      const { store, job, location } = domain;
      for (const n of [1, 2]) await backup(job(n), SparseVolume.of(randomBytes(pageBytes)));
      await pinBase(job(3), ["snap1"], { sizeBytes: pageBytes });
      for (const key of damaged)
        store.damage(typeof key === "string" ? key : await key(domain), (body) => body.subarray(3));
      const before = store.keys();
      await assert.rejects(
        sweepDomain(location, { until: never }),
        (error) => error instanceof RepositoryDamaged && named.test(error.message),
      );
      assert.deepEqual(store.keys(), before);
    }
  });

  test("deletes what waited for a damaged snapshot once that is deleted", async () => {
    const { store, job, location } = await newDomain();
    const contents = [1, 2, 3].map(() => randomBytes(pageBytes));
    for (const [at, content] of contents.entries()) await backup(job(at + 1), SparseVolume.of(content));
    store.damage("domains/vol/roots/snap2", (body) => body.subarray(3));
    await deleteBackup(job(1));
    await assert.rejects(sweepDomain(location, { until: never }), RepositoryDamaged);
    await deleteBackup(job(2));
    assert.equal((await sweepDomain(location, { until: never })).finished, true);
    const left = [...store.keys("domains/vol/packs/"), ...store.keys("domains/vol/pages/")];
    assert.deepEqual([...left, "domains/vol/roots/snap3"].sort(), await reachable(store));
    await assertRestores(job(3), contents[2]!);
  });

  test("does not take for a root or a pin what is named like no snapshot and no job", async () => {
    const { store, job, location } = await newDomain();
    await backup(job(1), SparseVolume.of(randomBytes(pageBytes)));
    for (const junk of ["roots/", "roots/a note.txt", "roots/old/snap1", "jobs/", "jobs/a note.txt"])
      await store.put(`domains/vol/${junk}`, Buffer.from("junk"));
    assert.equal((await sweepDomain(location, { until: never })).finished, true);
  });

  /** Finishes a backup whose plan is written; tells whether it found all it stores in its base. */
  async function finish(target: BackupTarget, plan: PlanSummary, volume: SparseVolume): Promise<boolean> {
    await copyAll(target, plan, volume);
    await verifyBackup(target, { planHash: plan.planHash, until: never });
    const { storedBytes } = await publishRoot(target, plan);
    return storedBytes < 500;
  }

  test("notices a snapshot that lived only while it looked, and was the base of a backup by then", async () => {
    const { store, hooks, job, location } = await newDomain();
    const content = randomBytes(pageBytes);
    const volume = SparseVolume.of(content);
    const plan = await planBackup(job(1), volume);
    await copyAll(job(1), plan, volume);
    await verifyBackup(job(1), { planHash: plan.planHash, until: never });
    let secondPlan: PlanSummary | undefined;
    let listings = 0;
    hooks.before = async (operation, key) => {
      if (operation !== "list") return;
      if (key === "domains/vol/jobs/" && ++listings === 1) {
        await publishRoot(job(1), plan);
        await unpinJob(job(1));
      }
      if (key === "domains/vol/roots/" && listings === 1) {
        secondPlan = await planBackup(job(2), volume, ["snap1"]);
        await deleteBackup(job(1));
      }
    };
    await sweepDomain(location, { until: never });
    hooks.before = () => undefined;
    assert.ok(secondPlan);
    assert.deepEqual(store.keys("domains/vol/roots/"), []);
    assert.ok(await finish(job(2), secondPlan, volume), "the base was used");
    await assertRestores(job(2), content);
  });

  test("notices a snapshot whose slow deletion began before it looked, and was the base of a backup by then", async () => {
    const { hooks, job, location } = await newDomain();
    const content = randomBytes(pageBytes);
    const volume = SparseVolume.of(content);
    await backup(job(1), volume);
    let secondPlan: PlanSummary | undefined;
    let listings = 0;
    let goOn = () => {};
    const pause = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    let deletionBegan = () => {};
    const began = new Promise<void>((resolve) => {
      deletionBegan = resolve;
    });
    let deletion = Promise.resolve();
    hooks.before = async (operation, key) => {
      if (operation === "delete" && key === "domains/vol/roots/snap1") {
        deletionBegan();
        await pause;
      }
      if (operation === "list" && key === "domains/vol/roots/" && ++listings === 2) {
        secondPlan = await planBackup(job(2), volume, ["snap1"]);
        goOn();
        await deletion;
      }
    };
    deletion = deleteBackup(job(1));
    await began;
    await sweepDomain(location, { until: never });
    hooks.before = () => undefined;
    assert.ok(secondPlan);
    assert.ok(await finish(job(2), secondPlan, volume), "the base was used");
    await assertRestores(job(2), content);
  });

  test("puts the domain's record back when a backup starts meanwhile", async () => {
    const { store, hooks, job, location } = await newDomain();
    let isStarted = false;
    hooks.before = async (operation, key) => {
      if (operation !== "delete" || !key.endsWith("domain.json") || isStarted) return;
      isStarted = true;
      await pinBase(job(1), [], { sizeBytes: pageBytes });
    };
    await sweepDomain(location, { until: never });
    assert.ok(isStarted);
    assert.ok(await store.get("domains/vol/domain.json"));
  });

  test("forgets deletions after an hour", async () => {
    const { store, job, location } = await newDomain();
    for (const n of [1, 2]) await backup(job(n), SparseVolume.of(randomBytes(pageBytes)));
    await deleteBackup(job(1));
    await sweepDomain(location, { until: never });
    assert.equal(store.keys("domains/vol/dropped/").length, 1);
    await sweepDomain(location, { until: never, now: () => Date.now() + hourMs + 1 });
    assert.deepEqual(store.keys("domains/vol/dropped/"), []);
  });
});

describe("fingerprints", () => {
  test("know what was added, and nothing else", () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.string(), { maxLength: 3_000, size: "max" }), (keys) => {
        const known = new Fingerprints();
        const added = keys.slice(0, keys.length / 2);
        for (const key of [...added, ...added]) known.add(key);
        return keys.every((key, at) => known.has(key) === at < added.length);
      }),
      { numRuns: 10 },
    );
  });
});

/** What somebody does while others do theirs: after how many requests of running backups, and with how many requests a turn. */
type Act = { readonly delay: number; readonly pace: number } & (
  | { readonly kind: "backup"; readonly change: number; readonly diesAfter: number | undefined }
  | { readonly kind: "delete"; readonly which: number }
  | { readonly kind: "sweep"; readonly compacts: boolean }
);

const delay = fc.nat(70);
const pace = fc.constantFrom(1, 1, 3, 10);
const backupAct: fc.Arbitrary<Act> = fc.record({
  kind: fc.constant("backup" as const),
  delay: fc.constant(0),
  pace: fc.constant(1),
  change: fc.nat(99),
  diesAfter: fc.oneof(
    { weight: 5, arbitrary: fc.constant(undefined) },
    { weight: 1, arbitrary: fc.integer({ min: 1, max: 45 }) },
  ),
});
const deleteAct: fc.Arbitrary<Act> = fc.record({ kind: fc.constant("delete" as const), delay, pace, which: fc.nat(9) });
const sweepAct: fc.Arbitrary<Act> = fc.record({
  kind: fc.constant("sweep" as const),
  delay,
  pace,
  compacts: fc.boolean(),
});

/** Acts that go on at once; between two rounds all stand still. */
const round = fc.oneof(
  fc.tuple(backupAct, deleteAct, deleteAct, sweepAct, sweepAct, sweepAct),
  fc.array(fc.oneof(backupAct, deleteAct, sweepAct), { minLength: 1, maxLength: 4 }),
);
const script = fc
  .tuple(fc.array(backupAct, { minLength: 1, maxLength: 2 }), fc.array(round, { minLength: 1, maxLength: 4 }))
  .map(([first, rounds]) => [first, ...rounds]);

/** Packs of 8 chunks: a few backups later many of them have little left. */
const geometryOfModel = { ...smallGeometry, packBytes: 4096 };

test("whatever backups, deletions, sweeps and crashes go on at once, every snapshot is whole and nothing else is left", async () => {
  await fc.assert(
    fc.asyncProperty(script, fc.scheduler(), async (rounds, scheduler) => {
      const { store, job, location } = await newDomain(geometryOfModel);
      const contents = new Map<string, Buffer>();
      const dead: BackupTarget[] = [];
      let last = Buffer.from(randomBytes(pageBytes * 2 + 100));
      let jobs = 0;
      const progress = { running: 0, requests: 0 };
      /** Lets the thread pool, which compresses, keep up with those who only make requests. */
      const turn = async () => {
        await new Promise((resolve) => setImmediate(resolve));
        await scheduler.schedule(Promise.resolve());
      };
      const living = () => store.keys("domains/vol/roots/").map((key) => key.slice("domains/vol/roots/".length));

      async function runBackup(change: number, diesAfter: number | undefined): Promise<void> {
        jobs += 1;
        const whole = job(jobs);
        const content = Buffer.from(last);
        content.set(randomBytes((1 + (change % 5)) * chunkBytes), (change % 11) * chunkBytes);
        last = content;
        contents.set(whole.snapshotId, content);
        const backupTurn = async () => {
          progress.requests += 1;
          await turn();
        };
        const target = { ...whole, store: workerStore(store, backupTurn, { pace: 1, diesAfter }) };
        const newestFirst = living().sort((a, b) => Number(b.slice(4)) - Number(a.slice(4)));
        progress.running += 1;
        try {
          await backup(target, SparseVolume.of(content), newestFirst);
        } catch (error) {
          if (!(error instanceof Killed)) throw error;
          dead.push(whole);
        } finally {
          progress.running -= 1;
        }
      }

      async function run(one: Act): Promise<unknown> {
        while (one.kind !== "backup" && progress.running > 0 && progress.requests < one.delay) await turn();
        const worker = { ...location, store: workerStore(store, turn, one) };
        if (one.kind === "backup") return runBackup(one.change, one.diesAfter);
        if (one.kind === "sweep") return sweepDomain(worker, { until: never, compacts: one.compacts });
        const ids = living();
        const snapshotId = ids[one.which % Math.max(ids.length, 1)];
        return snapshotId === undefined ? undefined : deleteBackup({ ...worker, snapshotId });
      }

      for (const acts of rounds) {
        progress.requests = 0;
        await scheduler.waitFor(Promise.all(acts.map(run)));
        for (const job of dead.splice(0)) await unpinJob(job);
        for (const id of living()) await assertRestores({ ...job(0), snapshotId: id }, contents.get(id)!);
      }
      await sweepDomain(location, { until: never, compacts: true, now: () => Date.now() + 2 * hourMs });
      const record = living().length > 0 ? ["domains/vol/domain.json"] : [];
      const left = store.keys().map((key) => originalPack(key).pack);
      assert.deepEqual(left, [...record, ...(await reachable(store))].sort(), "one form of each pack");
      for (const id of living()) await assertRestores({ ...job(0), snapshotId: id }, contents.get(id)!);
    }),
    { numRuns: 25, interruptAfterTimeLimit: 5_000, markInterruptAsFailure: false },
  );
});
