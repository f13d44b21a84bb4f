import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { before, describe, it } from "node:test";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { backup, SparseVolume, smallGeometry, useGeometry } from "../../test/support/repository.ts";
import { RepositoryDamaged } from "../domain/errors.ts";
import { branchPages } from "./branch.ts";
import { joinRanges, type LostRange } from "./damage.ts";
import { domainKeys } from "./layout.ts";
import { readRoot } from "./reader.ts";
import { bytesToRead, readOut } from "./salvage.ts";

const domain = "vol";
const keys = domainKeys(domain);
const pageBytes = smallGeometry.chunkBytes * smallGeometry.pageChunks;
const branchBytes = pageBytes * branchPages;

describe("a snapshot that is read out of a bucket", () => {
  let store: MemoryObjectStore;
  let content: Buffer;
  const source = () => ({ store, domain, snapshotId: "snap" });

  /** Data in both of the volume's branches, zeros between, a chunk of the one again in the other, and an end that is no whole chunk. */
  before(async () => {
    const size = branchBytes + 20 * pageBytes + 77;
    const volume = new SparseVolume(size);
    const start = randomBytes(30_000);
    await volume.write(start, 0);
    await volume.write(randomBytes(9_000), branchBytes - 5_000);
    await volume.write(start.subarray(0, smallGeometry.chunkBytes), branchBytes + 10 * pageBytes);
    await volume.write(randomBytes(1_000), size - 1_000);
    content = await volume.content();
    store = new MemoryObjectStore();
    await useGeometry(store, domain, smallGeometry);
    await backup({ ...source(), jobId: "job" }, volume);
  });

  async function keysBelow(prefix: string): Promise<string[]> {
    return (await Array.fromAsync(store.list(prefix))).map(({ key }) => key);
  }

  async function read(from = store, { salvage = false, stopAfter = Number.POSITIVE_INFINITY } = {}) {
    const root = await readRoot({ ...source(), store: from });
    const volume = new SparseVolume(root.sizeBytes);
    const progress: number[] = [];
    const lost = await readOut({ store: from, domain }, root, {
      writer: volume,
      salvage,
      stopped: () => progress.length >= stopAfter,
      onProgress: (bytes) => void progress.push(bytes),
    });
    return { volume, lost, progress, total: bytesToRead(root) };
  }

  /** The store without these objects, or with other bytes in them. */
  async function damagedBy(changes: Readonly<Record<string, Uint8Array | undefined>>): Promise<MemoryObjectStore> {
    const damaged = new MemoryObjectStore();
    for (const key of await keysBelow("")) {
      const bytes = key in changes ? changes[key] : await store.get(key);
      if (bytes) await damaged.put(key, bytes);
    }
    return damaged;
  }

  /** All that was not lost is there, what was lost is zeros, and each range is of the object that is damaged. */
  async function isAllBut(lost: readonly LostRange[], volume: SparseVolume, object: string): Promise<void> {
    assert.ok(lost.length > 0);
    const expected = Buffer.from(content);
    for (const range of lost) {
      assert.equal(range.object, object);
      assert.ok(range.offset + range.length <= content.length);
      expected.fill(0, range.offset, range.offset + range.length);
    }
    assert.ok((await volume.content()).equals(expected));
    assert.ok(!expected.equals(content), "something is lost in truth");
  }

  it("has every byte, writes nothing to the store, and tells how far it is", async () => {
    const writes: string[] = [];
    const watched = new MemoryObjectStore({
      before: (operation) => {
        if (operation === "put" || operation === "delete") writes.push(operation);
      },
    });
    for (const key of await keysBelow("")) await watched.put(key, (await store.get(key)) ?? new Uint8Array());
    writes.length = 0;
    const { volume, lost, progress, total } = await read(watched);
    assert.deepEqual([writes, lost], [[], []]);
    assert.ok((await volume.content()).equals(content));
    assert.equal(progress.at(-1), total);
    assert.deepEqual(
      progress,
      progress.toSorted((a, b) => a - b),
    );
    const written = volume.extents.reduce((sum, { bytes }) => sum + bytes.length, 0);
    assert.ok(written < 50_000, `${written} bytes of ${content.length} were written`);
  });

  it("without a pack or with a damaged one: salvage keeps all the rest, and names it with each range", async () => {
    const packs = await keysBelow(keys.packs);
    for (const key of [packs[0]!, packs.at(-1)!]) {
      const flipped = Buffer.from((await store.get(key)) ?? new Uint8Array());
      flipped[3]! ^= 1;
      for (const bytes of [undefined, flipped, Buffer.alloc(0), flipped.subarray(0, 100)]) {
        const damaged = await damagedBy({ [key]: bytes });
        const { volume, lost } = await read(damaged, { salvage: true });
        await isAllBut(lost, volume, key);
        await assert.rejects(read(damaged), (error) => {
          assert.ok(error instanceof RepositoryDamaged);
          const ranges = joinRanges(lost).map(({ offset, length }) => `${offset}-${offset + length - 1}`);
          assert.ok(error.message.includes(`${key}. Bytes ${ranges.join(", ")} of the volume`), error.message);
          return true;
        });
      }
    }
  });

  it("without pages and branches: each costs just its own part of the volume", async () => {
    for (const key of await keysBelow(keys.pages)) {
      for (const bytes of [undefined, Buffer.from("nonsense")]) {
        const { volume, lost } = await read(await damagedBy({ [key]: bytes }), { salvage: true });
        await isAllBut(lost, volume, key);
        assert.equal(lost.length, 1);
        assert.ok(
          [pageBytes, branchBytes].includes(lost[0]!.length) || lost[0]!.offset + lost[0]!.length === content.length,
        );
      }
    }
  });

  it("without anything but the root is zeros, all of it lost, in few words", async () => {
    const gone = Object.fromEntries(
      [...(await keysBelow(keys.packs)), ...(await keysBelow(keys.pages))].map((key) => [key, undefined]),
    );
    const { volume, lost, progress, total } = await read(await damagedBy(gone), { salvage: true });
    assert.deepEqual(joinRanges(lost), [{ offset: 0, length: content.length }]);
    assert.equal(volume.extents.length, 0);
    assert.equal(progress.at(-1), total);
  });

  it("ends between two pages when it is told to", async () => {
    const { progress, total } = await read(store, { stopAfter: 2 });
    assert.ok(progress.length >= 2 && progress.at(-1)! < total, `${progress} of ${total}`);
  });
});
