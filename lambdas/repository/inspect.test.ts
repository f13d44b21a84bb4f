import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, it } from "node:test";
import fc from "fast-check";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { backup, SparseVolume, smallGeometry, useGeometry } from "../../test/support/repository.ts";
import { EncryptionKeyUnavailable, StoreUnavailable } from "../domain/errors.ts";
import { DomainInspection, domainOf, domainsIn, jobsBehind, snapshotsIn, storedByJob } from "./inspect.ts";
import { checkSnapshot } from "./inspect-check.ts";
import { ListedPacks } from "./inspect-packs.ts";
import type { KeyService } from "./key-service.ts";
import { domainKeys } from "./layout.ts";
import { readRoot } from "./reader.ts";

const domain = "vol";
const keys = domainKeys(domain);
const anyTime = new Date(0);

async function twoSnapshots(keyService?: KeyService): Promise<MemoryObjectStore> {
  const store = new MemoryObjectStore();
  if (!keyService) await useGeometry(store, domain, smallGeometry);
  const content = randomBytes(60_000);
  const location = { store, domain, ...(keyService && { keys: keyService }) };
  await backup({ ...location, snapshotId: "snap1", jobId: "job1" }, SparseVolume.of(content));
  const changed = Buffer.from(content);
  changed.fill(7, 20_000, 22_000);
  await backup({ ...location, snapshotId: "snap2", jobId: "job2" }, SparseVolume.of(changed), ["snap1"]);
  return store;
}

describe("the domains of a store", () => {
  it("are each found once, in order, whatever they are called and however much is in them", async () => {
    const name = fc.stringMatching(/^[A-Za-z0-9_-]{1,6}$/);
    await fc.assert(
      fc.asyncProperty(fc.uniqueArray(name, { maxLength: 12 }), async (names) => {
        const store = new MemoryObjectStore();
        await store.put("domain", new Uint8Array());
        await store.put("domains0", new Uint8Array());
        for (const each of names)
          for (const key of ["domain.json", "roots/a", "zz/z"])
            await store.put(`domains/${each}/${key}`, new Uint8Array());
        const found = await Array.fromAsync(domainsIn(store));
        assert.deepEqual(found.toSorted(), names.toSorted());
        for (const [at, each] of found.entries())
          assert.deepEqual(await Array.fromAsync(domainsIn(store, each)), found.slice(at + 1));
      }),
      { numRuns: 50 },
    );
  });

  it("need one listing each", async () => {
    let listings = 0;
    const store = new MemoryObjectStore({
      before: (operation) => {
        if (operation === "list") listings += 1;
      },
    });
    for (const each of ["a", "b", "c"])
      for (let at = 0; at < 50; at++) await store.put(`domains/${each}/packs/${at}`, new Uint8Array());
    assert.deepEqual(await Array.fromAsync(domainsIn(store)), ["a", "b", "c"]);
    assert.equal(listings, 4);
  });
});

describe("what is in a domain", () => {
  it("is listed: snapshots by id, and those behind one", async () => {
    const store = await twoSnapshots();
    await store.put(`${keys.roots}no plain name`, new Uint8Array());
    const ids = async (after?: string) =>
      (await Array.fromAsync(snapshotsIn(store, domain, after))).map(({ snapshotId }) => snapshotId);
    assert.deepEqual(await ids(), ["snap1", "snap2"]);
    assert.deepEqual(await ids("snap1"), ["snap2"]);
    assert.equal(await domainOf(store, "snap2"), domain);
    assert.equal(await domainOf(store, "snap3"), undefined);
  });

  it("takes what each job wrote, and is shared with the jobs before", async () => {
    const store = await twoSnapshots();
    const stored = await storedByJob(store, domain);
    const listed = [
      ...(await Array.fromAsync(store.list(keys.packs))),
      ...(await Array.fromAsync(store.list(keys.pages))),
    ];
    const all = listed.reduce((sum, { size }) => sum + size, 0);
    assert.equal((stored.get("job1") ?? 0) + (stored.get("job2") ?? 0), all);
    assert.ok((stored.get("job2") ?? 0) < (stored.get("job1") ?? 0) / 4);
    const behind = async (snapshotId: string) =>
      jobsBehind({ store, domain }, await readRoot({ store, domain, snapshotId }));
    assert.deepEqual(await behind("snap1"), ["job1"]);
    assert.deepEqual(await behind("snap2"), ["job1", "job2"]);
  });

  it("is damage where a root is missing, damaged or another's, and an error where the store is away", async () => {
    const store = await twoSnapshots();
    const inspection = new DomainInspection({ store, domain });
    const damageOf = async (snapshotId: string) => {
      const found = await inspection.read({ snapshotId, publishedAt: anyTime });
      return "damage" in found ? found.damage : "none";
    };
    assert.equal(await damageOf("snap1"), "none");
    await store.put(keys.root("snap3"), (await store.get(keys.root("snap1"))) ?? new Uint8Array());
    assert.match(await damageOf("snap3"), /it is the root of snap1/);
    await store.put(keys.root("snap1"), Buffer.from("x"));
    assert.match(await damageOf("snap1"), /roots\/snap1 is damaged/);
    assert.match(await damageOf("snap4"), /roots\/snap4 is missing/);
    const away = new MemoryObjectStore({
      before: () => {
        throw new StoreUnavailable("away");
      },
    });
    await assert.rejects(
      new DomainInspection({ store: away, domain }).read({ snapshotId: "snap1", publishedAt: anyTime }),
      {
        name: "StoreUnavailable",
      },
    );
  });

  it("is shown without its description when the key cannot be had, and opened with one call for all when it can", async () => {
    const dataKey = randomBytes(32);
    let unwrapped = 0;
    const keyService: KeyService = {
      generate: async () => ({ plaintext: dataKey, wrapped: Uint8Array.of(1, 2, 3) }),
      unwrap: async () => {
        unwrapped += 1;
        return dataKey;
      },
    };
    const store = await twoSnapshots(keyService);
    unwrapped = 0;
    const opened = new DomainInspection({ store, domain, keys: keyService });
    for (const snapshotId of ["snap1", "snap2"]) {
      const found = await opened.read({ snapshotId, publishedAt: anyTime });
      assert.ok("root" in found && found.description && found.keyProblem === undefined);
    }
    assert.equal(unwrapped, 1);
    const refusing: KeyService = {
      ...keyService,
      unwrap: async () => {
        throw new EncryptionKeyUnavailable("the key is disabled");
      },
    };
    const found = await new DomainInspection({ store, domain, keys: refusing }).read({
      snapshotId: "snap1",
      publishedAt: anyTime,
    });
    assert.ok("root" in found && found.keyProblem === "the key is disabled");
    const other: KeyService = { ...keyService, unwrap: async () => randomBytes(32) };
    const forged = await new DomainInspection({ store, domain, keys: other }).read({
      snapshotId: "snap1",
      publishedAt: anyTime,
    });
    assert.ok("damage" in forged && /not written with the domain's key/.test(forged.damage));
  });
});

describe("the check of a snapshot", () => {
  async function check(store: MemoryObjectStore, { full = false, stopAfter = Number.POSITIVE_INFINITY } = {}) {
    const root = await readRoot({ store, domain, snapshotId: "snap2" });
    let shown = 0;
    return checkSnapshot({ store, domain }, root, {
      full,
      packs: await ListedPacks.of(store, domain),
      stopped: () => shown >= stopAfter,
      onProgress: () => void shown++,
    });
  }

  async function somePack(store: MemoryObjectStore): Promise<string> {
    const [first] = await Array.fromAsync(store.list(keys.packs));
    return first?.key ?? "";
  }

  it("reads no chunk of an intact one, and all of them when it is to be full", async () => {
    const store = await twoSnapshots();
    const quick = await check(store);
    assert.deepEqual([quick.chunksRead, quick.lost], [0, []]);
    assert.equal(quick.chunks, Math.ceil(60_000 / 512));
    const full = await check(store, { full: true });
    assert.deepEqual([full.chunksRead, full.lost], [full.chunks, []]);
  });

  it("finds a pack that is missing, or too short, by the listing, and the bytes lost with it", async () => {
    for (const length of [undefined, 0, 300]) {
      const store = await twoSnapshots();
      const key = await somePack(store);
      const bytes = (await store.get(key)) ?? new Uint8Array();
      if (length === undefined) await store.deleteEveryVersion([key]);
      else await store.put(key, bytes.slice(0, length));
      const { lost, chunksRead } = await check(store);
      assert.ok(lost.length > 0 && lost.every(({ object }) => object === key), JSON.stringify(lost));
      assert.ok(chunksRead > 0 && chunksRead <= 4);
    }
  });

  it("finds a flipped bit in a pack only when it is full, and one in a page always", async () => {
    const store = await twoSnapshots();
    const key = await somePack(store);
    const bytes = Buffer.from((await store.get(key)) ?? new Uint8Array());
    bytes[9]! ^= 4;
    await store.put(key, bytes);
    assert.deepEqual((await check(store)).lost, []);
    const { lost } = await check(store, { full: true });
    assert.deepEqual(
      lost.map(({ object, length }) => [object, length]),
      [[key, 512]],
    );
    const [page] = await Array.fromAsync(store.list(`${keys.pages}job2/1-`));
    await store.put(page?.key ?? "", Buffer.from("x"));
    const found = await check(store);
    assert.deepEqual(
      found.lost.map(({ object }) => object),
      [page?.key],
    );
  });

  it("ends where it is told to", async () => {
    const { pages } = await check(await twoSnapshots(), { stopAfter: 2 });
    assert.equal(pages, 2);
  });
});
