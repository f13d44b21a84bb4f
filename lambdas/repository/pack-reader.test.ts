import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, it } from "node:test";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { backup, SparseVolume, smallGeometry, useGeometry } from "../../test/support/repository.ts";
import { PackReader, planRanges, wantedChunks } from "./pack-reader.ts";
import { readPage } from "./page.ts";
import { readRoot } from "./reader.ts";
import { pagesOf } from "./tree.ts";

describe("a range of a pack", () => {
  it("does not change under a write that was given up but is still on its way", async () => {
    const store = new MemoryObjectStore();
    await useGeometry(store, "vol", smallGeometry);
    const source = { store, domain: "vol", snapshotId: "snap1", jobId: "job1" };
    const content = randomBytes(smallGeometry.chunkBytes * smallGeometry.pageChunks);
    await backup(source, SparseVolume.of(content));
    const root = await readRoot(source);
    const [reference] = await Array.fromAsync(pagesOf(source, root));
    const ranges = planRanges(wantedChunks(await readPage(store, "vol", reference?.name ?? ""), root));
    assert.ok(ranges.length > 1);

    const reader = new PackReader(source, undefined);
    const taken: { bytes: Uint8Array; volumeOffset: number }[] = [];
    const giveUp = reader.read(ranges[0]!, async (span) => {
      taken.push(span);
      throw new Error("The write was given up.");
    });
    await assert.rejects(giveUp, /given up/);
    for (const range of ranges.slice(1)) await reader.read(range, async () => {});
    for (const { bytes, volumeOffset } of taken)
      assert.ok(content.subarray(volumeOffset, volumeOffset + bytes.length).equals(bytes));
  });
});
