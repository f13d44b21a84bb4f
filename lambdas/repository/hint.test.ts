import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, test } from "node:test";
import fc from "fast-check";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import {
  backup,
  copyAll,
  finishBackup,
  never,
  planHinted,
  restore,
  SparseVolume,
  smallGeometry,
  useGeometry,
} from "../../test/support/repository.ts";
import { HintMismatch, VerificationFailed } from "../domain/errors.ts";
import { auditHint } from "./audit.ts";
import { joinRanges } from "./damage.ts";
import { ruleOutHint } from "./hint.ts";
import type { BackupTarget } from "./pin.ts";
import type { Extent } from "./planner.ts";
import { publishRoot } from "./publish.ts";
import { readRoot } from "./reader.ts";
import { isSampled } from "./sampling.ts";
import { pagesOf } from "./tree.ts";
import { verifyBackup } from "./verify.ts";

const { chunkBytes, pageChunks } = smallGeometry;
const pageBytes = chunkBytes * pageChunks;

async function newDomain() {
  const store = new MemoryObjectStore();
  await useGeometry(store, "vol", smallGeometry);
  const job = (n: number): BackupTarget => ({ store, domain: "vol", snapshotId: `snap${n}`, jobId: `job${n}` });
  return { store, job };
}

async function assertRestores(target: BackupTarget, content: Uint8Array): Promise<void> {
  const restored = await restore({ ...target, jobId: `restore-${target.jobId}` });
  assert.deepEqual(await restored.content(), Buffer.from(content), `${target.snapshotId} came back with other bytes`);
}

const audit = (target: BackupTarget, planHash: string, reader: SparseVolume) =>
  auditHint(target, { planHash, reader, extents: reader.allocated(), percent: 100, until: never });

/** Bytes of the chunks that these ranges touch. */
function touchedBytes(changed: readonly Extent[], sizeBytes: number): number {
  const chunks = new Set<number>();
  for (const { offset, length } of changed) {
    for (let at = Math.floor(offset / chunkBytes); at * chunkBytes < offset + length; at++) chunks.add(at);
  }
  return [...chunks].reduce((sum, at) => sum + Math.min(chunkBytes, sizeBytes - at * chunkBytes), 0);
}

const change = fc.record({
  at: fc.nat(pageBytes * 4),
  length: fc.integer({ min: 1, max: pageBytes + chunkBytes }),
  isDiscard: fc.boolean(),
});
const step = fc.record({
  resizedTo: fc.option(fc.nat(pageBytes * 4 + 77), { freq: 2 }),
  changes: fc.array(change, { maxLength: 4 }),
});

describe("a backup that follows the hint", () => {
  test("restores exactly whatever was written, discarded, grown or shrunk, and reads what changed alone", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 4 }), async (steps) => {
        const { job } = await newDomain();
        const contents = [randomBytes(pageBytes * 3 + 100)];
        await backup(job(1), SparseVolume.of(contents[0]!));
        for (const [at, { resizedTo, changes }] of steps.entries()) {
          const before = contents.at(-1)!;
          const content = Buffer.alloc(resizedTo ?? before.length);
          before.copy(content);
          const written = changes
            .map(({ at: offset, length, isDiscard }) => ({
              offset,
              length: Math.min(length, content.length - offset),
              isDiscard,
            }))
            .filter(({ length }) => length > 0);
          for (const { offset, length, isDiscard } of written)
            content.set(isDiscard ? Buffer.alloc(length) : randomBytes(length), offset);
          const changed = joinRanges(written);
          const volume = SparseVolume.of(content);
          const target = job(at + 2);
          const plan = await planHinted(target, volume, { base: `snap${at + 1}`, changed });
          assert.ok(plan.hinted);
          await copyAll(target, plan, volume);
          if (resizedTo === null) assert.equal(volume.bytesRead, touchedBytes(changed, content.length));
          await audit(target, plan.planHash, volume);
          await finishBackup(target, plan, volume);
          contents.push(content);
          const root = await readRoot(target);
          for await (const page of pagesOf(target, root)) assert.ok(page.index * pageBytes < content.length);
        }
        for (const [at, content] of contents.entries()) await assertRestores(job(at + 1), content);
      }),
      { numRuns: 25 },
    );
  });

  test("drops a page that became zeros", async () => {
    const { job } = await newDomain();
    const content = randomBytes(pageBytes * 3);
    await backup(job(1), SparseVolume.of(content));
    content.fill(0, pageBytes, pageBytes * 2);
    const volume = SparseVolume.of(content);
    const changed = [{ offset: pageBytes, length: pageBytes }];
    const published = await finishBackup(job(2), await planHinted(job(2), volume, { base: "snap1", changed }), volume);
    assert.equal(published.chunks, pageChunks * 2);
    await assertRestores(job(2), content);
  });
});

describe("a hint that cannot be true", () => {
  const hints: Record<string, Extent[]> = {
    "is out of order": [
      { offset: pageBytes, length: 1 },
      { offset: 0, length: 1 },
    ],
    "lies outside of the volume": [{ offset: pageBytes * 3, length: 1 }],
    "is of negative length": [{ offset: pageBytes, length: -1 }],
  };
  for (const [what, changed] of Object.entries(hints)) {
    test(`as it ${what} is not followed: everything is read`, async () => {
      const { job } = await newDomain();
      const content = randomBytes(pageBytes * 3);
      await backup(job(1), SparseVolume.of(content));
      content[pageBytes * 2]! ^= 1;
      const volume = SparseVolume.of(content);
      const plan = await planHinted(job(2), volume, { base: "snap1", changed });
      assert.equal(plan.hinted, false);
      await finishBackup(job(2), plan, volume);
      await assertRestores(job(2), content);
    });
  }
});

describe("a hint that leaves out a change", () => {
  const lies = [
    { what: "of data", before: 1, after: 2 },
    { what: "from data to zeros", before: 1, after: 0 },
    { what: "from zeros to data in a page with data", before: 0, after: 2 },
  ];
  for (const { what, before, after } of lies) {
    test(`${what} is found, and the next attempt reads everything`, async () => {
      const { job } = await newDomain();
      const content = randomBytes(pageBytes * 2 + 3);
      content.fill(before, chunkBytes * 3, chunkBytes * 4);
      await backup(job(1), SparseVolume.of(content));
      content.fill(after, chunkBytes * 3, chunkBytes * 4);
      const volume = SparseVolume.of(content);
      const hint = { base: "snap1", changed: [{ offset: 0, length: 1 }] };
      const plan = await planHinted(job(2), volume, hint);
      await copyAll(job(2), plan, volume);
      await assert.rejects(
        audit(job(2), plan.planHash, volume),
        (error) => error instanceof HintMismatch && error.message.includes("1536-2047"),
      );
      const again = await planHinted(job(2), volume, hint);
      assert.equal(again.hinted, false);
      assert.equal(again.bytesTotal, content.length);
      await finishBackup(job(2), again, volume);
      await assertRestores(job(2), content);
    });
  }
});

describe("the audit of a hinted backup", () => {
  const auditOf = async (change: (content: Buffer) => { content: Buffer; changed: Extent[] }) => {
    const { job } = await newDomain();
    const before = Buffer.alloc(pageBytes * 4);
    before.set(randomBytes(pageBytes * 2));
    const full = new SparseVolume(before.length);
    full.extents.push({ offset: 0, bytes: before.subarray(0, pageBytes * 2) });
    await backup(job(1), full);
    const { content, changed } = change(before);
    const volume = SparseVolume.of(content);
    const plan = await planHinted(job(2), volume, { base: "snap1", changed });
    await copyAll(job(2), plan, volume);
    volume.bytesRead = 0;
    return { job, volume, plan, content };
  };

  test("finds data in a page that was all zeros, and the next attempt reads everything", async () => {
    const { job, volume, plan, content } = await auditOf((before) => {
      before[pageBytes * 3 + 1] = 1;
      return { content: before, changed: [{ offset: 0, length: 1 }] };
    });
    await assert.rejects(audit(job(2), plan.planHash, volume), HintMismatch);
    const again = await planHinted(job(2), volume, { base: "snap1", changed: [] });
    assert.equal(again.hinted, false);
    await finishBackup(job(2), again, volume);
    await assertRestores(job(2), content);
  });

  test("reads no page of zeros in which nothing is allocated", async () => {
    const { job, volume, plan } = await auditOf((content) => ({ content, changed: [{ offset: 0, length: 1 }] }));
    const extents = ReadableStream.from([{ offset: 0, length: pageBytes * 2 }]);
    const options = { planHash: plan.planHash, reader: volume, extents, percent: 100, until: never };
    assert.deepEqual(await auditHint(job(2), options), { finished: true, checkedBytes: pageBytes * 2 - chunkBytes });
  });

  test("reads nothing where the hint named everything", async () => {
    const { job, volume, plan } = await auditOf((content) => ({
      content,
      changed: [{ offset: 0, length: content.length }],
    }));
    await audit(job(2), plan.planHash, volume);
    assert.equal(volume.bytesRead, 0);
  });

  test("looks at something, however small the share and whatever was read of the first page", async () => {
    const { job, volume, plan } = await auditOf((content) => ({
      content,
      changed: [{ offset: 0, length: pageBytes }],
    }));
    const { planHash } = plan;
    const extents = volume.allocated();
    const options = { planHash, reader: volume, extents, percent: Number.MIN_VALUE, until: never };
    assert.deepEqual(await auditHint(job(2), options), { finished: true, checkedBytes: pageBytes / 8 });
  });
});

test("an audit picks sixteenths of pages by their names, and the first with anything unread when it picks none", async () => {
  const store = new MemoryObjectStore();
  const [chunkBytes, pageChunks, sixteenth] = [512, 32, 2];
  await useGeometry(store, "vol", { chunkBytes, pageChunks, packBytes: 4096 });
  const target = (n: number) => ({ store, domain: "vol", snapshotId: `snap${n}`, jobId: `job${n}` });
  const volume = SparseVolume.of(randomBytes(chunkBytes * pageChunks * 4));
  await backup(target(1), volume);
  const changed = [{ offset: 0, length: chunkBytes * sixteenth + 1 }];
  const { planHash } = await planHinted(target(2), volume, { base: "snap1", changed });
  const comparedOf = async (percent: number) => {
    const compared = new Set<number>();
    const reader = {
      read: (into: Uint8Array, offset: number) => {
        for (let at = 0; at < into.length; at += chunkBytes) compared.add((offset + at) / chunkBytes);
        return volume.read(into, offset);
      },
    };
    await auditHint(target(2), { planHash, reader, extents: volume.allocated(), percent, until: never });
    return [...compared].sort((a, b) => a - b);
  };
  const pickedOf = (percent: number) =>
    Array.from({ length: pageChunks * 4 }, (_, chunk) => chunk).filter((chunk) => {
      const [page, part] = [Math.floor(chunk / pageChunks), Math.floor((chunk % pageChunks) / sixteenth)];
      return chunk > sixteenth && isSampled(`job2/${page}/${part}`, percent);
    });
  for (const percent of [5, 40, 100]) {
    assert.ok(pickedOf(percent).length > 0);
    assert.deepEqual(await comparedOf(percent), pickedOf(percent));
  }
  assert.ok(!pickedOf(5).includes(sixteenth + 1), "the first with anything unread is no exception");
  assert.deepEqual(pickedOf(0.01), []);
  assert.deepEqual(await comparedOf(0.01), [sixteenth + 1]);
});

test("an audit reads no more of the plan than it compares pages", async () => {
  let planReads = 0;
  const store = new MemoryObjectStore({
    before: (operation, key) => {
      if (operation === "get" && key === "domains/vol/jobs/job2/plan") planReads += 1;
    },
  });
  /** A page takes 8 KiB of a plan, and 32 of them come with its table. */
  const large = { chunkBytes: 64 * 1024, pageChunks: 65_536, packBytes: 1024 };
  await useGeometry(store, "vol", large);
  const target = (n: number) => ({ store, domain: "vol", snapshotId: `snap${n}`, jobId: `job${n}` });
  const volume = new SparseVolume(large.chunkBytes * large.pageChunks * 40);
  volume.extents.push({ offset: 0, bytes: randomBytes(1) });
  await backup(target(1), volume);
  const changed = [{ offset: large.chunkBytes, length: volume.sizeBytes - large.chunkBytes }];
  const plan = await planHinted(target(2), volume, { base: "snap1", changed });
  assert.equal(plan.shardCount, 40);
  planReads = 0;
  let asked = 0;
  const options = { planHash: plan.planHash, reader: volume, percent: 100, until: () => asked++ > 0 };
  const audited = await auditHint(target(2), { ...options, extents: volume.allocated() });
  assert.deepEqual(audited, { finished: true, checkedBytes: large.chunkBytes });
  assert.equal(planReads, 1, "the table and, with it, the first shard");
});

describe("a hint that was ruled out", () => {
  /** A hinted job whose copy is whole, of a volume with a change that the hint left out. */
  const misledJob = async (store: MemoryObjectStore) => {
    await useGeometry(store, "vol", smallGeometry);
    const target = (n: number) => ({ store, domain: "vol", snapshotId: `snap${n}`, jobId: `job${n}` });
    const content = randomBytes(pageBytes * 2);
    await backup(target(1), SparseVolume.of(content));
    content[chunkBytes * 3]! ^= 1;
    const volume = SparseVolume.of(content);
    const hint = { base: "snap1", changed: [{ offset: 0, length: 1 }] };
    const plan = await planHinted(target(2), volume, hint);
    await copyAll(target(2), plan, volume);
    return { target: target(2), volume, hint, plan, content };
  };

  test("is marked as such by a worker that may delete nothing, and the next attempt reads everything", async () => {
    let isCopying = false;
    const store = new MemoryObjectStore({
      before: (operation) => assert.ok(!isCopying || operation !== "delete", "whoever copies may not delete"),
    });
    const { target, volume, hint, plan, content } = await misledJob(store);
    isCopying = true;
    await assert.rejects(audit(target, plan.planHash, volume), HintMismatch);
    isCopying = false;
    const again = await planHinted(target, volume, hint);
    assert.equal(again.hinted, false);
    await finishBackup(target, again, volume);
    await assertRestores(target, content);
  });

  test("is not followed any further, neither by those who copy nor by those who verify and publish", async () => {
    const store = new MemoryObjectStore();
    const { target, volume, plan } = await misledJob(store);
    const { planHash } = plan;
    await verifyBackup(target, { planHash, until: never });
    await assert.rejects(audit(target, planHash, volume), HintMismatch);
    const steps = {
      copy: () => copyAll(target, plan, volume, 2),
      audit: () => audit(target, planHash, volume),
      verify: () => verifyBackup(target, { planHash, until: never }),
      publish: () => publishRoot(target, plan),
    };
    for (const [step, take] of Object.entries(steps)) await assert.rejects(take, VerificationFailed, step);
    assert.equal(await store.head("domains/vol/roots/snap2"), undefined);
  });

  for (const last of ["selection", "results", "checkpoints", "plan"]) {
    test(`costs no further attempt when the next one dies at the deletion of the ${last}`, async () => {
      let isDying = false;
      const store = new MemoryObjectStore({
        before: (operation, key) => {
          if (isDying && operation === "delete" && key.startsWith(`domains/vol/jobs/job2/${last}`))
            throw new Error("The worker dies.");
        },
      });
      const { target, volume, hint, plan, content } = await misledJob(store);
      await store.put("domains/vol/jobs/job2/checkpoints/0-1", Buffer.from("of a worker that paused"));
      await assert.rejects(audit(target, plan.planHash, volume), HintMismatch);
      isDying = true;
      await assert.rejects(planHinted(target, volume, hint), /The worker dies/);
      isDying = false;
      const again = await planHinted(target, volume, hint);
      assert.equal(again.hinted, false);
      await finishBackup(target, again, volume);
      await assertRestores(target, content);
    });
  }
});

describe("a base that lacks a part", () => {
  for (const part of ["page", "branch", "pack"]) {
    for (const isCopied of [true, false]) {
      test(`its ${part} ${isCopied ? "of what changed" : "of what is not read"} fails the hinted attempt, and the next succeeds`, async () => {
        const { store, job } = await newDomain();
        const content = randomBytes(pageBytes * 2);
        await backup(job(1), SparseVolume.of(content));
        const root = await readRoot(job(1));
        const pages = await Array.fromAsync(pagesOf(job(1), root));
        const changedPage = isCopied ? 0 : 1;
        const names = {
          page: `pages/${pages[0]!.name}`,
          branch: `pages/${root.branches[0]!.name}`,
          pack: `packs/${pages[0]!.packs.at(-2)}`,
        };
        const hint = { base: "snap1", changed: [{ offset: changedPage * pageBytes, length: 1 }] };
        content[changedPage * pageBytes]! ^= 1;
        const volume = SparseVolume.of(content);
        const plan = await planHinted(job(2), volume, hint);
        assert.ok(plan.hinted);
        store.damage(`domains/vol/${names[part as keyof typeof names]}`, () => undefined);
        await assert.rejects(finishBackup(job(2), plan, volume), VerificationFailed);
        const again = await planHinted(job(2), volume, hint);
        assert.equal(again.hinted, false);
        await finishBackup(job(2), again, volume);
        await assertRestores(job(2), content);
      });
    }
  }
});

test("a hinted plan whose base is not of the domain any more publishes nothing, and the next attempt reads everything", async () => {
  for (const verified of [true, false]) {
    const { store, job } = await newDomain();
    const content = randomBytes(pageBytes * 2);
    await backup(job(1), SparseVolume.of(content));
    content[0]! ^= 1;
    const volume = SparseVolume.of(content);
    const hint = { base: "snap1", changed: [{ offset: 0, length: 1 }] };
    const plan = await planHinted(job(2), volume, hint);
    await copyAll(job(2), plan, volume);
    if (verified) await verifyBackup(job(2), { planHash: plan.planHash, until: never });
    await store.deleteEveryVersion(["domains/vol/domain.json"]);
    await useGeometry(store, "vol", { ...smallGeometry, chunkBytes: chunkBytes * 2 });
    const step = verified ? publishRoot(job(2), plan) : verifyBackup(job(2), { planHash: plan.planHash, until: never });
    await assert.rejects(step, VerificationFailed);
    assert.equal(await store.head("domains/vol/roots/snap2"), undefined);
    const again = await planHinted(job(2), volume, hint);
    assert.equal(again.hinted, false);
    await finishBackup(job(2), again, volume);
    await assertRestores(job(2), content);
  }
});

test("a result that a worker of the dropped plan leaves behind is not taken for one of the next plan", async () => {
  const { store, job } = await newDomain();
  const content = randomBytes(pageBytes * 2);
  await backup(job(1), SparseVolume.of(content));
  content[0]! ^= 1;
  const volume = SparseVolume.of(content);
  const hint = { base: "snap1", changed: [{ offset: 0, length: 1 }] };
  const plan = await planHinted(job(2), volume, hint);
  await copyAll(job(2), plan, volume);
  const late = (await store.get("domains/vol/jobs/job2/results/0-1"))!;
  await ruleOutHint(job(2), "A page of the base is missing.");
  await store.put("domains/vol/jobs/job2/results/0-1", late);
  const again = await planHinted(job(2), volume, hint);
  await copyAll(job(2), again, volume, 2);
  assert.deepEqual(await verifyBackup(job(2), { planHash: again.planHash, until: never }), { finished: true });
  await publishRoot(job(2), again);
  await assertRestores(job(2), content);
});
