import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, test } from "node:test";
import fc from "fast-check";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
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
import { attemptOfKey } from "./layout.ts";
import { type BackupTarget, pinBase } from "./pin.ts";
import { publishRoot } from "./publish.ts";
import type { VolumeReader } from "./shard-batches.ts";
import { decodeCheckpoint, encodeCheckpoint } from "./shard-state.ts";
import { verifyBackup } from "./verify.ts";
import { copyShard } from "./writer.ts";

const gibibyte = 1024 ** 3;
const { chunkBytes, pageChunks } = smallGeometry;
const pageBytes = chunkBytes * pageChunks;
const anySize = { sizeBytes: pageBytes };

async function smallTarget(
  store = new MemoryObjectStore(),
  geometry = smallGeometry,
): Promise<BackupTarget & { store: MemoryObjectStore }> {
  await useGeometry(store, "vol", geometry);
  return { store, domain: "vol", snapshotId: "snap1", jobId: "job1" };
}

const next = <T extends BackupTarget>(target: T, n: number): T => ({
  ...target,
  snapshotId: `snap${n}`,
  jobId: `job${n}`,
});

async function assertRestores(target: BackupTarget, content: Uint8Array): Promise<void> {
  const restored = await restore({ ...target, jobId: `restore-${target.jobId}` });
  assert.deepEqual(await restored.content(), Buffer.from(content));
}

async function finish(target: BackupTarget, plan: { planHash: string }) {
  await verifyBackup(target, { planHash: plan.planHash, until: never });
  return publishRoot(target, plan);
}

describe("zeros and holes", () => {
  test("a volume of zeros leaves nothing but its root", async () => {
    const target = await smallTarget();
    const published = await backup(target, SparseVolume.of(new Uint8Array(pageBytes * 3 + 5)));
    assert.equal(published.chunks, 0);
    assert.deepEqual(target.store.keys(), ["domains/vol/domain.json", "domains/vol/roots/snap1"]);
    await assertRestores(target, new Uint8Array(pageBytes * 3 + 5));
  });

  test("a sparse volume of 1 TiB costs what its data costs", async () => {
    const target = { store: new MemoryObjectStore(), domain: "vol", snapshotId: "snap1", jobId: "job1" };
    const volume = new SparseVolume(1024 * gibibyte + 3);
    const pieces = [0, 100 * gibibyte - 70_000, 700 * gibibyte + 1, 1024 * gibibyte - 1_000];
    for (const offset of pieces) volume.extents.push({ offset, bytes: randomBytes(1_003) });
    const started = performance.now();
    const published = await backup(target, volume);
    const restored = await restore({ ...target, jobId: "job2" });
    assert.ok(performance.now() - started < 2_000);
    assert.ok(volume.bytesRead <= 5 * 256 * 1024);
    assert.ok(published.storedBytes < 2_000_000);
    assert.equal(restored.sizeBytes, volume.sizeBytes);
    assert.equal(restored.extents.length, published.chunks);
    for (const { offset, bytes } of volume.extents) {
      const read = Buffer.alloc(bytes.length);
      await restored.read(read, offset);
      assert.deepEqual(read, bytes);
    }
  });

  test("a page whose data is gone is gone from the next snapshot", async () => {
    const target = await smallTarget();
    const content = randomBytes(pageBytes * 2);
    await backup(target, SparseVolume.of(content));
    const emptied = new SparseVolume(content.length);
    emptied.extents.push({ offset: 0, bytes: content.subarray(0, pageBytes) });
    await backup(next(target, 2), emptied, ["snap1"]);
    await assertRestores(next(target, 2), Buffer.concat([content.subarray(0, pageBytes), Buffer.alloc(pageBytes)]));
  });
});

describe("an incremental backup", () => {
  test("of an unchanged volume writes nothing but its root", async () => {
    const target = await smallTarget();
    const content = randomBytes(pageBytes * 3);
    await backup(target, SparseVolume.of(content));
    const before = target.store.keys();
    const published = await backup(next(target, 2), SparseVolume.of(content), ["snap1"]);
    assert.deepEqual(
      target.store.keys().filter((key) => !before.includes(key)),
      ["domains/vol/roots/snap2"],
    );
    const root = await target.store.head("domains/vol/roots/snap2");
    assert.equal(published.storedBytes, root?.size);
    await assertRestores(next(target, 2), content);
  });

  test("stores the changed chunks, and chunks that moved not again", async () => {
    const target = await smallTarget();
    const content = randomBytes(pageBytes);
    const first = await backup(target, SparseVolume.of(content));
    const changed = Buffer.from(content);
    content.copy(changed, 0, 3 * chunkBytes, 4 * chunkBytes);
    changed.fill(randomBytes(1), 5 * chunkBytes, 5 * chunkBytes + 1);
    const second = await backup(next(target, 2), SparseVolume.of(changed), ["snap1"]);
    assert.ok(second.storedBytes < first.storedBytes / 2);
    await assertRestores(target, content);
    await assertRestores(next(target, 2), changed);
  });

  test("takes the newest candidate that is there and can be read", async () => {
    const target = await smallTarget();
    await backup(target, SparseVolume.of(randomBytes(100)));
    await backup(next(target, 2), SparseVolume.of(randomBytes(100)));
    target.store.damage("domains/vol/roots/snap2", (body) => body.subarray(1));
    assert.deepEqual(await pinBase(next(target, 4), ["snap3", "snap2", "snap1"], anySize), { baseSnapshotId: "snap1" });
    assert.deepEqual(await pinBase(next(target, 4), [], anySize), { baseSnapshotId: "snap1" });
    assert.deepEqual(await pinBase(next(target, 5), ["snap3"], anySize), {});
    assert.deepEqual(await pinBase(next(target, 5), ["snap1"], anySize), {});
  });

  test("has no base when that is deleted while it is being pinned", async () => {
    let onPin = async () => {};
    const store = new MemoryObjectStore({
      before: async (operation, key) => {
        if (operation === "put" && key.endsWith("job2/pin")) await onPin();
      },
    });
    const target = await smallTarget(store);
    await backup(target, SparseVolume.of(randomBytes(100)));
    onPin = () => store.deleteEveryVersion(["domains/vol/roots/snap1"]);
    assert.deepEqual(await pinBase(next(target, 2), ["snap1"], anySize), {});
  });

  test("after the volume grew or shrank comes back exactly", async () => {
    const target = await smallTarget();
    const content = randomBytes(pageBytes * 2 + 100);
    await backup(target, SparseVolume.of(content));
    const grown = Buffer.concat([content, randomBytes(pageBytes)]);
    await backup(next(target, 2), SparseVolume.of(grown), ["snap1"]);
    const shrunk = content.subarray(0, pageBytes + 50);
    await backup(next(target, 3), SparseVolume.of(shrunk), ["snap2"]);
    await assertRestores(next(target, 2), grown);
    await assertRestores(next(target, 3), shrunk);
  });

  test("chain of any changes comes back exactly, every member of it", async () => {
    const change = fc.record({ at: fc.nat(pageBytes * 3), length: fc.nat(3 * chunkBytes), fill: fc.option(fc.nat(3)) });
    const step = fc.record({ size: fc.nat(pageBytes * 3 + 77), changes: fc.array(change, { maxLength: 4 }) });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 4 }), async (steps) => {
        const target = await smallTarget();
        const contents: Buffer[] = [];
        for (const [n, { size, changes }] of steps.entries()) {
          const content = Buffer.alloc(size);
          contents.at(-1)?.copy(content);
          for (const { at, length, fill } of changes) {
            if (at >= size) continue;
            const end = Math.min(at + length, size);
            content.set(fill === null ? randomBytes(end - at) : Buffer.alloc(end - at, fill), at);
          }
          const candidates = n === 0 ? [] : [`snap${n}`];
          await backup(next(target, n + 1), SparseVolume.of(content), candidates);
          contents.push(content);
        }
        for (const [n, content] of contents.entries()) await assertRestores(next(target, n + 1), content);
      }),
      { numRuns: 40 },
    );
  });

  test("heals what it finds damaged in its base: a branch, or any page", async () => {
    for (const at of [0, 1, 2]) {
      const target = await smallTarget();
      const content = randomBytes(pageBytes * 2);
      await backup(target, SparseVolume.of(content));
      const objects = target.store.keys("domains/vol/pages/");
      assert.equal(objects.length, 3);
      target.store.damage(objects[at]!, (body) => body.fill(1));
      await backup(next(target, 2), SparseVolume.of(content), ["snap1"]);
      await assertRestores(next(target, 2), content);
    }
  });
});

describe("a worker", () => {
  /** Kills the worker (fails its read) after so many reads. */
  function dyingReader(volume: SparseVolume, reads: number): VolumeReader {
    let left = reads;
    return {
      read: (into, offset) => (left-- > 0 ? volume.read(into, offset) : Promise.reject(new Error("killed"))),
    };
  }

  test("that is killed is followed by one that reads what was left, not all again", async () => {
    const target = await smallTarget();
    const content = randomBytes(pageBytes * 20);
    const volume = SparseVolume.of(content);
    const { planHash } = await planBackup(target, volume);
    const copy = { planHash, shard: 0, attempt: 1, until: never };
    await assert.rejects(copyShard(target, { ...copy, reader: dyingReader(volume, 15) }), /killed/);
    volume.bytesRead = 0;
    const progress: number[] = [];
    const onProgress = (bytes: number) => void progress.push(bytes);
    const outcome = await copyShard(target, { ...copy, attempt: 2, reader: volume, onProgress });
    assert.deepEqual(outcome, { finished: true, bytesDone: content.length });
    assert.ok(volume.bytesRead < content.length / 2, `${volume.bytesRead} bytes were read again`);
    assert.ok(progress[0]! > content.length / 2);
    assert.deepEqual(
      progress,
      progress.toSorted((a, b) => a - b),
    );
    await finish(target, { planHash });
    await assertRestores(target, content);
  });

  test("whose time is short stops with what it has, and the next goes on", async () => {
    const target = await smallTarget();
    const content = randomBytes(pageBytes * 9 + 3);
    const volume = SparseVolume.of(content);
    const { planHash } = await planBackup(target, volume);
    let calls = 0;
    for (let finished = false; !finished; calls++) {
      let left = 2;
      const outcome = await copyShard(target, {
        planHash,
        shard: 0,
        attempt: 1,
        reader: volume,
        until: () => left-- === 0,
      });
      finished = outcome.finished;
    }
    assert.ok(calls > 3);
    assert.equal(volume.bytesRead, content.length);
    await finish(target, { planHash });
    await assertRestores(target, content);
  });

  for (const reason of ["its time is short", "the volume cannot be read"])
    test(`that goes on in the middle of a page and takes in nothing, since ${reason}, loses nothing of that page`, async () => {
      let packsPut = 0;
      const store = new MemoryObjectStore({
        before: (operation, key) => {
          if (operation === "put" && key.includes("/packs/") && ++packsPut === 6) throw new Error("The store is away.");
        },
      });
      const target = await smallTarget(store, { ...smallGeometry, pageChunks: 64 });
      const content = randomBytes(64 * chunkBytes);
      const volume = SparseVolume.of(content);
      const plan = await planBackup(target, volume);
      const options = { planHash: plan.planHash, shard: 0, reader: volume, until: never };
      await assert.rejects(copyShard(target, { ...options, attempt: 1 }), /away/);
      const [key = ""] = store.keys("domains/vol/jobs/job1/checkpoints/");
      assert.ok(
        decodeCheckpoint((await store.get(key))!, { key, cipher: undefined }).nextChunk > 0,
        "it stopped in the middle of a page",
      );
      const unreadable = { read: () => Promise.reject(new Error("The volume cannot be read.")) };
      if (reason === "its time is short") await copyShard(target, { ...options, attempt: 2, until: () => true });
      else await assert.rejects(copyShard(target, { ...options, attempt: 2, reader: unreadable }), /cannot be read/);
      assert.deepEqual(await copyShard(target, { ...options, attempt: 3 }), {
        finished: true,
        bytesDone: content.length,
      });
      await finish(target, plan);
      await assertRestores(target, content);
    });

  test("that finds a result does not read", async () => {
    const target = await smallTarget();
    const volume = SparseVolume.of(randomBytes(pageBytes + 1));
    const plan = await planBackup(target, volume);
    await copyAll(target, plan, volume);
    volume.bytesRead = 0;
    await copyAll(target, plan, volume, 2);
    assert.equal(volume.bytesRead, 0);
  });

  test("names in no checkpoint what is not in the store yet", async () => {
    let checkpoints = 0;
    class WatchedStore extends MemoryObjectStore {
      override async put(
        key: string,
        body: Uint8Array,
        options?: { ifAbsent?: boolean },
      ): Promise<"written" | "exists"> {
        if (/packs|pages/.test(key)) await new Promise((resolve) => setTimeout(resolve, Math.random() * 8));
        if (key.includes("/checkpoints/")) {
          const { packs, pages } = decodeCheckpoint(body, { key, cipher: undefined });
          const named = [...packs.map(({ name }) => `packs/${name}`), ...pages.map(({ name }) => `pages/${name}`)];
          for (const name of named) assert.ok(await this.head(`domains/vol/${name}`), `${name} is not there yet`);
          checkpoints += 1;
        }
        return super.put(key, body, options);
      }
    }
    const target = await smallTarget(new WatchedStore());
    const volume = SparseVolume.of(randomBytes(pageBytes * 32));
    const plan = await planBackup(target, volume);
    await copyAll(target, plan, volume);
    assert.ok(checkpoints > 10);
  });

  for (const [earlier, later] of [
    [1, 2],
    [9, 10],
  ] as const)
    test(`goes on from attempt ${later}, not from attempt ${earlier}`, async () => {
      const target = await smallTarget();
      const volume = SparseVolume.of(randomBytes(pageBytes * 20));
      const { planHash } = await planBackup(target, volume);
      const copy = { planHash, shard: 0, until: never };
      await assert.rejects(copyShard(target, { ...copy, attempt: earlier, reader: dyingReader(volume, 8) }), /killed/);
      await assert.rejects(copyShard(target, { ...copy, attempt: later, reader: dyingReader(volume, 8) }), /killed/);
      const left = target.store.keys("domains/vol/jobs/job1/checkpoints/").map(attemptOfKey);
      assert.deepEqual(left.sort(), [earlier, later].sort());
      volume.bytesRead = 0;
      await copyShard(target, { ...copy, attempt: later + 1, reader: volume });
      assert.ok(volume.bytesRead < volume.sizeBytes / 2, `${volume.bytesRead} bytes were read`);
    });

  test("writes the domain's record again as its plan has it", async () => {
    const target = await smallTarget();
    const volume = SparseVolume.of(randomBytes(pageBytes * 2));
    const record = await target.store.get("domains/vol/domain.json");
    const { planHash } = await planBackup(target, volume);
    await target.store.deleteEveryVersion(["domains/vol/domain.json"]);
    await copyShard(target, { planHash, shard: 0, attempt: 1, until: never, reader: volume });
    await finish(target, { planHash });
    assert.deepEqual(await target.store.get("domains/vol/domain.json"), record);
  });

  test("passes over a checkpoint that is damaged", async () => {
    const target = await smallTarget();
    const content = randomBytes(pageBytes * 4);
    const volume = SparseVolume.of(content);
    const { planHash } = await planBackup(target, volume);
    const copy = { planHash, shard: 0, attempt: 1 };
    await assert.rejects(copyShard(target, { ...copy, until: never, reader: dyingReader(volume, 3) }));
    for (const key of target.store.keys("domains/vol/jobs/job1/checkpoints/"))
      target.store.damage(key, (body) => body.fill(0));
    await copyShard(target, { ...copy, until: never, reader: volume });
    await finish(target, { planHash });
    await assertRestores(target, content);
  });

  test("passes over a checkpoint in the middle of a page that lacks the page", async () => {
    const target = await smallTarget();
    const content = randomBytes(pageBytes * 2);
    const volume = SparseVolume.of(content);
    const { planHash } = await planBackup(target, volume);
    const without = { pages: [], zeroPages: [], packs: [], reused: [], bytesDone: 0, nextPage: 0, partialPage: "" };
    const key = "domains/vol/jobs/job1/checkpoints/0-1";
    const object = encodeCheckpoint({ ...without, planHash, nextChunk: 3 }, { key, cipher: undefined });
    await target.store.put(key, object);
    await copyShard(target, { planHash, shard: 0, attempt: 2, until: never, reader: volume });
    await finish(target, { planHash });
    await assertRestores(target, content);
  });

  test("beside another of the same attempt, or of a later one, does no harm", async () => {
    for (const attempts of [
      [1, 1],
      [1, 2],
    ]) {
      const target = await smallTarget();
      const content = randomBytes(pageBytes * 6);
      const { planHash } = await planBackup(target, SparseVolume.of(content));
      const copies = attempts.map((attempt) =>
        copyShard(target, { planHash, shard: 0, attempt, reader: SparseVolume.of(content), until: never }),
      );
      await Promise.all(copies);
      await finish(target, { planHash });
      await assertRestores(target, content);
    }
  });

  test("killed at any request to the store leaves what the next can finish", async () => {
    const content = Buffer.concat([randomBytes(pageBytes * 2), Buffer.alloc(pageBytes), randomBytes(pageBytes + 7)]);
    for (let deadline = 1; deadline < 40; deadline += 2) {
      let requests = Number.NEGATIVE_INFINITY;
      const store = new MemoryObjectStore({
        before: () => {
          requests += 1;
          if (requests > deadline) throw new Error("killed");
        },
      });
      const target = await smallTarget(store);
      const volume = SparseVolume.of(content);
      const { planHash } = await planBackup(target, volume);
      const copy = { planHash, shard: 0, attempt: 1, reader: volume, until: never };
      requests = 0;
      await copyShard(target, copy).catch((error: unknown) => assert.match(String(error), /killed/));
      requests = Number.NEGATIVE_INFINITY;
      await copyShard(target, copy);
      await finish(target, { planHash });
      await assertRestores(target, content);
    }
  });
});
