/** Volumes at the edges of what there is: full and incremental backup, full verification, restore. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { describe, test } from "node:test";
import { MemoryKeyService } from "../../test/support/memory-key-service.ts";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import {
  copyAll,
  never,
  planBackup,
  planHinted,
  restore,
  SparseVolume,
  smallGeometry,
} from "../../test/support/repository.ts";
import { auditHint } from "./audit.ts";
import { branchPages } from "./branch.ts";
import { ensureDomain, type Geometry, geometryFor } from "./domain-record.ts";
import { type BackupTarget, unpinJob } from "./pin.ts";
import type { Extent, PlanSummary } from "./planner.ts";
import { type PublishedBackup, publishRoot } from "./publish.ts";
import { readRoot } from "./reader.ts";
import { sampleCheck } from "./sample-check.ts";
import { verifyBackup } from "./verify.ts";

const MiB = 1024 * 1024;
const TiB = MiB * MiB;

async function newDomain(geometry: Geometry, keys?: MemoryKeyService) {
  const store = new MemoryObjectStore();
  const location = { store, domain: "vol", ...(keys && { keys }) };
  await ensureDomain(location, { geometry });
  const job = (n: number): BackupTarget => ({ ...location, snapshotId: `snap${n}`, jobId: `job${n}` });
  return { store, job };
}

/** All that follows the plan, with every chunk read back before the root is published. */
async function finish(target: BackupTarget, plan: PlanSummary, volume: SparseVolume): Promise<PublishedBackup> {
  const { planHash } = plan;
  await copyAll(target, plan, volume);
  if (plan.hinted)
    await auditHint(target, { planHash, reader: volume, extents: volume.allocated(), percent: 100, until: never });
  assert.deepEqual(await verifyBackup(target, { planHash, until: never, full: true }), { finished: true });
  const published = await publishRoot(target, plan);
  await unpinJob(target);
  return published;
}

function noise(seed: string, length: number): Buffer {
  return createHash("shake256", { outputLength: length }).update(seed).digest();
}

const contents: Record<string, (length: number) => Buffer> = {
  "of zeros": (length) => Buffer.alloc(length),
  "of noise": (length) => noise("noise", length),
  "of text": (length) => Buffer.alloc(length, "the same line again and again\n"),
};

function sizesAround({ chunkBytes, pageChunks }: Geometry): number[] {
  const pageBytes = chunkBytes * pageChunks;
  return [0, 1, 511, 513, chunkBytes - 1, chunkBytes, chunkBytes + 1, pageBytes - 1, pageBytes + 1, 2 * pageBytes + 77];
}

const cases = [
  { name: "small chunks", geometry: smallGeometry, sizes: sizesAround(smallGeometry) },
  {
    name: "the usual chunks",
    geometry: geometryFor(1),
    sizes: [0, 1, 128 * 1024 - 1, 128 * 1024, 128 * 1024 + 1, 3 * MiB + 77],
  },
];
for (const { name, geometry, sizes } of cases) {
  describe(`a volume in ${name}`, () => {
    for (const sizeBytes of sizes) {
      for (const [what, contentOf] of Object.entries(contents)) {
        test(`of ${sizeBytes} bytes ${what} comes back, and so do its next states`, async () => {
          const { job } = await newDomain(geometry);
          const first = contentOf(sizeBytes);
          const changed = Buffer.from(first);
          changed.set(noise("change", Math.min(sizeBytes, 100)), Math.max(0, sizeBytes - 100));
          const emptied = Buffer.alloc(sizeBytes);
          const states = [first, changed, emptied, first];
          for (const [n, state] of states.entries()) {
            const volume = SparseVolume.of(state);
            const plan = await planBackup(job(n), volume, n === 0 ? [] : [`snap${n - 1}`]);
            const { logicalBytes } = await finish(job(n), plan, volume);
            assert.equal(logicalBytes, sizeBytes);
          }
          for (const [n, state] of states.entries())
            assert.deepEqual(await (await restore({ ...job(n), jobId: "restore" })).content(), state);
        });
      }
    }
  });
}

/** The most that `work` has in buffers at any look, above what there was before; looked at every 10 ms. */
async function peakBufferBytes(work: () => Promise<void>): Promise<number> {
  const before = process.memoryUsage().arrayBuffers;
  let peak = 0;
  const timer = setInterval(() => {
    peak = Math.max(peak, process.memoryUsage().arrayBuffers - before);
  }, 10);
  await work().finally(() => clearInterval(timer));
  return peak;
}

/** Extents of a volume that is far too large to be held. */
async function assertHolds(
  volume: SparseVolume,
  expected: readonly { offset: number; bytes: Uint8Array }[],
): Promise<void> {
  for (const { offset, bytes } of expected) {
    const restored = Buffer.alloc(bytes.length);
    await volume.read(restored, offset);
    assert.deepEqual(restored, Buffer.from(bytes));
  }
  const written = volume.extents.reduce((sum, { bytes }) => sum + bytes.length, 0);
  const most = expected.reduce((sum, { bytes }) => sum + Math.ceil(bytes.length / MiB + 2) * MiB, 0);
  assert.ok(written <= most, `${written} bytes were written`);
}

describe("a volume of 1 TiB with data at both ends", () => {
  for (const isEncrypted of [false, true]) {
    test(`${isEncrypted ? "that is encrypted " : ""}comes back from every kind of backup, in little memory`, async () => {
      const { store, job } = await newDomain(geometryFor(TiB), isEncrypted ? new MemoryKeyService() : undefined);
      const volumeOf = (...extents: { offset: number; bytes: Buffer }[]) => {
        const volume = new SparseVolume(TiB + 513);
        volume.extents.push(...extents);
        return volume;
      };
      const start = { offset: 0, bytes: noise("start", 3 * MiB) };
      const end = { offset: TiB + 513 - (2 * MiB + 1), bytes: noise("end", 2 * MiB + 1) };
      const middle = { offset: TiB / 2 + 12_345, bytes: noise("middle", 70_000) };
      const changed: Extent[] = [{ offset: middle.offset, length: middle.bytes.length }];
      const volume = volumeOf(start, end);
      const later = volumeOf(start, middle, end);
      const peak = await peakBufferBytes(async () => {
        await finish(job(1), await planBackup(job(1), volume), volume);
        await finish(job(2), await planBackup(job(2), later, ["snap1"]), later);
        const hinted = await planHinted(job(3), later, { base: "snap1", changed });
        assert.ok(hinted.hinted);
        await finish(job(3), hinted, later);
        for (const n of [1, 2, 3]) {
          const { finished, lost } = await sampleCheck(job(n), { percent: 100, seed: "seed", until: never });
          assert.deepEqual([finished, lost], [true, []]);
        }
      });
      assert.ok(peak < 256 * MiB, `${peak / MiB} MiB in buffers`);
      assert.deepEqual(
        (await readRoot(job(2))).branches.map(({ index }) => index),
        [0, 2, 3, 4],
      );
      assert.equal(store.keys("domains/vol/packs/job2/").length, 1);
      for (const [n, extents] of [
        [1, [start, end]],
        [2, [start, middle, end]],
        [3, [start, middle, end]],
      ] as const)
        await assertHolds(await restore({ ...job(n), jobId: "restore" }), extents);
    });
  }
});

describe("a volume of several branches", () => {
  const { chunkBytes, pageChunks } = smallGeometry;
  const pageBytes = chunkBytes * pageChunks;
  const pages = 2 * branchPages + 3;
  /** Pages with data: some of each branch, and all around the places where two branches meet. */
  const filled = Array.from({ length: pages }, (_, page) => page).filter(
    (page) => page % 32 === 5 || (page + 3) % branchPages < 6,
  );

  test("shares the branches in which nothing has changed", async () => {
    const { store, job } = await newDomain(smallGeometry);
    const volumeWith = (changedPage?: number) => {
      const volume = new SparseVolume(pages * pageBytes);
      for (const page of filled)
        volume.extents.push({
          offset: page * pageBytes + chunkBytes,
          bytes: Buffer.from(page === changedPage ? "changed" : `page ${page}`),
        });
      return volume;
    };
    const first = volumeWith();
    await finish(job(1), await planBackup(job(1), first), first);
    const second = volumeWith(branchPages + 5);
    await finish(job(2), await planBackup(job(2), second, ["snap1"]), second);
    const hint = { base: "snap2", changed: [{ offset: (branchPages + 5) * pageBytes, length: pageBytes }] };
    await finish(job(3), await planHinted(job(3), first, hint), first);
    const branchesOf = async (n: number) => (await readRoot(job(n))).branches.map(({ name }) => name);
    const [one, two, three] = [await branchesOf(1), await branchesOf(2), await branchesOf(3)];
    assert.equal(one.length, 3);
    assert.deepEqual([two[0], two[2]], [one[0], one[2]]);
    assert.deepEqual([three[0], three[2]], [one[0], one[2]]);
    assert.equal(store.keys("domains/vol/pages/job2/").length, 2);
    for (const [n, volume] of [
      [1, first],
      [2, second],
      [3, first],
    ] as const) {
      const restored = await restore({ ...job(n), jobId: "restore" });
      assert.ok((await restored.content()).equals(await volume.content()));
    }
  });
});
