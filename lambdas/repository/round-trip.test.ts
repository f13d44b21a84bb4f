import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { backup, restore, SparseVolume, smallGeometry, useGeometry } from "../../test/support/repository.ts";

const { chunkBytes, pageChunks } = smallGeometry;
const pageBytes = chunkBytes * pageChunks;
const sizes = [
  0,
  1,
  chunkBytes - 1,
  chunkBytes,
  chunkBytes + 1,
  pageBytes - 1,
  pageBytes,
  pageBytes + 1,
  5 * pageBytes + 77,
];

for (const size of sizes) {
  test(`a volume of ${size} bytes comes back byte for byte`, async () => {
    const store = new MemoryObjectStore();
    await useGeometry(store, "vol", smallGeometry);
    const content = randomBytes(size);
    const target = { store, domain: "vol", snapshotId: "snap1", jobId: "job1" };
    const published = await backup(target, SparseVolume.of(content));
    const restored = await restore({ ...target, jobId: "job2" });
    assert.deepEqual(await restored.content(), content);
    assert.equal(published.logicalBytes, size);
    assert.equal(published.chunks, Math.ceil(size / chunkBytes));
  });
}
