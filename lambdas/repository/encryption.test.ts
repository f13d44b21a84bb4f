/** Whole backups into an encrypted store, with real cryptography and a key service in memory. */
import assert from "node:assert/strict";
import { hash, randomBytes } from "node:crypto";
import { describe, test } from "node:test";
import { MemoryKeyService } from "../../test/support/memory-key-service.ts";
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
} from "../../test/support/repository.ts";
import { EncryptionKeyUnavailable, isRetryable, RepositoryDamaged, VerificationFailed } from "../domain/errors.ts";
import { isZero } from "./chunk.ts";
import { DomainCipher, openCipher } from "./domain-cipher.ts";
import { ensureDomain } from "./domain-record.ts";
import { decodeRoot, encodeRoot, type Root } from "./manifest.ts";
import type { PutOptions } from "./object-store.ts";
import { readPackIndex } from "./pack-reader.ts";
import { readPage } from "./page.ts";
import { type BackupTarget, pinBase, readPin, unpinJob } from "./pin.ts";
import { writePlan } from "./planner.ts";
import { publishRoot } from "./publish.ts";
import { planRestore, readRoot, restoreShard } from "./reader.ts";
import { encodeJobRecord } from "./record.ts";
import { sampleCheck } from "./sample-check.ts";
import { encodeCheckpoint, encodeResult } from "./shard-state.ts";
import { encodeShardTable } from "./shard-table.ts";
import { pagesOf } from "./tree.ts";
import { verifyBackup } from "./verify.ts";
import { copyShard } from "./writer.ts";

const { chunkBytes, pageChunks } = smallGeometry;
const pageBytes = chunkBytes * pageChunks;
const secret = "nobody shall read this line. ";

/** A store that remembers all that was ever sent to it. */
class WatchingStore extends MemoryObjectStore {
  readonly sent: { readonly key: string; readonly body: Buffer }[] = [];

  override put(key: string, body: Uint8Array, options?: PutOptions): Promise<"written" | "exists"> {
    this.sent.push({ key, body: Buffer.from(body) });
    return super.put(key, body, options);
  }
}

interface Setting {
  readonly store: WatchingStore;
  readonly keys: MemoryKeyService;
  readonly job: (n: number, domain?: string) => BackupTarget;
}

/** A domain with small chunks, encrypted unless the store asked for none when it was made. */
async function newSetting({ encrypted = true, mayBeUnencrypted = false } = {}): Promise<Setting> {
  const store = new WatchingStore();
  const keys = new MemoryKeyService();
  const job = (n: number, domain = "vol") => ({
    ...{ store, keys, domain, mayBeUnencrypted },
    ...{ snapshotId: `snap${n}`, jobId: `job${n}` },
  });
  await useSmallChunks(encrypted ? job(0) : { store, domain: "vol" });
  return { store, keys, job };
}

async function useSmallChunks(location: Parameters<typeof ensureDomain>[0]): Promise<void> {
  await ensureDomain(location, { geometry: smallGeometry });
}

function secretContent(): Buffer {
  return Buffer.concat([
    Buffer.from(secret.repeat(400)),
    randomBytes(pageBytes),
    Buffer.alloc(pageBytes),
    randomBytes(77),
  ]);
}

async function assertRestores(target: BackupTarget, content: Uint8Array): Promise<void> {
  const restored = await restore({ ...target, jobId: `restore-${target.jobId}` });
  assert.deepEqual(await restored.content(), Buffer.from(content));
}

/** Checksum of a sealed object made right after its body was changed: what a store that forges objects would do. */
function resealed(object: Uint8Array): Buffer {
  const body = Buffer.from(object.subarray(0, -32));
  return Buffer.concat([body, hash("sha256", body, "buffer")]);
}

/** The chunks that are not zeros. */
function filledChunksOf(content: Buffer): Buffer[] {
  const chunks = Array.from({ length: Math.ceil(content.length / chunkBytes) }, (_, at) =>
    content.subarray(at * chunkBytes, (at + 1) * chunkBytes),
  );
  return chunks.filter((chunk) => !isZero(chunk));
}

async function chunkIds(target: BackupTarget): Promise<Set<string>> {
  const ids = new Set<string>();
  for await (const { name } of pagesOf(target, await readRoot(target))) {
    const page = await readPage(target.store, target.domain, name);
    for (const chunk of page.chunks) if (chunk) ids.add(chunk.hash);
  }
  return ids;
}

describe("an encrypted backup", () => {
  test("comes back byte for byte, and shares unchanged chunks with its base", async () => {
    const { store, job } = await newSetting();
    const content = secretContent();
    await backup(job(1), SparseVolume.of(content));
    const before = store.keys();
    await backup(job(2), SparseVolume.of(content), ["snap1"]);
    assert.deepEqual(
      store.keys().filter((key) => !before.includes(key)),
      ["domains/vol/roots/snap2"],
    );
    const changed = Buffer.from(content);
    changed.write("changed", 3 * chunkBytes);
    await backup(job(3), SparseVolume.of(changed), ["snap2"]);
    const packs = store.keys("domains/vol/packs/job3/");
    assert.equal(packs.length, 1);
    assert.equal((await readPackIndex(store, packs[0]!)).length, 1);
    for (const [n, expected] of [content, content, changed].entries()) await assertRestores(job(n + 1), expected);
  });

  test("by a hint comes back byte for byte", async () => {
    const { job } = await newSetting();
    const content = secretContent();
    await backup(job(1), SparseVolume.of(content));
    content.write("changed", pageBytes + 5);
    const volume = SparseVolume.of(content);
    const hint = { base: "snap1", changed: [{ offset: pageBytes + 5, length: 7 }] };
    const plan = await planHinted(job(2), volume, hint);
    assert.ok(plan.hinted);
    await finishBackup(job(2), plan, volume);
    assert.equal(volume.bytesRead, chunkBytes);
    await assertRestores(job(2), content);
  });

  test("tells the store neither bytes nor hashes of the volume, in whatever is sent on the way", async () => {
    const { store, job } = await newSetting();
    const content = secretContent();
    await backup(job(1), SparseVolume.of(content));
    content.write("changed", 3 * chunkBytes);
    await backup(job(2), SparseVolume.of(content), ["snap1"]);
    const forbidden = filledChunksOf(content).flatMap((chunk) => {
      const digest = hash("sha256", chunk, "buffer");
      return [chunk.subarray(0, 24), digest, Buffer.from(digest.toString("hex"))];
    });
    assert.ok(store.sent.length > 20);
    for (const { key, body } of store.sent)
      for (const bytes of forbidden) assert.ok(!body.includes(bytes), `${key} gives something away`);
  });

  test("shares neither chunk ids nor stored chunks nor keys with the same content in another domain", async () => {
    const { job } = await newSetting();
    await useSmallChunks(job(0, "other"));
    const content = secretContent();
    await backup(job(1), SparseVolume.of(content));
    await backup(job(1, "other"), SparseVolume.of(content));
    const [ids, others] = [await chunkIds(job(1)), await chunkIds(job(1, "other"))];
    assert.ok(ids.size > 8);
    assert.deepEqual(
      [...ids].filter((id) => others.has(id)),
      [],
    );
    const [one, two] = [await readRoot(job(1)), await readRoot(job(1, "other"))];
    assert.notDeepEqual(one.wrappedKey, two.wrappedKey);
  });

  test("is verified in full and by samples, and a changed byte of a chunk is found by both", async () => {
    const { store, job } = await newSetting();
    const content = secretContent();
    await backup(job(1), SparseVolume.of(content));
    const check = () => sampleCheck(job(1), { percent: 100, seed: "seed", until: never });
    const { lost, checkedBytes } = await check();
    assert.deepEqual([lost, checkedBytes], [[], Buffer.concat(filledChunksOf(content)).length]);
    const volume = SparseVolume.of(content);
    const plan = await planBackup(job(2), volume, ["snap1"]);
    await copyAll(job(2), plan, volume);
    store.damage(store.keys("domains/vol/packs/job1/")[0]!, (body) => {
      body[5]! ^= 1;
      return body;
    });
    assert.equal((await check()).lost.length, 1);
    const verify = () => verifyBackup(job(2), { planHash: plan.planHash, until: never, full: true });
    await assert.rejects(verify, VerificationFailed);
    await copyAll(job(2), plan, volume, 2);
    assert.deepEqual(await verify(), { finished: true });
  });

  test("never uses a key and a nonce twice, however often workers die and write again", async () => {
    const { store, job } = await newSetting();
    const volume = SparseVolume.of(secretContent());
    const plan = await planBackup(job(1), volume);
    for (const attempt of [1, 1, 2]) {
      await copyShard(job(1), { planHash: plan.planHash, shard: 0, attempt, reader: volume, until: never });
      await store.deleteEveryVersionBelow("domains/vol/jobs/job1/results/");
      await store.deleteEveryVersionBelow("domains/vol/jobs/job1/checkpoints/");
    }
    const packs = store.sent.filter(({ key }) => key.startsWith("domains/vol/packs/"));
    const stored = new Map<string, string[]>();
    for (const { key, body } of packs)
      for (const { hash: id, offset, length } of await readPackIndex(store, key))
        stored.set(id, [...(stored.get(id) ?? []), body.toString("hex", offset, offset + length)]);
    assert.equal(new Set(packs.map(({ key }) => key)).size, packs.length);
    for (const ciphertexts of stored.values()) {
      assert.ok(ciphertexts.length >= 3);
      assert.equal(new Set(ciphertexts).size, ciphertexts.length);
    }
  });

  test("does not open a chunk at another place than it was written for", async () => {
    const { store, job } = await newSetting();
    await backup(job(1), SparseVolume.of(randomBytes(pageBytes)));
    const key = store.keys("domains/vol/packs/")[0]!;
    const [first, second] = await readPackIndex(store, key);
    store.damage(key, (body) => body.copyWithin(second!.offset, first!.offset, first!.offset + first!.length));
    const { lost } = await sampleCheck(job(1), { percent: 100, seed: "seed", until: never });
    assert.equal(lost.length, 1);
  });

  test("is not read with the data key of another domain in its root", async () => {
    const { store, job } = await newSetting();
    await useSmallChunks(job(0, "other"));
    for (const domain of ["vol", "other"]) await backup(job(1, domain), SparseVolume.of(secretContent()));
    const other = await readRoot(job(1, "other"));
    const cipher = await openCipher(job(1, "other"), other.wrappedKey);
    const root = await readRoot(job(1));
    store.damage("domains/vol/roots/snap1", () => encodeRoot({ ...root, wrappedKey: other.wrappedKey }, cipher));
    await assert.rejects(restore(job(1)), EncryptionKeyUnavailable);
  });

  test("takes up its base's key when the domain's record was lost", async () => {
    const { store, job } = await newSetting();
    const content = secretContent();
    await backup(job(1), SparseVolume.of(content));
    store.damage("domains/vol/domain.json", () => undefined);
    await backup(job(2), SparseVolume.of(content), ["snap1"]);
    assert.deepEqual(store.keys("domains/vol/packs/job2/"), []);
    assert.deepEqual((await readRoot(job(2))).wrappedKey, (await readRoot(job(1))).wrappedKey);
    await assertRestores(job(2), content);
  });
});

describe("without the right key", () => {
  const actions: Record<string, (target: BackupTarget) => Promise<unknown>> = {
    "a restore": (target) => restore({ ...target, snapshotId: "snap1" }),
    "a backup": (target) => backup(target, SparseVolume.of(randomBytes(pageBytes)), ["snap1"]),
    "a sample check": (target) =>
      sampleCheck({ ...target, snapshotId: "snap1" }, { percent: 100, seed: "seed", until: never }),
  };
  for (const [what, act] of Object.entries(actions)) {
    test(`${what} is refused by name`, async () => {
      const { job } = await newSetting();
      await backup(job(1), SparseVolume.of(secretContent()));
      const { keys: _keys, ...keyless } = job(2);
      await assert.rejects(act(keyless), EncryptionKeyUnavailable);
      await assert.rejects(act({ ...job(3), keys: new MemoryKeyService() }), EncryptionKeyUnavailable);
    });

    test(`${what} is retryable while the key service is away, and goes on when it is back`, async () => {
      const { keys, job } = await newSetting();
      await backup(job(1), SparseVolume.of(secretContent()));
      keys.outage = new Error("The key service does not answer.");
      await assert.rejects(act(job(2)), (error) => error === keys.outage && isRetryable(error));
      keys.outage = undefined;
      await act(job(2));
    });
  }

  test("every step of a backup stops, and goes on when the key service is back", async () => {
    const { keys, job } = await newSetting();
    const content = secretContent();
    const volume = SparseVolume.of(content);
    const target = job(1);
    const needingKey = async <T>(step: () => Promise<T>): Promise<T> => {
      keys.outage = new Error("The key service does not answer.");
      await assert.rejects(step(), keys.outage);
      keys.outage = undefined;
      return step();
    };
    const { planHash } = await needingKey(() => planBackup(target, volume));
    await needingKey(() => copyShard(target, { planHash, shard: 0, attempt: 1, reader: volume, until: never }));
    await needingKey(() => verifyBackup(target, { planHash, until: never, full: true }));
    await needingKey(() => publishRoot(target, { planHash }));
    await unpinJob(target);
    await assertRestores(target, content);
  });
});

/** Whoever has no key of the domain. */
const nobody = { key: "", cipher: undefined };

describe("a store that takes encryption away", () => {
  const isRefusal = (error: unknown) => error instanceof RepositoryDamaged && !isRetryable(error);
  const plainRecord = (store: MemoryObjectStore) =>
    store.damage("domains/vol/domain.json", (body) => {
      const { encryption, ...record } = JSON.parse(Buffer.from(body).toString());
      assert.ok(encryption);
      return Buffer.from(JSON.stringify(record));
    });

  test("from the domain's record gets nothing", async () => {
    const { store, job } = await newSetting();
    await backup(job(1), SparseVolume.of(secretContent()));
    plainRecord(store);
    await assert.rejects(backup(job(2), SparseVolume.of(secretContent()), ["snap1"]), isRefusal);
    assert.deepEqual(store.keys("domains/vol/packs/job2/"), []);
  });

  test("from the domain's record after the job was told it gets nothing", async () => {
    const { store, job } = await newSetting();
    const volume = SparseVolume.of(secretContent());
    await pinBase(job(1), [], volume);
    plainRecord(store);
    await assert.rejects(writePlan(job(1), { sizeBytes: volume.sizeBytes, extents: volume.allocated() }), isRefusal);
  });

  test("before the first backup gets nothing", async () => {
    const { job } = await newSetting({ encrypted: false });
    await assert.rejects(backup(job(1), SparseVolume.of(secretContent())), isRefusal);
  });

  test("from the plan gets nothing", async () => {
    const { store, job } = await newSetting();
    const volume = SparseVolume.of(secretContent());
    await pinBase(job(1), [], volume);
    const shape = { sizeBytes: volume.sizeBytes, geometry: smallGeometry, wrappedKey: new Uint8Array(), hinted: false };
    const part = Buffer.from("01000000" + "00000000" + "0000" + "ff", "hex");
    await store.put("domains/vol/jobs/job1/plan", encodeShardTable(shape, [{ bytes: pageBytes, body: part }], nobody));
    await assert.rejects(backup(job(1), volume), isRefusal);
    assert.deepEqual(store.keys("domains/vol/packs/"), []);
  });

  const forgeries: Record<string, (root: Root, cipher: DomainCipher) => Uint8Array> = {
    "has no key": (root) => encodeRoot({ ...root, wrappedKey: new Uint8Array() }),
    "was written with another key": (root) => encodeRoot(root, new DomainCipher(randomBytes(32))),
    "has another size under the old authentication": (root, cipher) => {
      const object = encodeRoot(root, cipher);
      const forged = encodeRoot({ ...root, sizeBytes: root.sizeBytes + 1 }, cipher);
      object.subarray(-64, -32).copy(forged, forged.length - 64);
      return resealed(forged);
    },
  };
  for (const [what, forge] of Object.entries(forgeries)) {
    const forgeRoot = async ({ store, job }: Setting, n: number) => {
      const root = await readRoot(job(n));
      const cipher = (await openCipher(job(n), root.wrappedKey))!;
      store.damage(`domains/vol/roots/snap${n}`, () => forge(root, cipher));
    };

    test(`with a root that ${what} is refused by restores and checks`, async () => {
      const setting = await newSetting();
      const { job } = setting;
      await backup(job(1), SparseVolume.of(secretContent()));
      await forgeRoot(setting, 1);
      await assert.rejects(restore({ ...job(1), jobId: "job9" }), isRefusal);
      await assert.rejects(sampleCheck(job(1), { percent: 100, seed: "seed", until: never }), isRefusal);
    });

    test(`with a root that ${what} is no base: the next candidate is`, async () => {
      const setting = await newSetting();
      const { job } = setting;
      for (const n of [1, 2]) await backup(job(n), SparseVolume.of(secretContent()));
      await forgeRoot(setting, 2);
      assert.deepEqual(await pinBase(job(3), ["snap2", "snap1"], { sizeBytes: 1 }), { baseSnapshotId: "snap1" });
      assert.deepEqual(await pinBase(job(4), ["snap2"], { sizeBytes: 1 }), {});
    });

    test(`with a pin whose root ${what} does not get it under the new root`, async () => {
      const setting = await newSetting();
      const { store, job } = setting;
      const content = secretContent();
      await backup(job(1), SparseVolume.of(content));
      const volume = SparseVolume.of(content);
      await pinBase(job(2), ["snap1"], volume);
      const { baseRoot } = (await readPin(store, "vol", "job2"))!;
      await forgeRoot(setting, 1);
      const forged = (await store.get("domains/vol/roots/snap1"))!;
      store.damage("domains/vol/jobs/job2/pin", (body) => {
        const pin = Buffer.from(body);
        const at = pin.indexOf(baseRoot);
        const length = Buffer.alloc(4);
        length.writeUInt32LE(forged.length);
        return resealed(Buffer.concat([pin.subarray(0, at - 4), length, forged, Buffer.alloc(32)]));
      });
      const hint = { base: "snap1", changed: [{ offset: 0, length: 1 }] };
      const { hinted } = await planHinted(job(2), volume, hint).catch((error: unknown) => {
        assert.ok(isRefusal(error), String(error));
        return { hinted: false };
      });
      assert.equal(hinted, false);
    });

    test(`with a root that ${what} in the place of the new one is not taken for an earlier job's`, async () => {
      const { store, job } = await newSetting();
      const content = secretContent();
      await backup(job(1), SparseVolume.of(content));
      const root = { ...(await readRoot(job(1))), snapshotId: "snap2" };
      const forged = forge(root, (await openCipher(job(1), root.wrappedKey))!);
      await store.put("domains/vol/roots/snap2", forged);
      await assert.rejects(backup(job(2), SparseVolume.of(content)), isRefusal);
    });
  }

  test("with the pin of another base than the job was told is refused", async () => {
    const { store, job } = await newSetting();
    for (const n of [1, 2]) await backup(job(n), SparseVolume.of(secretContent()));
    await pinBase(job(3), ["snap2"], { sizeBytes: 1 });
    const older = new MemoryObjectStore();
    for (const key of store.keys()) await older.put(key, (await store.get(key))!);
    await older.deleteEveryVersionBelow("domains/vol/jobs/");
    await pinBase({ ...job(3), store: older }, ["snap1"], { sizeBytes: 1 });
    const pin = (await older.get("domains/vol/jobs/job3/pin"))!;
    store.damage("domains/vol/jobs/job3/pin", () => pin);
    const volume = SparseVolume.of(secretContent());
    await assert.rejects(planHinted(job(3), volume, { base: "snap2", changed: [] }), isRefusal);
  });

  test("from a restore's plan gets nothing into the volume", async () => {
    const { store, job } = await newSetting();
    await backup(job(1), SparseVolume.of(secretContent()));
    const source = { ...job(1), jobId: "job9" };
    const { sizeBytes } = await planRestore(source);
    const shape = { sizeBytes, geometry: smallGeometry, wrappedKey: new Uint8Array(), hinted: false };
    const part = Buffer.alloc(4);
    const plain = encodeShardTable(shape, [{ bytes: 0, body: part }], nobody);
    store.damage("domains/vol/jobs/job9/restore/plan", () => plain);
    await assert.rejects(
      restoreShard(source, { shard: 0, writer: new SparseVolume(sizeBytes), until: never }),
      isRefusal,
    );
  });
});

describe("a store that makes up what a job has left in it", () => {
  const isRefusal = (error: unknown) => error instanceof RepositoryDamaged && !isRetryable(error);
  const own = "domains/vol/jobs/job2/";

  /** The second backup of a volume, of whose bytes none is as it was, as far as its copy. */
  async function copiedJob() {
    const { store, job } = await newSetting();
    await backup(job(1), SparseVolume.of(randomBytes(2 * pageBytes)));
    const content = randomBytes(2 * pageBytes);
    const volume = SparseVolume.of(content);
    const plan = await planBackup(job(2), volume, ["snap1"]);
    await copyAll(job(2), plan, volume);
    const olderPages = await Array.fromAsync(pagesOf(job(1), await readRoot(job(1))));
    const reused = [...new Set(olderPages.flatMap(({ packs }) => packs))];
    const older = {
      ...{ planHash: plan.planHash, zeroPages: [], packs: [], reused, bytesDone: content.length },
      pages: olderPages.map((page) => ({
        ...page,
        size: 0,
        packs: [],
        reused: page.packs.map((pack) => reused.indexOf(pack)),
      })),
    };
    return { store, job, content, volume, plan, older };
  }

  test("does not get older bytes into a backup by a result, and the next attempt makes it good", async () => {
    const { store, job, content, volume, plan, older } = await copiedJob();
    const key = `${own}results/0-1`;
    store.damage(key, () => encodeResult(older, { key, cipher: undefined }));
    const verified = () => verifyBackup(job(2), { planHash: plan.planHash, until: never });
    await assert.rejects(verified(), VerificationFailed);
    await copyAll(job(2), plan, volume, 2);
    await verified();
    store.damage(`${own}results/0-2`, () => encodeResult(older, { key: `${own}results/0-2`, cipher: undefined }));
    await assert.rejects(publishRoot(job(2), plan), isRefusal);
    await store.deleteEveryVersionBelow(own);
    await backup(job(2), volume, ["snap1"]);
    await assertRestores(job(2), content);
  });

  test("does not get older bytes into a backup by a checkpoint", async () => {
    const { store, job, content, volume, plan, older } = await copiedJob();
    await store.deleteEveryVersionBelow(`${own}results/`);
    const key = `${own}checkpoints/0-2`;
    await store.put(
      key,
      encodeCheckpoint({ ...older, nextPage: 2, nextChunk: 0, partialPage: "" }, { key, cipher: undefined }),
    );
    await copyAll(job(2), plan, volume, 2);
    await verifyBackup(job(2), { planHash: plan.planHash, until: never });
    await publishRoot(job(2), plan);
    await assertRestores(job(2), content);
  });

  for (const kind of ["selection", "verified", "distrusted", "base"]) {
    test(`does not choose what its ${kind} says`, async () => {
      const { store, job, volume, plan } = await copiedJob();
      const { planHash } = plan;
      const key = own + kind;
      const records: Record<string, object> = {
        selection: { planHash, attempts: [1] },
        verified: { planHash, attempts: [1], readBack: [], unreadNext: 0 },
        distrusted: { packs: [] },
        base: {},
      };
      await store.put(key, encodeJobRecord({ format: 1, ...records[kind] }, { key, cipher: undefined }));
      await store.deleteEveryVersion(kind === "distrusted" ? [`${own}results/0-1`] : []);
      const goOn = async () => {
        await copyShard(job(2), { planHash, shard: 0, attempt: 2, reader: volume, until: never });
        await verifyBackup(job(2), { planHash, until: never });
        await publishRoot(job(2), plan);
      };
      await assert.rejects(goOn(), isRefusal);
      assert.equal(await store.get("domains/vol/roots/snap2"), undefined);
    });
  }

  for (const [what, cipher] of [
    ["with another key", new DomainCipher(randomBytes(32))],
    ["for another job", undefined],
  ] as const) {
    test(`does not get zeros into a backup or a restore by a plan that was written ${what}`, async () => {
      const { store, job, content, volume } = await copiedJob();
      const { wrappedKey } = await readRoot(job(1));
      const shape = { sizeBytes: content.length, geometry: smallGeometry, wrappedKey, hinted: false };
      const empty = async (key: string) => {
        const opened = cipher ?? (await openCipher(job(1), wrappedKey));
        const written = cipher ? key : key.replace("job2", "job3");
        return encodeShardTable(shape, [], { key: written, cipher: opened });
      };
      await store.deleteEveryVersionBelow(own);
      await pinBase(job(2), ["snap1"], volume);
      await store.put(`${own}plan`, await empty(`${own}plan`));
      await assert.rejects(backup(job(2), volume, ["snap1"]), isRefusal);
      await store.put(`${own}restore/plan`, await empty(`${own}restore/plan`));
      await assert.rejects(restore({ ...job(1), jobId: "job2" }), isRefusal);
    });
  }

  test("does not get an older snapshot's bytes into a restore by the plan of another restore", async () => {
    const { store, job, volume, plan } = await copiedJob();
    await finishBackup(job(2), plan, volume);
    await planRestore({ ...job(1), jobId: "job8" });
    await planRestore({ ...job(2), jobId: "job9" });
    const other = (await store.get("domains/vol/jobs/job8/restore/plan"))!;
    store.damage("domains/vol/jobs/job9/restore/plan", () => other);
    await assert.rejects(restore({ ...job(2), jobId: "job9" }), isRefusal);
  });
});

describe("a store whose encryption was switched on later", () => {
  test("goes on with an unencrypted domain only where the rows say that there is one", async () => {
    const { store, keys, job } = await newSetting({ encrypted: false, mayBeUnencrypted: true });
    const content = secretContent();
    await backup({ ...job(1), store }, SparseVolume.of(content));
    await backup(job(2), SparseVolume.of(content), ["snap1"]);
    assert.equal(store.keys("domains/vol/packs/job2/").length, 0);
    await assertRestores(job(2), content);
    const { lost } = await sampleCheck(job(2), { percent: 100, seed: "seed", until: never });
    assert.deepEqual(lost, []);
    const strict = { store, keys, domain: "vol", snapshotId: "snap2", jobId: "job8" };
    await assert.rejects(restore(strict), RepositoryDamaged);
  });

  test("encrypts a volume that has no backup yet", async () => {
    const { store, job } = await newSetting({ mayBeUnencrypted: true });
    await store.deleteEveryVersion(["domains/vol/domain.json"]);
    await backup(job(1), SparseVolume.of(secretContent()));
    const { wrappedKey } = decodeRoot((await store.get("domains/vol/roots/snap1"))!, "root");
    assert.ok(wrappedKey.length > 0);
  });
});
