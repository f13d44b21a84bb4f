import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { smallGeometry, useGeometry } from "../../test/support/repository.ts";
import { VerificationFailed } from "../domain/errors.ts";
import { geometryFor } from "./domain-record.ts";
import { pinBase } from "./pin.ts";
import { type Extent, openPlan, readPlannedPages, writePlan } from "./planner.ts";

const gibibyte = 1024 ** 3;
const tebibyte = 1024 ** 4;
/** Chunks of 256 KiB. */
const defaultGeometry = geometryFor(5 * tebibyte);
const pageBytes = defaultGeometry.chunkBytes * defaultGeometry.pageChunks;

async function* from(extents: Iterable<Extent>): AsyncGenerator<Extent> {
  yield* extents;
}

function* every(step: number, end: number, length: number): Generator<Extent> {
  for (let offset = 0; offset + length <= end; offset += step) yield { offset, length };
}

async function newTarget(geometry = defaultGeometry) {
  const target = { store: new MemoryObjectStore(), domain: "vol", snapshotId: "snap", jobId: "job" };
  await useGeometry(target.store, "vol", geometry);
  await pinBase(target, [], { sizeBytes: 1 });
  return target;
}

describe("a plan", () => {
  test("of 1 TiB with one allocated byte is one shard of one page", async () => {
    const target = await newTarget();
    const plan = await writePlan(target, {
      sizeBytes: tebibyte,
      extents: from([{ offset: tebibyte / 2 + 5, length: 1 }]),
    });
    assert.equal(plan.shardCount, 1);
    assert.equal(plan.bytesTotal, defaultGeometry.chunkBytes);
    const [page, ...others] = await readPlannedPages(target, await openPlan(target, plan.planHash), 0);
    assert.equal(page?.index, tebibyte / 2 / pageBytes);
    assert.deepEqual(page.toRead.indexes(), [0]);
    assert.deepEqual(others, []);
  });

  test("has a shard for each page of 256 MiB where all is allocated", async () => {
    const target = await newTarget();
    const plan = await writePlan(target, {
      sizeBytes: 10 * gibibyte + 1,
      extents: from([{ offset: 0, length: 10 * gibibyte + 1 }]),
    });
    assert.equal(plan.shardCount, 41);
    assert.equal(plan.bytesTotal, 10 * gibibyte + 1);
  });

  test("gathers pages with little in them into one shard", async () => {
    const target = await newTarget();
    const plan = await writePlan(target, { sizeBytes: tebibyte, extents: from(every(pageBytes, tebibyte, 4096)) });
    assert.equal(plan.shardCount, 4);
    assert.equal(plan.bytesTotal, gibibyte);
  });

  test("of 64 TiB has no more than 10,000 shards", async () => {
    const target = await newTarget({ ...defaultGeometry, chunkBytes: 16 * 1024 * 1024, pageChunks: 16 });
    const plan = await writePlan(target, {
      sizeBytes: 64 * tebibyte,
      extents: from([{ offset: 0, length: 64 * tebibyte }]),
    });
    assert.ok(plan.shardCount <= 10_000 && plan.shardCount > 9_000, String(plan.shardCount));
    assert.equal(plan.bytesTotal, 64 * tebibyte);
  });

  test("of nothing allocated has no shards", async () => {
    const target = await newTarget();
    const plan = await writePlan(target, { sizeBytes: tebibyte, extents: from([]) });
    assert.deepEqual([plan.shardCount, plan.bytesTotal], [0, 0]);
  });

  test("is written once: a replay with other extents finds the first", async () => {
    const target = await newTarget(smallGeometry);
    const first = await writePlan(target, { sizeBytes: 100_000, extents: from([{ offset: 0, length: 10_000 }]) });
    const replay = await writePlan(target, { sizeBytes: 100_000, extents: from([{ offset: 50_000, length: 10 }]) });
    assert.deepEqual(replay, first);
  });

  test("of two workers at once is that of one of them", async () => {
    const target = await newTarget(smallGeometry);
    const extents = [
      { offset: 0, length: 10_000 },
      { offset: 50_000, length: 10 },
    ];
    const plans = await Promise.all(
      extents.map((extent) => writePlan(target, { sizeBytes: 100_000, extents: from([extent]) })),
    );
    assert.deepEqual(plans[0], plans[1]);
    assert.equal((await openPlan(target)).hash, plans[0]?.planHash);
  });

  test("refuses extents that are out of order or outside of the volume", async () => {
    const wrong = [
      [{ offset: 0, length: 1001 }],
      [
        { offset: 10, length: 10 },
        { offset: 5, length: 1 },
      ],
      [
        { offset: 10, length: 10 },
        { offset: 19, length: 1 },
      ],
      [{ offset: -1, length: 1 }],
    ];
    for (const extents of wrong) {
      const target = await newTarget(smallGeometry);
      await assert.rejects(writePlan(target, { sizeBytes: 1000, extents: from(extents) }), RangeError);
    }
  });

  test("needs a pinned base, and is known by its hash", async () => {
    const target = { store: new MemoryObjectStore(), domain: "vol", snapshotId: "snap", jobId: "job" };
    await assert.rejects(writePlan(target, { sizeBytes: 1, extents: from([]) }), VerificationFailed);
    await assert.rejects(openPlan(target, "0".repeat(64)), VerificationFailed);
    await pinBase(target, [], { sizeBytes: 1 });
    await writePlan(target, { sizeBytes: 1, extents: from([]) });
    await assert.rejects(openPlan(target, "0".repeat(64)), VerificationFailed);
  });
});
