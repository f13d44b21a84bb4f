import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { backup, never, SparseVolume, smallGeometry, useGeometry } from "../../test/support/repository.ts";
import { branchPages } from "./branch.ts";
import { readRoot } from "./reader.ts";
import { sampleCheck } from "./sample-check.ts";

const pageBytes = smallGeometry.chunkBytes * smallGeometry.pageChunks;
const branchBytes = pageBytes * branchPages;

test("a damaged branch is told with its bytes, and the check goes on to what lies before and behind it", async () => {
  const store = new MemoryObjectStore();
  const target = { store, domain: "vol", snapshotId: "snap1", jobId: "job1" };
  await useGeometry(store, "vol", smallGeometry);
  const volume = new SparseVolume(3 * branchBytes);
  const places = [0, branchBytes, branchBytes + pageBytes, 2 * branchBytes];
  for (const place of places) await volume.write(randomBytes(smallGeometry.chunkBytes), place);
  await backup(target, volume);
  const { branches } = await readRoot(target);
  const branch = `domains/vol/pages/${branches[1]!.name}`;
  const [pack = ""] = store.keys("domains/vol/packs/");
  const lastPack = store.keys("domains/vol/packs/").at(-1)!;
  for (const key of [branch, pack, lastPack]) store.damage(key, () => undefined);
  const chunk = { length: smallGeometry.chunkBytes };
  const lost = [
    { ...chunk, offset: 0, object: pack },
    { offset: branchBytes, length: branchBytes, object: branch },
    { ...chunk, offset: 2 * branchBytes, object: lastPack },
  ];
  const options = { percent: 100, seed: "seed" };
  const whole = await sampleCheck(target, { ...options, until: never });
  assert.deepEqual([whole.finished, whole.lost], [true, lost]);
  assert.ok(
    [pack, branch, lastPack, `${branchBytes}-`].every((part) => whole.damage?.includes(part)),
    whole.damage,
  );
  const found: unknown[] = [];
  for (let from: number | undefined = 0; from !== undefined; ) {
    let asked = 0;
    const part: Awaited<ReturnType<typeof sampleCheck>> = await sampleCheck(target, {
      ...options,
      from,
      until: () => ++asked > 1,
    });
    found.push(...part.lost);
    from = part.next;
  }
  assert.deepEqual(found, lost, "page by page");
});
