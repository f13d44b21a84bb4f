import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { backup, SparseVolume, smallGeometry, useGeometry } from "../../test/support/repository.ts";
import { ChunkCheck } from "./chunk-check.ts";
import { readRoot } from "./reader.ts";
import { pagesOf } from "./tree.ts";

test("what is lost is told in a range for each object, however many chunks it was", async () => {
  const store = new MemoryObjectStore();
  const target = { store, domain: "vol", snapshotId: "snap1", jobId: "job1" };
  const { chunkBytes, pageChunks } = smallGeometry;
  await useGeometry(store, "vol", { ...smallGeometry, packBytes: 1024 * 1024 });
  await backup(target, SparseVolume.of(randomBytes(chunkBytes * pageChunks * 3)));
  const [pack] = store.keys("domains/vol/packs/");
  store.damage(pack!, () => undefined);
  const root = await readRoot(target);
  const check = new ChunkCheck(target, root, undefined);
  for await (const page of pagesOf(target, root)) await check.page(page);
  assert.deepEqual(check.lost, [{ object: pack, offset: 0, length: chunkBytes * pageChunks * 3 }]);
  assert.equal(check.checkedChunks, pageChunks * 3);
});
