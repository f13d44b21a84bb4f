/**
 * Every reader against bytes that nobody has written: damaged ones, whose checksum is wrong, and crafted ones, whose checksums and names
 * are right. Whatever comes in, a named error or a proper answer comes out, soon and in little memory.
 */
import assert from "node:assert/strict";
import { hash, randomBytes } from "node:crypto";
import { describe, test } from "node:test";
import fc from "fast-check";
import { largestBuffer } from "../../test/support/allocations.ts";
import {
  bodyOf,
  hostileNumbers,
  mutated,
  overwritten,
  sealedAs,
  withOtherNumber,
} from "../../test/support/crafted-bytes.ts";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import {
  backup,
  copyAll,
  finishBackup,
  never,
  planBackup,
  planHinted,
  restore,
  SparseVolume,
  smallGeometry,
  useGeometry,
} from "../../test/support/repository.ts";
import { RepositoryDamaged, SnapferryError, UnsupportedFormat } from "../domain/errors.ts";
import { decodeBranch, encodeBranch } from "./branch.ts";
import { encodeCompactedPack } from "./compacted-pack.ts";
import { distrust } from "./distrust.ts";
import { ensureDomain } from "./domain-record.ts";
import { decodeRoot, encodeRoot } from "./manifest.ts";
import type { ObjectStore } from "./object-store.ts";
import { readPackIndex } from "./pack-reader.ts";
import { decodePage, encodePage } from "./page.ts";
import { type BackupTarget, decodePin } from "./pin.ts";
import { planRestore, readRoot } from "./reader.ts";
import { sampleCheck } from "./sample-check.ts";
import { encodeShardTable, readShardPart, readShardTable, type ShardTable } from "./shard-table.ts";
import { sweepDomain } from "./sweep.ts";
import { verifyBackup } from "./verify.ts";
import { copyShard } from "./writer.ts";

const { chunkBytes, pageChunks } = smallGeometry;
const pageBytes = chunkBytes * pageChunks;
const MiB = 1024 * 1024;
/** SNAPFERRY_FUZZ_EFFORT=20 makes twenty times as many runs, in twenty times the time. */
const effort = Number(process.env.SNAPFERRY_FUZZ_EFFORT ?? 1);
/** What an honest backup or restore asks for at once: 16 MiB to unpack a range, 17 MiB for a pack. No lie may make it more. */
const mostBytesAtOnce = 20 * MiB;
/** For what takes milliseconds: a reader that believes a length of 2^32 takes longer. */
const soonMs = 10_000;

function isNamedDamage(error: unknown): boolean {
  return error instanceof RepositoryDamaged || error instanceof UnsupportedFormat;
}

/** Whatever is read, it ends soon, with what `isExpected` or with an answer. */
async function endsSoon(act: () => unknown, isExpected: (error: unknown) => boolean): Promise<void> {
  const started = performance.now();
  try {
    await act();
  } catch (error) {
    assert.ok(isExpected(error), error instanceof Error ? error.stack : String(error));
  }
  assert.ok(performance.now() - started < soonMs, "it took too long");
}

const readsOrIsDamaged = (read: () => unknown) => endsSoon(read, isNamedDamage);
/** Of whoever uses the whole domain. */
const endsByName = (act: () => unknown) => endsSoon(act, (error) => error instanceof SnapferryError);

const job = (store: ObjectStore, n: number): BackupTarget => ({
  ...{ store, domain: "vol" },
  ...{ snapshotId: `snap${n}`, jobId: `job${n}` },
});

/** A repository with one snapshot of two pages, and a job that stopped in the middle of a shard. */
async function newRepository() {
  const store = new MemoryObjectStore();
  await useGeometry(store, "vol", smallGeometry);
  const content = Buffer.concat([
    randomBytes(pageBytes + 99),
    Buffer.alloc(pageBytes, "text "),
    Buffer.alloc(pageBytes),
  ]);
  await backup(job(store, 1), SparseVolume.of(content));
  return { store, content };
}

/** One object of each kind, as it was written. */
async function newObjects() {
  const { store, content } = await newRepository();
  const volume = SparseVolume.of(content);
  await planBackup(job(store, 2), volume, ["snap1"]);
  const root = await readRoot(job(store, 1));
  const branchKey = `domains/vol/pages/${root.branches[0]!.name}`;
  const branchObject = (await store.get(branchKey))!;
  const { name: page } = decodeBranch(branchObject, "branch").pages[0]!;
  return {
    root: (await store.get("domains/vol/roots/snap1"))!,
    branch: branchObject,
    page: (await store.get(`domains/vol/pages/${page}`))!,
    pin: (await store.get("domains/vol/jobs/job2/pin"))!,
    plan: (await store.get("domains/vol/jobs/job2/plan"))!,
    pack: (await store.get(store.keys("domains/vol/packs/")[0]!))!,
  };
}

const objects = await newObjects();

async function readPlan(plan: Uint8Array): Promise<void> {
  const store = new MemoryObjectStore();
  await store.put("plan", plan);
  const table = await readShardTable({ store, domain: "vol" }, "plan");
  for (const shard of table?.shards.keys() ?? []) await readShardPart(store, "plan", table!, shard);
}

async function readIndexOf(pack: Uint8Array): Promise<void> {
  const store = new MemoryObjectStore();
  await store.put("pack", pack);
  await readPackIndex(store, "pack");
}

/** What is read can be written again: nothing came out of it that the rest of the code cannot bear. */
const readers: Record<"root" | "branch" | "page" | "pin", (object: Uint8Array) => unknown> = {
  root: (object) => encodeRoot(decodeRoot(object, "root")),
  branch: (object) => encodeBranch(decodeBranch(object, "branch")),
  page: (object) => encodePage(decodePage(object, "page")),
  pin: (object) => decodePin(object, "pin"),
};

describe("a reader of bytes that nobody has written", () => {
  for (const [kind, read] of Object.entries(readers) as [keyof typeof readers, (typeof readers)["root"]][]) {
    const object = objects[kind];
    const body = bodyOf(object);

    test(`of a ${kind} bears every hostile number at every place`, async () => {
      const largest = await largestBuffer(async () => {
        for (let at = 0; at < body.length; at++)
          for (const number of hostileNumbers)
            await readsOrIsDamaged(() => read(sealedAs(object, overwritten(body, at, number))));
      });
      assert.ok(largest < MiB, `${largest} bytes at once`);
    });

    test(`of a ${kind} bears whatever is done to its bytes, with a right checksum and with a wrong one`, async () => {
      const crafted = mutated(body).map((changed) => sealedAs(object, changed));
      await fc.assert(
        fc.asyncProperty(crafted, (bytes) => readsOrIsDamaged(() => read(bytes))),
        { numRuns: 300 * effort },
      );
      const damaged = mutated(object).filter((bytes) => !bytes.equals(object));
      await fc.assert(
        fc.asyncProperty(damaged, async (bytes) => assert.throws(() => read(bytes), isNamedDamage)),
        { numRuns: 200 * effort },
      );
    });
  }

  test("of a plan bears hostile numbers and any change, with a right checksum and with a wrong one", async () => {
    const tableBytes = Buffer.from(objects.plan).readUInt32LE();
    const table = objects.plan.subarray(4, 4 + tableBytes);
    const planWith = (body: Uint8Array) => {
      const sealed = sealedAs(table, body);
      const length = Buffer.alloc(4);
      length.writeUInt32LE(sealed.length);
      return Buffer.concat([length, sealed, objects.plan.subarray(4 + tableBytes)]);
    };
    const body = bodyOf(table);
    const largest = await largestBuffer(async () => {
      for (let at = 0; at < body.length; at++)
        for (const number of hostileNumbers)
          await readsOrIsDamaged(() => readPlan(planWith(overwritten(body, at, number))));
    });
    assert.ok(largest < MiB, `${largest} bytes at once`);
    const any = fc.oneof(mutated(body).map(planWith), mutated(objects.plan));
    await fc.assert(
      fc.asyncProperty(any, (bytes) => readsOrIsDamaged(() => readPlan(bytes))),
      { numRuns: 300 * effort },
    );
  });

  test("of a pack's index bears hostile numbers and any change, with a right checksum and with a wrong one", async () => {
    const pack = Buffer.from(objects.pack);
    const footerBytes = 46;
    const entries = pack.readUInt32LE(pack.length - footerBytes + 2);
    const indexAt = pack.length - footerBytes - 41 * entries;
    const packWith = (index: Uint8Array) => {
      const footer = Buffer.from(pack.subarray(-footerBytes));
      hash("sha256", index, "buffer").copy(footer, 6);
      return Buffer.concat([pack.subarray(0, indexAt), index, footer]);
    };
    const index = pack.subarray(indexAt, -footerBytes);
    for (let at = 0; at < index.length; at++)
      for (const number of hostileNumbers)
        await readsOrIsDamaged(() => readIndexOf(packWith(overwritten(index, at, number))));
    for (let at = pack.length - footerBytes; at < pack.length; at++)
      for (const number of hostileNumbers) await readsOrIsDamaged(() => readIndexOf(overwritten(pack, at, number)));
    const any = fc.oneof(mutated(index).map(packWith), mutated(pack));
    await fc.assert(
      fc.asyncProperty(any, (bytes) => readsOrIsDamaged(() => readIndexOf(bytes))),
      { numRuns: 300 * effort },
    );
  });

  test("of a domain's record bears any change", async () => {
    const record = (await (await newRepository()).store.get("domains/vol/domain.json"))!;
    await fc.assert(
      fc.asyncProperty(mutated(record), async (bytes) => {
        const store = new MemoryObjectStore();
        await store.put("domains/vol/domain.json", bytes);
        await readsOrIsDamaged(() => ensureDomain({ store, domain: "vol" }, { geometry: smallGeometry }));
      }),
      { numRuns: 300 * effort },
    );
  });

  test("believes no count of packs that the object has no room to refer to", () => {
    const body = bodyOf(objects.branch);
    const packs = new Set(decodeBranch(objects.branch, "branch").pages.flatMap((page) => page.packs));
    const firstRun = body.indexOf(Buffer.from([...packs][0]!.split("-")[2]!, "hex")) + 8 + 4;
    assert.equal(body.readUInt32LE(firstRun + 4), packs.size);
    const million = Buffer.alloc(4);
    million.writeUInt32LE(1_000_000);
    const crafted = sealedAs(objects.branch, overwritten(body, firstRun + 4, million));
    assert.throws(() => decodeBranch(crafted, "branch"), RepositoryDamaged);
  });
});

interface Domain {
  readonly store: MemoryObjectStore;
  readonly content: Buffer;
}

/** Everything that reads what is there. */
async function useAll({ store, content }: Domain): Promise<void> {
  await endsByName(() => restore({ ...job(store, 1), jobId: "restore" }));
  await endsByName(() => sampleCheck(job(store, 1), { percent: 100, seed: "fuzz", until: never }));
  const volume = SparseVolume.of(content);
  await endsByName(() => backup(job(store, 3), volume, ["snap1"]));
  await endsByName(async () => {
    const plan = await planHinted(job(store, 4), volume, {
      base: "snap1",
      changed: [{ offset: pageBytes, length: 1 }],
    });
    await finishBackup(job(store, 4), plan, volume);
  });
  await endsByName(() => sweepDomain({ store, domain: "vol" }, { until: never, compacts: true }));
}

async function copyOf(original: MemoryObjectStore): Promise<MemoryObjectStore> {
  const store = new MemoryObjectStore();
  for (const key of original.keys()) await store.put(key, (await original.get(key))!);
  return store;
}

/** Puts another object under its own name, and that name where the old one was referred to. */
async function replaceNamed(
  store: MemoryObjectStore,
  { key, object, parentKey }: { key: string; object: Buffer; parentKey: string },
): Promise<{ key: string; parent: Buffer }> {
  const digest = hash("sha256", object, "buffer");
  const name = `${key.slice(0, -64)}${digest.toString("hex")}`;
  await store.put(name, object);
  const parent = (await store.get(parentKey))!;
  const body = bodyOf(parent);
  const at = body.indexOf(Buffer.from(key.slice(-64), "hex"));
  assert.ok(at > 0);
  return { key: name, parent: sealedAs(parent, overwritten(body, at, digest)) };
}

describe("a domain with crafted objects whose hashes are all right", () => {
  const rootKey = "domains/vol/roots/snap1";

  async function withRoot(original: Domain, body: Buffer): Promise<Domain> {
    const store = await copyOf(original.store);
    store.damage(rootKey, (object) => sealedAs(object, body));
    return { ...original, store };
  }

  async function withBranch(original: Domain, body: Buffer): Promise<Domain> {
    const store = await copyOf(original.store);
    const key = `domains/vol/pages/${(await readRoot(job(store, 1))).branches[0]!.name}`;
    const object = sealedAs((await store.get(key))!, body);
    const { parent } = await replaceNamed(store, { key, object, parentKey: rootKey });
    store.damage(rootKey, () => parent);
    return { ...original, store };
  }

  async function withPage(original: Domain, body: Buffer): Promise<Domain> {
    const store = await copyOf(original.store);
    const branchKey = `domains/vol/pages/${(await readRoot(job(store, 1))).branches[0]!.name}`;
    const branch = decodeBranch((await store.get(branchKey))!, "branch");
    const key = `domains/vol/pages/${branch.pages[0]!.name}`;
    const object = sealedAs((await store.get(key))!, body);
    const { parent } = await replaceNamed(store, { key, object, parentKey: branchKey });
    return withBranch({ ...original, store }, bodyOf(parent));
  }

  const crafts = { root: withRoot, branch: withBranch, page: withPage };
  for (const [kind, craft] of Object.entries(crafts) as [keyof typeof crafts, typeof withRoot][]) {
    test(`in the place of a ${kind} is read, backed up onto and swept without a fault`, async () => {
      const original = await newRepository();
      const root = await readRoot(job(original.store, 1));
      const branchKey = `domains/vol/pages/${root.branches[0]!.name}`;
      const branch = (await original.store.get(branchKey))!;
      const page = (await original.store.get(`domains/vol/pages/${decodeBranch(branch, "branch").pages[0]!.name}`))!;
      const body = bodyOf({ root: (await original.store.get(rootKey))!, branch, page }[kind]);
      const hostile = fc
        .tuple(fc.nat(body.length - 1), fc.constantFrom(...hostileNumbers))
        .map(([at, number]) => overwritten(body, at, number));
      const largest = await largestBuffer(() =>
        fc.assert(
          fc.asyncProperty(fc.oneof(hostile, mutated(body)), async (changed) =>
            useAll(await craft(original, Buffer.from(changed))),
          ),
          { numRuns: 40 * effort, interruptAfterTimeLimit: 800 * effort, markInterruptAsFailure: false },
        ),
      );
      assert.ok(largest <= mostBytesAtOnce, `${largest} bytes at once`);
    });
  }
});

describe("a compacted pack that nobody has written", () => {
  test("is read, backed up onto and swept without a fault", async () => {
    const original = await newRepository();
    const key = original.store.keys("domains/vol/packs/")[0]!;
    const pack = (await original.store.get(key))!;
    const chunks = (await readPackIndex(original.store, key)).map((chunk) => ({
      ...chunk,
      stored: pack.subarray(chunk.offset, chunk.offset + chunk.length),
    }));
    const whole = encodeCompactedPack(chunks);
    const footerBytes = 46;
    const indexAt = whole.length - footerBytes - 41 * chunks.length;
    const withIndex = (index: Uint8Array) => {
      const footer = Buffer.from(whole.subarray(-footerBytes));
      hash("sha256", index, "buffer").copy(footer, 6);
      return Buffer.concat([whole.subarray(0, indexAt), index, footer]);
    };
    const index = whole.subarray(indexAt, -footerBytes);
    const hostile = fc
      .tuple(fc.nat(index.length - 1), fc.constantFrom(...hostileNumbers))
      .map(([at, number]) => overwritten(index, at, number));
    const crafted = fc.oneof(fc.oneof(hostile, mutated(index)).map(withIndex), mutated(whole));
    const replaced = async (bytes: Uint8Array) => {
      const store = await copyOf(original.store);
      await store.deleteEveryVersion([key]);
      await store.put(`${key}.1`, bytes);
      return { ...original, store };
    };
    const { store, content } = await replaced(whole);
    assert.ok(content.equals(await (await restore({ ...job(store, 1), jobId: "restore" })).content()));
    const largest = await largestBuffer(() =>
      fc.assert(
        fc.asyncProperty(crafted, async (bytes) => useAll(await replaced(bytes))),
        { numRuns: 40 * effort, interruptAfterTimeLimit: 800 * effort, markInterruptAsFailure: false },
      ),
    );
    assert.ok(largest <= mostBytesAtOnce, `${largest} bytes at once`);
  });
});

describe("a restore whose plan was changed", () => {
  const key = "domains/vol/jobs/restore/restore/plan";

  test("ends with the right bytes or by name, and bears parts whose hashes are all right", async () => {
    const { store, content } = await newRepository();
    const source = { ...job(store, 1), jobId: "restore" };
    await planRestore(source);
    const plan = (await store.get(key))!;
    const table = (await readShardTable(source, key))!;
    const [{ bytes, offset }] = table.shards as [ShardTable["shards"][number]];
    const part = Buffer.from(plan.subarray(offset));
    const planWith = (body: Uint8Array) => encodeShardTable(table.shape, [{ bytes, body }], { key, cipher: undefined });
    assert.ok(planWith(part).equals(plan));
    const restored = async (changed: Uint8Array) => {
      await store.put(key, changed);
      return (await restore(source)).content();
    };
    assert.ok(content.equals(await restored(plan)));
    const hostile = fc
      .tuple(fc.nat(part.length - 1), fc.constantFrom(...hostileNumbers))
      .map(([at, number]) => overwritten(part, at, number));
    const limits = { numRuns: 100 * effort, interruptAfterTimeLimit: 800 * effort, markInterruptAsFailure: false };
    const largest = await largestBuffer(async () => {
      await fc.assert(
        fc.asyncProperty(mutated(plan), (changed) =>
          endsByName(async () => assert.ok(content.equals(await restored(changed)), "other bytes came back")),
        ),
        limits,
      );
      await fc.assert(
        fc.asyncProperty(fc.oneof(hostile, mutated(part)), (body) => endsByName(() => restored(planWith(body)))),
        limits,
      );
    });
    assert.ok(largest <= mostBytesAtOnce, `${largest} bytes at once`);
  });
});

describe("a job whose own objects were changed", () => {
  /** Stopped in the middle of a shard. */
  async function stoppedJob(): Promise<Domain> {
    const { store, content } = await newRepository();
    content.set(randomBytes(pageBytes), 0);
    const volume = SparseVolume.of(content);
    const { planHash } = await planBackup(job(store, 2), volume, ["snap1"]);
    let reads = 0;
    await copyShard(job(store, 2), { planHash, shard: 0, attempt: 1, reader: volume, until: () => reads++ > 0 });
    assert.equal(store.keys("domains/vol/jobs/job2/checkpoints/").length, 1);
    return { store, content };
  }

  async function copiedJob(): Promise<Domain> {
    const { store, content } = await stoppedJob();
    const volume = SparseVolume.of(content);
    await copyAll(job(store, 2), await planBackup(job(store, 2), volume, ["snap1"]), volume);
    return { store, content };
  }

  async function verifiedJob(): Promise<Domain> {
    const { store, content } = await copiedJob();
    const { planHash } = await planBackup(job(store, 2), SparseVolume.of(content), ["snap1"]);
    await verifyBackup(job(store, 2), { planHash, until: never });
    return { store, content };
  }

  /** Stopped while it was being verified, and told not to trust a pack of its base. */
  async function doubtfulJob(): Promise<Domain> {
    const { store, content } = await copiedJob();
    const { planHash } = await planBackup(job(store, 2), SparseVolume.of(content), ["snap1"]);
    const pack = store.keys("domains/vol/packs/job1/")[0]!.slice("domains/vol/packs/".length);
    await distrust(job(store, 2), [pack], undefined);
    await verifyBackup(job(store, 2), { planHash, until: () => true });
    return { store, content };
  }

  /** What the rest of the backup makes of it: the volume's bytes, or an error of ours. */
  async function endsRight({ store, content }: Domain): Promise<void> {
    const volume = SparseVolume.of(content);
    await endsByName(async () => {
      await backup(job(store, 2), volume, ["snap1"]);
      const restored = await restore({ ...job(store, 2), jobId: "restore" });
      assert.ok(content.equals(await restored.content()), "other bytes came back");
    });
  }

  const stages = {
    "behind its plan": { stage: stoppedJob, kinds: ["pin", "base", "plan", "checkpoints/0-1"] },
    "behind its copy": { stage: copiedJob, kinds: ["plan", "results/0-1"] },
    "within its verification": { stage: doubtfulJob, kinds: ["verified", "distrusted"] },
    "behind its verification": { stage: verifiedJob, kinds: ["plan", "results/0-1", "selection"] },
  };
  for (const [where, { stage, kinds }] of Object.entries(stages)) {
    for (const kind of kinds) {
      test(`${where} in its ${kind} ends with the right bytes or by name`, async () => {
        const original = await stage();
        const key = `domains/vol/jobs/job2/${kind}`;
        const object = (await original.store.get(key))!;
        const isJson = Buffer.from(object.subarray(0, 1)).toString() === "{";
        await fc.assert(
          fc.asyncProperty(
            isJson ? fc.oneof(mutated(object), withOtherNumber(object)) : mutated(object),
            async (bytes) => {
              const store = await copyOf(original.store);
              store.damage(key, () => bytes);
              await endsRight({ ...original, store });
            },
          ),
          { numRuns: 40 * effort, interruptAfterTimeLimit: 800 * effort, markInterruptAsFailure: false },
        );
      });
    }
  }
});
