import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, test } from "node:test";
import fc from "fast-check";
import { MemoryObjectStore, type MemoryObjectStoreOptions } from "../../test/support/memory-object-store.ts";
import {
  backup,
  never,
  pageChunksOf,
  restore,
  SparseVolume,
  smallGeometry,
  useGeometry,
} from "../../test/support/repository.ts";
import { RepositoryDamaged } from "../domain/errors.ts";
import { sha256 } from "./binary.ts";
import { branchPages, encodeBranch, type PageReference } from "./branch.ts";
import { encodeRoot } from "./manifest.ts";
import { decodePage, encodePage } from "./page.ts";
import { finishRestorePlan, planRestore, readRoot, restoreShard } from "./reader.ts";
import { foundPages } from "./salvage.ts";
import { pagesOf } from "./tree.ts";

const { chunkBytes, pageChunks } = smallGeometry;
const pageBytes = chunkBytes * pageChunks;
const content = randomBytes(pageBytes * 3 + 100);

async function backedUp(
  bytes: Uint8Array | SparseVolume = content,
  before: MemoryObjectStoreOptions["before"] = () => undefined,
) {
  const store = new MemoryObjectStore({ before });
  await useGeometry(store, "vol", smallGeometry);
  const target = { store, domain: "vol", snapshotId: "snap1", jobId: "job1" };
  await backup(target, bytes instanceof SparseVolume ? bytes : SparseVolume.of(bytes));
  return { store, source: { ...target, jobId: "job2" } };
}

function names(...parts: string[]) {
  return (error: unknown) => error instanceof RepositoryDamaged && parts.every((part) => error.message.includes(part));
}

describe("a restore", () => {
  test("leaves no work objects, and its plan can be written twice", async () => {
    const { store, source } = await backedUp();
    assert.deepEqual(await planRestore(source), await planRestore(source));
    assert.equal(store.keys("domains/vol/jobs/job2/restore/").length, 1);
    await finishRestorePlan(source);
    await finishRestorePlan(source);
    assert.deepEqual(store.keys("domains/vol/jobs/"), []);
  });

  test("stops when time is short and goes on from there", async () => {
    const { source } = await backedUp();
    const plan = await planRestore(source);
    const volume = new SparseVolume(plan.sizeBytes);
    const progress: number[] = [];
    const onProgress = (bytes: number) => void progress.push(bytes);
    let from = 0;
    for (;;) {
      let left = 1;
      const outcome = await restoreShard(source, {
        shard: 0,
        from,
        writer: volume,
        until: () => left-- === 0,
        onProgress,
      });
      if (outcome.finished) break;
      from = outcome.next!;
    }
    assert.deepEqual(progress, [1, 2, 3].map((n) => n * pageBytes).concat(content.length));
    assert.equal(plan.bytesTotal, content.length);
    assert.deepEqual(await volume.content(), content);
  });

  test("writes no zeros", async () => {
    const sparse = Buffer.alloc(pageBytes * 2);
    sparse.write("text", chunkBytes * 3);
    const { source } = await backedUp(sparse);
    assert.deepEqual(
      (await restore(source)).extents.map(({ offset }) => offset),
      [chunkBytes * 3],
    );
  });

  test("reads neighbouring chunks with one request", async () => {
    let reads = 0;
    const { source } = await backedUp(content, (operation, key) => {
      if (operation === "get" && key.includes("/packs/")) reads += 1;
    });
    const plan = await planRestore(source);
    const volume = new SparseVolume(plan.sizeBytes);
    await restoreShard(source, { shard: 0, writer: volume, until: never });
    assert.deepEqual(await volume.content(), content);
    assert.ok(reads <= 15, `${reads} requests for 25 chunks in 13 packs`);
  });
});

describe("damage", () => {
  test("in a pack is told with the object and the bytes of the volume", async () => {
    const { store, source } = await backedUp();
    const key = store.keys("domains/vol/packs/")[0]!;
    store.damage(key, (body) => Object.assign(body, { 0: body[0]! ^ 1 }));
    await assert.rejects(restore(source), names(key, `Bytes 0-${chunkBytes - 1} of the volume`));
  });

  test("of a missing pack is told with all that was in it", async () => {
    const { store, source } = await backedUp();
    const key = store.keys("domains/vol/packs/")[1]!;
    store.damage(key, () => undefined);
    await assert.rejects(restore(source), names(key, `Bytes ${2 * chunkBytes}-${4 * chunkBytes - 1} of the volume`));
  });

  test("of a page is told with all of its bytes", async () => {
    const { store, source } = await backedUp();
    const pages = await Array.fromAsync(pagesOf(source, await readRoot(source)));
    const key = `domains/vol/pages/${pages[3]!.name}`;
    store.damage(key, () => undefined);
    await assert.rejects(restore(source), names(key, `Bytes ${3 * pageBytes}-${content.length - 1} of the volume`));
  });

  test("of a pack is told with all places of the volume that it is in, whichever part of a restore meets it", async () => {
    const shared = randomBytes(chunkBytes);
    const pages = Array.from({ length: 40 }, (_, at) => {
      const page = Buffer.alloc(pageBytes);
      page.set(at % 39 === 0 ? shared : randomBytes(chunkBytes));
      return page;
    });
    let rootReads = 0;
    const { store, source } = await backedUp(Buffer.concat(pages), (operation, key) => {
      if (operation === "get" && key.endsWith("roots/snap1")) rootReads += 1;
    });
    const [key = ""] = store.keys("domains/vol/packs/");
    store.damage(key, () => undefined);
    const second = [pageBytes, pageBytes + chunkBytes - 1];
    const all = [[0, chunkBytes - 1], second, [39 * pageBytes, 39 * pageBytes + chunkBytes - 1]];
    const isTold = names(key, `Bytes ${all.map(([from, to]) => `${from}-${to}`).join(", ")} of the volume are lost.`);
    const plan = await planRestore(source);
    const writer = new SparseVolume(plan.sizeBytes);
    for (const from of [0, 30]) {
      await assert.rejects(restoreShard(source, { shard: 0, from, writer, until: never }), isTold);
    }
    rootReads = 0;
    const until = () => rootReads > 0;
    await assert.rejects(restoreShard(source, { shard: 0, writer, until }), names(key, "0-", "There may be more"));
    store.damage("domains/vol/roots/snap1", () => undefined);
    await assert.rejects(restoreShard(source, { shard: 0, writer, until: never }), names(key, "There may be more"));
  });

  test("of branches is told with all of their bytes, before anything is written", async () => {
    const branchBytes = pageBytes * branchPages;
    const sparse = new SparseVolume(2 * branchBytes + pageBytes);
    for (const at of [0, 1, 2]) await sparse.write(randomBytes(chunkBytes), at * branchBytes);
    const { store, source } = await backedUp(sparse);
    const { branches } = await readRoot(source);
    const [first, second] = branches.map(({ name }) => `domains/vol/pages/${name}`);
    store.damage(first!, () => undefined);
    await assert.rejects(planRestore(source), names(first!, `Bytes 0-${branchBytes - 1} of the volume are lost`));
    store.damage(second!, (body) => body.subarray(1));
    await assert.rejects(planRestore(source), names(first!, second!, `Bytes 0-${2 * branchBytes - 1} of the volume`));
    assert.deepEqual(store.keys("domains/vol/jobs/"), []);
  });

  test("costs a salvage what it costs and no more: all the rest is in the volume, whatever the calls are cut into", async () => {
    const branchBytes = pageBytes * branchPages;
    const sparse = new SparseVolume(2 * branchBytes + pageBytes);
    const places = [0, pageBytes, 2 * pageBytes, branchBytes, 2 * branchBytes];
    for (const place of places) await sparse.write(randomBytes(3 * chunkBytes), place);
    const { store, source } = await backedUp(sparse);
    const salvage = { ...source, salvage: true };
    const { branches } = await readRoot(source);
    const pages = await Array.fromAsync(pagesOf(source, await readRoot(source)));
    const branch = `domains/vol/pages/${branches[1]!.name}`;
    const page = `domains/vol/pages/${pages[1]!.name}`;
    const [pack = ""] = store.keys("domains/vol/packs/");
    for (const key of [branch, page, pack]) store.damage(key, () => undefined);
    const plan = await planRestore(salvage);
    const ofBranch = [{ offset: branchBytes, length: branchBytes, object: branch }];
    assert.deepEqual(plan.lost, ofBranch);
    assert.deepEqual((await planRestore(salvage)).lost, ofBranch, "told again");
    const volume = new SparseVolume(plan.sizeBytes);
    const lost = [...plan.lost];
    for (let from: number | undefined = 0; from !== undefined; ) {
      let asked = 0;
      const options = { shard: 0, from, writer: volume, until: () => ++asked > 1 };
      const outcome: Awaited<ReturnType<typeof restoreShard>> = await restoreShard(salvage, options);
      lost.push(...outcome.lost);
      from = outcome.next;
    }
    assert.deepEqual(
      lost.toSorted((a, b) => a.offset - b.offset),
      [
        { offset: 0, length: 2 * chunkBytes, object: pack },
        { offset: pageBytes, length: pageBytes, object: page },
        ...ofBranch,
      ],
    );
    const expected = await sparse.content();
    for (const { offset, length } of lost) expected.fill(0, offset, offset + length);
    assert.ok((await volume.content()).equals(expected));
    await assert.rejects(restoreShard(source, { shard: 0, writer: volume, until: never }), RepositoryDamaged);
  });

  test("of a root is told before anything is written", async () => {
    const { store, source } = await backedUp();
    store.damage("domains/vol/roots/snap1", (body) => body.subarray(0, 50));
    await assert.rejects(planRestore(source), names("roots/snap1"));
    store.damage("domains/vol/roots/snap1", () => undefined);
    await assert.rejects(planRestore(source), names("roots/snap1"));
  });

  test("by mixed-up roots is noticed", async () => {
    const { store, source } = await backedUp();
    await store.put("domains/vol/roots/snap9", (await store.get("domains/vol/roots/snap1"))!);
    await assert.rejects(planRestore({ ...source, snapshotId: "snap9" }), names("snap1"));
  });

  /** Each page becomes another object, which the tree leads to. Answers the pages' names. */
  async function exchangePages(
    { store, source }: Awaited<ReturnType<typeof backedUp>>,
    exchange: (object: Uint8Array) => Buffer,
  ): Promise<string[]> {
    const root = await readRoot(source);
    const pages: PageReference[] = [];
    for await (const reference of pagesOf(source, root)) {
      const object = exchange((await store.get(`domains/vol/pages/${reference.name}`))!);
      const name = `job1/1-${sha256(object)}`;
      await store.put(`domains/vol/pages/${name}`, object);
      pages.push({ ...reference, name });
    }
    const branch = encodeBranch({ index: 0, pages });
    const name = `job1/0-${sha256(branch)}`;
    await store.put(`domains/vol/pages/${name}`, branch);
    await store.put("domains/vol/roots/snap1", encodeRoot({ ...root, branches: [{ index: 0, name, chunks: 1 }] }));
    return pages.map((page) => page.name);
  }

  test("of locations in a page alone is made good by the packs' own indexes", async () => {
    const repository = await backedUp();
    await exchangePages(repository, (object) => {
      const page = decodePage(object, "page");
      const chunks = [...page.chunks].map(
        (chunk) => chunk && { ...chunk, offset: chunk.offset + 3, length: 0xffff_fff0 },
      );
      return encodePage({ ...page, chunks: pageChunksOf(chunks) });
    });
    assert.deepEqual(await (await restore(repository.source)).content(), content);
  });

  test("is what a page of another format is: its bytes are lost, and those alone", async () => {
    const repository = await backedUp();
    let pages = 0;
    const [changed = ""] = await exchangePages(repository, (object) => {
      const page = Buffer.from(object);
      if (pages++ > 0) return page;
      page.writeUInt16LE(2, 8);
      page.write(sha256(page.subarray(0, -32)), page.length - 32, "hex");
      return page;
    });
    const key = `domains/vol/pages/${changed}`;
    await assert.rejects(restore(repository.source), names(key, `Bytes 0-${pageBytes - 1} of the volume`));
    const found = await Array.fromAsync(foundPages(repository.source, await readRoot(repository.source)));
    assert.deepEqual(
      found.map(({ lost }) => lost),
      [{ offset: 0, length: pageBytes, object: key }, undefined, undefined, undefined],
    );
  });

  test("anywhere gives the right bytes or an error with a name, never wrong bytes", async () => {
    const { store, source } = await backedUp();
    const keys = store.keys("domains/vol/").filter((key) => /packs|pages|roots/.test(key));
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...keys),
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        async (key, at, change) => {
          const before = (await store.get(key))!;
          store.damage(key, (body) => {
            body[at % body.length]! ^= change;
            return body;
          });
          try {
            assert.deepEqual(await (await restore(source)).content(), content);
          } catch (error) {
            assert.ok(
              error instanceof RepositoryDamaged || (error as Error).name === "UnsupportedFormat",
              String(error),
            );
          } finally {
            store.damage(key, () => before);
            await finishRestorePlan(source);
          }
        },
      ),
      { numRuns: 150 },
    );
  });
});
