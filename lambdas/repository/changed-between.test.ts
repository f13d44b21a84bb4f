import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, it } from "node:test";
import fc from "fast-check";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { backup, SparseVolume, smallGeometry, useGeometry } from "../../test/support/repository.ts";
import { RepositoryDamaged } from "../domain/errors.ts";
import { changedBetween } from "./changed-between.ts";
import { domainKeys } from "./layout.ts";
import { readRoot } from "./reader.ts";
import { pagesOf } from "./tree.ts";

const { chunkBytes, pageChunks } = smallGeometry;
const pageBytes = chunkBytes * pageChunks;

async function twoSnapshots(earlier: Uint8Array, later: Uint8Array) {
  const store = new MemoryObjectStore();
  await useGeometry(store, "vol", smallGeometry);
  const job = (n: number) => ({ store, domain: "vol", snapshotId: `snap${n}`, jobId: `job${n}` });
  await backup(job(1), SparseVolume.of(earlier));
  await backup(job(2), SparseVolume.of(later), ["snap1"]);
  return { store, earlier: job(1), later: job(2) };
}

/** The offsets of the chunks that differ; what lies behind the end of the shorter one is zeros, and a chunk that is cut off is another. */
function differing(a: Uint8Array, b: Uint8Array): number[] {
  const isZero = (chunk: Uint8Array) => chunk.every((byte) => byte === 0);
  const offsets: number[] = [];
  for (let at = 0; at < Math.max(a.length, b.length); at += chunkBytes) {
    const [one, other] = [a.subarray(at, at + chunkBytes), b.subarray(at, at + chunkBytes)];
    if (!(isZero(one) && isZero(other)) && !Buffer.from(one).equals(other)) offsets.push(at);
  }
  return offsets;
}

describe("what differs between two snapshots", () => {
  it("is exactly the chunks that do, whatever was written, discarded, grown or shrunk", async () => {
    const change = fc.record({
      at: fc.nat(pageBytes * 5),
      length: fc.integer({ min: 1, max: pageBytes }),
      zeros: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(change, { maxLength: 5 }), fc.nat(pageBytes * 5), async (changes, size) => {
        const before = randomBytes(pageBytes * 4 + 100);
        before.fill(0, pageBytes, pageBytes * 2);
        const after = Buffer.alloc(size);
        before.copy(after);
        for (const { at, length, zeros } of changes) {
          const end = Math.min(at + length, size);
          if (at < end) after.set(zeros ? Buffer.alloc(end - at) : randomBytes(end - at), at);
        }
        const { earlier, later } = await twoSnapshots(before, after);
        const changed = await changedBetween(earlier, later);
        assert.ok(changed);
        const chunks = (await Array.fromAsync(changed)).flatMap(({ offset, length }) =>
          Array.from({ length: length / chunkBytes }, (_, at) => offset + at * chunkBytes),
        );
        assert.deepEqual(chunks, differing(before, after));
      }),
      { numRuns: 60 },
    );
  });

  it("is read from what differs alone", async () => {
    const before = randomBytes(pageBytes * 4);
    const after = Buffer.from(before);
    after[pageBytes * 2] = before[pageBytes * 2]! ^ 1;
    const { store, earlier, later } = await twoSnapshots(before, after);
    const same = (await Array.fromAsync(pagesOf(earlier, await readRoot(earlier)))).filter(({ index }) => index !== 2);
    await store.deleteEveryVersion(same.map(({ name }) => domainKeys("vol").page(name)));
    const changed = await Array.fromAsync((await changedBetween(earlier, later)) ?? []);
    assert.deepEqual(changed, [{ offset: pageBytes * 2, length: chunkBytes }]);
  });

  it("cannot be told when a page is missing, or one of the two", async () => {
    const { store, earlier, later } = await twoSnapshots(randomBytes(pageBytes), randomBytes(pageBytes));
    const [page] = await Array.fromAsync(pagesOf(later, await readRoot(later)));
    await store.deleteEveryVersion([domainKeys("vol").page(page!.name)]);
    await assert.rejects(async () => Array.fromAsync((await changedBetween(earlier, later)) ?? []), RepositoryDamaged);
    await store.deleteEveryVersion([domainKeys("vol").root("snap1")]);
    await assert.rejects(changedBetween(earlier, later), RepositoryDamaged);
  });

  it("cannot be told of snapshots with chunks of other sizes", async () => {
    const { store, earlier } = await twoSnapshots(randomBytes(pageBytes), randomBytes(pageBytes));
    await useGeometry(store, "other", { ...smallGeometry, chunkBytes: 1024 });
    const other = { store, domain: "other", snapshotId: "snap3", jobId: "job3" };
    await backup(other, SparseVolume.of(randomBytes(pageBytes)));
    assert.equal(await changedBetween(earlier, other), undefined);
  });
});
