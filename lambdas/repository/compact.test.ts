import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, it } from "node:test";
import fc from "fast-check";
import { DocumentReader } from "../../test/support/document-reader.ts";
import { MemoryKeyService } from "../../test/support/memory-key-service.ts";
import { MemoryObjectStore, type StoreOperation } from "../../test/support/memory-object-store.ts";
import {
  backup,
  copyAll,
  finishBackup,
  never,
  planBackup,
  restore,
  SparseVolume,
} from "../../test/support/repository.ts";
import { Killed, workerStore } from "../../test/support/worker-store.ts";
import { RepositoryDamaged, Throttled, UnsupportedFormat } from "../domain/errors.ts";
import { LiveChunks } from "./compact-live.ts";
import { decodeCompactedPack, encodeCompactedPack } from "./compacted-pack.ts";
import { ensureDomain } from "./domain-record.ts";
import type { KeyService } from "./key-service.ts";
import { originalPack } from "./layout.ts";
import type { ObjectStore } from "./object-store.ts";
import { type BackupTarget, unpinJob } from "./pin.ts";
import { publishRoot } from "./publish.ts";
import { planRestore, readRoot, restoreShard } from "./reader.ts";
import { retainSnapshot } from "./retain.ts";
import { sampleCheck } from "./sample-check.ts";
import { deleteBackup, type SweepOptions, sweepDomain } from "./sweep.ts";
import { pagesOf } from "./tree.ts";
import { verifyBackup } from "./verify.ts";

/** 16 chunks to a pack. Each chunk is 5.8 % of one. */
const geometry = { chunkBytes: 512, pageChunks: 8, packBytes: 8192 };
const { chunkBytes } = geometry;
const chunksPerPack = geometry.packBytes / chunkBytes;
const packs = "domains/vol/packs/";
const hourMs = 60 * 60 * 1000;

type Hook = (operation: StoreOperation, key: string) => void | Promise<void>;

class Stage {
  readonly hooks: { before: Hook } = { before: () => undefined };
  readonly store: MemoryObjectStore;
  readonly keys = new MemoryKeyService();
  readonly #encrypted: boolean;
  readonly contents = new Map<number, Buffer>();
  readonly clock = { now: Date.now() };

  constructor({ encrypted = false, objectLock = false } = {}) {
    this.#encrypted = encrypted;
    this.store = new MemoryObjectStore({
      objectLock,
      now: () => this.clock.now,
      before: (operation, key) => this.hooks.before(operation, key),
    });
  }

  job(n: number): BackupTarget {
    const keys = this.#encrypted ? { keys: this.keys } : {};
    return { store: this.store, domain: "vol", snapshotId: `snap${n}`, jobId: `job${n}`, ...keys };
  }

  async backup(n: number, content: Buffer, base?: number): Promise<void> {
    if (n === 1) await ensureDomain(this.job(1), { geometry });
    this.contents.set(n, content);
    await backup(this.job(n), SparseVolume.of(content), base === undefined ? [] : [`snap${base}`]);
  }

  sweep(options: Partial<SweepOptions> = {}) {
    return sweepDomain({ store: this.store, domain: "vol" }, { until: never, compacts: true, ...options });
  }

  delete(n: number): Promise<void> {
    return deleteBackup(this.job(n));
  }

  async assertRestores(n: number, store: ObjectStore = this.store): Promise<void> {
    const volume = await restore({ ...this.job(n), store, jobId: `restore${n}` });
    assert.ok((await volume.content()).equals(this.contents.get(n)!), `snap${n} came back with other bytes`);
  }

  /** Names of the packs, without their forms' numbers, and the newest generation of each. */
  generations(): Map<string, number> {
    return new Map(
      this.store.keys(packs).map((key) => [originalPack(key).pack.slice(packs.length), originalPack(key).generation]),
    );
  }

  /** Another stage with the same objects. */
  async copy(): Promise<Stage> {
    const other = new Stage();
    for (const key of this.store.keys()) await other.store.put(key, (await this.store.get(key))!);
    for (const [n, content] of this.contents) other.contents.set(n, content);
    return other;
  }

  async objects(): Promise<Map<string, string>> {
    const objects = new Map<string, string>();
    for (const key of this.store.keys()) {
      if (!key.includes("/dropped/")) objects.set(key, Buffer.from((await this.store.get(key))!).toString("base64"));
    }
    return objects;
  }
}

/** Other bytes in the chunks with these numbers. */
function changed(content: Buffer, chunks: Iterable<number>): Buffer {
  const copy = Buffer.from(content);
  for (const chunk of chunks) copy.set(randomBytes(chunkBytes), chunk * chunkBytes);
  return copy;
}

const range = (from: number, to: number) => Array.from({ length: to - from }, (_, at) => from + at);

/** Snapshot 1 of three packs; snapshot 2 uses 4 chunks of the first pack, 10 of the second, all of the third. Snapshot 1 is deleted. */
async function sparseStage(options: { encrypted?: boolean; objectLock?: boolean } = {}): Promise<Stage> {
  const stage = new Stage(options);
  const first = randomBytes(3 * chunksPerPack * chunkBytes);
  await stage.backup(1, first);
  await stage.backup(2, changed(first, [...range(2, 14), ...range(20, 26)]), 1);
  await stage.delete(1);
  return stage;
}

const ofJob = (stage: Stage, n: number) => [...stage.generations()].filter(([pack]) => pack.startsWith(`job${n}/`));

describe("compaction", () => {
  for (const encrypted of [false, true])
    it(`rewrites packs of which less than 40 % is live${encrypted ? ", in an encrypted domain without its key" : ""}`, async () => {
      const stage = await sparseStage({ encrypted });
      const before = new Map(ofJob(stage, 1));
      assert.equal(before.size, 3);
      const swept = await stage.sweep();
      assert.deepEqual([swept.compactedPacks, swept.damagedPacks, swept.finished], [1, [], true]);
      assert.deepEqual(
        ofJob(stage, 1)
          .map(([, generation]) => generation)
          .sort(),
        [0, 0, 1],
      );
      const [key = ""] = stage.store.keys(packs).filter((name) => name.endsWith(".1"));
      const size = (await stage.store.head(key))!.size;
      const overhead = encrypted ? 4 * 16 : 0;
      assert.equal(size, 4 * chunkBytes + overhead + 4 * 41 + 46);
      await stage.assertRestores(2);
      const documented = new DocumentReader({
        domain: "vol",
        get: (name) => stage.store.get(name),
        ...(encrypted && { unwrap: (wrapped) => stage.keys.unwrap(wrapped, { domain: "vol" }) }),
      });
      assert.ok((await documented.volume("snap2")).equals(stage.contents.get(2)!), "as the document says");
      const check = await sampleCheck(stage.job(2), { percent: 100, seed: "", until: never });
      assert.deepEqual(check.lost, []);
      assert.equal((await stage.sweep()).compactedPacks, 0);
    });

  it("goes on as the live part shrinks, and later backups build on what is left", async () => {
    const stage = await sparseStage();
    await stage.sweep();
    let content = stage.contents.get(2)!;
    for (const [n, chunks] of [
      [3, [0, 1]],
      [4, [14]],
    ] as const) {
      content = changed(content, [...chunks, ...range(26, 32)]);
      await stage.backup(n, content, n - 1);
      await stage.assertRestores(n);
      await stage.delete(n - 1);
      assert.ok((await stage.sweep()).finished);
      await stage.assertRestores(n);
    }
    const left = ofJob(stage, 1).map(([, generation]) => generation);
    assert.deepEqual(left.sort(), [0, 1, 2], "the second pack has 4 chunks left, the first one 1, in its second form");
    await stage.delete(4);
    await stage.sweep({ now: () => Date.now() + 2 * hourMs });
    assert.deepEqual(stage.store.keys(), []);
  });

  it("makes no form after the ninth", async () => {
    const stage = new Stage();
    await stage.backup(1, randomBytes(2 * chunksPerPack * chunkBytes));
    const pack = stage.store.keys(packs)[0]!;
    await stage.backup(2, changed(stage.contents.get(1)!, range(0, 15)), 1);
    await stage.delete(1);
    const bytes = (await stage.store.get(pack))!;
    const forms = await stage.copy();
    await forms.sweep();
    assert.ok(forms.store.keys(packs).includes(`${pack}.1`));
    const index = Buffer.from(bytes.subarray(chunksPerPack * chunkBytes, -46));
    const chunks = range(0, chunksPerPack).map((at) => ({
      hash: index.subarray(at * 41, at * 41 + 32).toString("hex"),
      offset: at * chunkBytes,
      length: chunkBytes,
      encoding: 0 as const,
      stored: bytes.subarray(at * chunkBytes, (at + 1) * chunkBytes),
    }));
    for (const form of [8, 9]) await stage.store.put(`${pack}.${form}`, encodeCompactedPack(chunks));
    await stage.store.deleteEveryVersion([pack]);
    assert.equal((await stage.sweep()).compactedPacks, 0);
    assert.deepEqual(stage.store.keys(pack), [`${pack}.9`]);
    await stage.assertRestores(2);
  });

  it("leaves what can be read while the newest form of a pack is damaged and an older one is there", async () => {
    const stage = await sparseStage();
    await stage.sweep();
    const [older = ""] = stage.store.keys(packs).filter((name) => name.endsWith(".1"));
    const form = Buffer.from((await stage.store.get(older))!);
    const damaged = Buffer.from(form);
    damaged[form.length - 50]! ^= 1;
    await stage.store.put(older.replace(/1$/, "2"), damaged);
    await stage.assertRestores(2);
  });

  it("reads no page and no pack when nothing was deleted, or is not wanted", async () => {
    const stage = await sparseStage();
    const requests = async (options: Partial<SweepOptions>) => {
      const seen: string[] = [];
      stage.hooks.before = (operation, key) => void seen.push(`${operation} ${key}`);
      await stage.sweep(options);
      stage.hooks.before = () => undefined;
      return seen.filter((request) => !request.includes("/dropped/")).sort();
    };
    const unwanted = await requests({ compacts: false });
    assert.ok(!unwanted.some((request) => request.startsWith("put") || request.startsWith(`get ${packs}`)));
    assert.deepEqual(await requests({ compacts: true }), await requests({ compacts: false }));
  });

  it("stops when time is short, keeps what is done, and comes to the same end", async () => {
    const stage = await sparseStage();
    const expected = await stage.copy();
    await expected.sweep();
    let finished = false;
    for (let patience = 1; !finished; patience++) {
      let asked = 0;
      ({ finished } = await stage.sweep({ until: () => asked++ >= patience }));
      await stage.assertRestores(2);
      assert.ok(patience < 100);
    }
    assert.deepEqual(await stage.objects(), await expected.objects());
  });

  it("comes to the same end whichever of its writes and deletions was its last, and every snapshot is whole in between", async () => {
    const origin = await sparseStage();
    const expected = await origin.copy();
    await expected.sweep();
    let dies = 0;
    for (let died = true; died; dies++) {
      const stage = await origin.copy();
      let requests = 0;
      stage.hooks.before = (operation) => {
        if ((operation === "put" || operation === "delete") && requests++ === dies) throw new Error("died");
      };
      died = await stage.sweep().then(
        () => false,
        (error: Error) => error.message === "died",
      );
      stage.hooks.before = () => undefined;
      await stage.assertRestores(2);
      assert.ok((await stage.sweep()).finished);
      assert.deepEqual(await stage.objects(), await expected.objects(), `died before request ${dies}`);
      await stage.assertRestores(2);
    }
    assert.ok(dies > 5, `${dies} writes and deletions`);
  });

  for (const [what, spoil] of [
    ["a live chunk", (body: Uint8Array) => body.fill(7, 10, 11)],
    ["the index", (body: Uint8Array) => body.fill(7, body.length - 60, body.length - 59)],
    ["the end", (body: Uint8Array) => body.subarray(0, body.length - 1)],
  ] as const)
    it(`leaves a pack alone of which ${what} is damaged, and tells`, async () => {
      const stage = await sparseStage();
      const whole = await stage.copy();
      await whole.sweep();
      const compacted = whole.store.keys(packs).find((key) => key.endsWith(".1"))!;
      const pack = originalPack(compacted).pack;
      stage.store.damage(pack, (body) => Uint8Array.from(spoil(body)));
      const bytes = await stage.store.get(pack);
      const swept = await stage.sweep();
      assert.deepEqual([swept.compactedPacks, swept.damagedPacks, swept.finished], [0, [pack], true]);
      assert.deepEqual(await stage.store.get(pack), bytes);
      assert.ok(!stage.store.keys(packs).includes(compacted));
    });

  it("takes damage of dead chunks away with them", async () => {
    const stage = await sparseStage();
    const whole = await stage.copy();
    await whole.sweep();
    const pack = originalPack(whole.store.keys(packs).find((key) => key.endsWith(".1"))!).pack;
    stage.store.damage(pack, (body) => body.fill(7, 5 * chunkBytes, 6 * chunkBytes));
    assert.deepEqual((await stage.sweep()).compactedPacks, 1);
    await stage.assertRestores(2);
  });

  it("rewrites encrypted packs of a store without checksums if the domain's key finds them whole, and leaves them alone without it", async () => {
    const origin = await sparseStage({ encrypted: true });
    const expected = await origin.copy();
    const { compactedPacks } = await expected.sweep();
    assert.equal(compactedPacks, 1);
    const sweepWith = async (keys: KeyService | undefined, damaged?: string) => {
      const stage = await origin.copy();
      if (damaged) stage.store.damage(damaged, (body) => body.fill(7, 10, 11));
      const head = stage.store.head.bind(stage.store);
      stage.store.head = async (key) => {
        const found = await head(key);
        return found && { size: found.size };
      };
      const location = { store: stage.store, domain: "vol", ...(keys && { keys }) };
      return { stage, swept: await sweepDomain(location, { until: never, compacts: true }) };
    };
    const compacted = await sweepWith(origin.keys);
    assert.deepEqual([compacted.swept.compactedPacks, compacted.swept.damagedPacks], [1, []]);
    assert.deepEqual(await compacted.stage.objects(), await expected.objects());
    const away = new MemoryKeyService();
    away.outage = new Throttled("KMS does not serve the key now.");
    for (const keys of [undefined, new MemoryKeyService(), away]) {
      const { swept } = await sweepWith(keys);
      assert.deepEqual([swept.compactedPacks, swept.damagedPacks, swept.finished], [0, [], true]);
    }
    const rewritten = expected.store.keys(packs).find((key) => key.endsWith(".1"))!;
    const { pack } = originalPack(rewritten);
    const { swept } = await sweepWith(origin.keys, pack);
    assert.deepEqual([swept.compactedPacks, swept.damagedPacks], [0, [pack]]);
  });

  it("leaves encrypted packs alone that are not what the store's checksum tells, or without the key where it keeps none", async () => {
    for (const told of ["the bytes that were written", "nothing"]) {
      const stage = await sparseStage({ encrypted: true });
      const written = new Map<string, string>();
      for (const key of stage.store.keys(packs)) written.set(key, (await stage.store.head(key))!.sha256!);
      for (const key of stage.store.keys(packs)) stage.store.damage(key, (body) => body.fill(7, 5 * 528, 5 * 528 + 1));
      const head = stage.store.head.bind(stage.store);
      stage.store.head = async (key) => {
        const { size, sha256 } = (await head(key)) ?? { size: 0 };
        if (told === "nothing") return { size };
        return { size, sha256: written.get(key) ?? sha256! };
      };
      const before = stage.store.keys(packs);
      const swept = await stage.sweep();
      assert.equal(swept.compactedPacks, 0);
      assert.equal(swept.damagedPacks.length, told === "nothing" ? 0 : 1);
      const kept = stage.store.keys(packs);
      assert.deepEqual(
        kept,
        before.filter((key) => kept.includes(key)),
      );
      assert.ok(kept.some((key) => key.includes("/job1/")));
    }
  });

  it("leaves a copy that the store spoilt, and keeps the pack", async () => {
    const stage = await sparseStage();
    stage.hooks.before = (operation, key) => {
      if (operation !== "head" || !key.endsWith(".1")) return;
      stage.hooks.before = () => undefined;
      stage.store.damage(key, (body) => body.fill(7, 3, 4));
    };
    const swept = await stage.sweep();
    assert.deepEqual([swept.compactedPacks, swept.damagedPacks.length], [0, 1]);
    await stage.assertRestores(2);
    const again = await stage.sweep();
    assert.deepEqual([again.compactedPacks, again.damagedPacks], [0, swept.damagedPacks]);
    await stage.assertRestores(2);
  });

  it("leaves packs alone to which a page refers that cannot be read", async () => {
    const stage = await sparseStage();
    const pages = await Array.fromAsync(pagesOf(stage.job(2), await readRoot(stage.job(2))));
    // The second page has two of the four chunks that are left of the first pack.
    stage.store.damage(`domains/vol/pages/${pages[1]!.name}`, (body) => body.subarray(1));
    const swept = await stage.sweep();
    assert.deepEqual([swept.compactedPacks, swept.damagedPacks], [0, []]);
    assert.equal(ofJob(stage, 1).length, 3);
  });
});

describe("beside compaction", () => {
  for (const encrypted of [false, true])
    for (const [what, damage] of [
      ["has other bytes", (pack: Buffer) => pack.fill(1, 0, pack.length - 46)],
      ["is cut short", (pack: Buffer) => pack.subarray(0, 10)],
    ] as const)
      it(`a restore needs no ${encrypted ? "encrypted " : ""}pack that ${what} while a form of it is there`, async () => {
        const stage = await sparseStage({ encrypted });
        const before = new Map<string, Buffer>();
        for (const key of stage.store.keys(packs)) before.set(key, Buffer.from((await stage.store.get(key))!));
        await stage.sweep();
        const [form = ""] = stage.store.keys(packs).filter((key) => key.endsWith(".1"));
        const { pack } = originalPack(form);
        await stage.store.put(pack, damage(before.get(pack)!));
        await stage.assertRestores(2);
      });

  it("a restore finds what it wants, whether the pack goes before it is read or the form does", async () => {
    const stage = await sparseStage();
    const content = changed(stage.contents.get(2)!, [0, 1, 14]);
    await stage.backup(3, content, 2);
    const events: string[] = [];
    stage.hooks.before = async (operation, key) => {
      if (operation !== "get" || !key.startsWith(`${packs}job1/`)) return;
      if (!key.endsWith(".1") && !events.includes("compacted")) {
        events.push("compacted");
        assert.equal((await stage.sweep()).compactedPacks, 1);
      } else if (key.endsWith(".1") && events.push("form") === 3) {
        // The index was read; now the bytes are wanted.
        await stage.delete(2);
        assert.equal((await stage.sweep()).compactedPacks, 1);
      }
    };
    const target = { ...stage.job(3), jobId: "restore" };
    const plan = await planRestore(target);
    const volume = new SparseVolume(plan.sizeBytes);
    await restoreShard(target, { shard: 0, writer: volume, until: never });
    assert.ok((await volume.content()).equals(content));
    assert.ok(events.includes("compacted") && events.length >= 3, events.join());
  });

  it("a backup with a pinned base keeps what it refers to, although the base is deleted and its packs are compacted", async () => {
    const stage = await sparseStage();
    const content = changed(stage.contents.get(2)!, [40]);
    const volume = SparseVolume.of(content);
    const plan = await planBackup(stage.job(3), volume, ["snap2"]);
    await stage.delete(2);
    assert.equal((await stage.sweep()).compactedPacks, 1);
    await copyAll(stage.job(3), plan, volume);
    assert.equal((await stage.sweep()).compactedPacks, 0);
    await finishBackup(stage.job(3), plan, volume);
    stage.contents.set(3, content);
    await stage.sweep();
    await stage.assertRestores(3);
    const own = [...stage.store.keys(packs)].filter((key) => key.includes("/job3/"));
    assert.equal(own.length, 1, "all else was found in the base");
  });

  it("packs of a running backup are left alone", async () => {
    const stage = new Stage();
    const content = randomBytes(2 * chunksPerPack * chunkBytes);
    await stage.backup(1, content);
    const later = changed(content, range(0, 16));
    const plan = await planBackup(stage.job(2), SparseVolume.of(later), ["snap1"]);
    await copyAll(stage.job(2), plan, SparseVolume.of(later));
    await stage.delete(1);
    await stage.sweep();
    assert.deepEqual(
      ofJob(stage, 2).map(([, generation]) => generation),
      [0],
    );
    await finishBackup(stage.job(2), plan, SparseVolume.of(later));
    stage.contents.set(2, later);
    await stage.assertRestores(2);
  });

  it("what a backup has written stays whole until its pin goes, so that it may publish again", async () => {
    const stage = new Stage();
    const size = 2 * chunksPerPack * chunkBytes;
    await stage.backup(1, randomBytes(size));
    const second = randomBytes(size);
    stage.contents.set(2, second);
    const plan = await planBackup(stage.job(2), SparseVolume.of(second), ["snap1"]);
    await copyAll(stage.job(2), plan, SparseVolume.of(second));
    await verifyBackup(stage.job(2), { planHash: plan.planHash, until: never });
    await publishRoot(stage.job(2), plan);
    await stage.backup(3, changed(second, [31]), 2);
    await stage.backup(4, changed(stage.contents.get(3)!, [...range(1, 16), ...range(17, 30)]), 3);
    await stage.delete(3);
    await stage.delete(2);
    assert.equal((await stage.sweep()).compactedPacks, 0);
    await publishRoot(stage.job(2), plan);
    await unpinJob(stage.job(2));
    await stage.assertRestores(2);
    await stage.delete(2);
    assert.equal((await stage.sweep()).compactedPacks, 2);
    await stage.assertRestores(4);
  });

  it("a sweep that writes its form late leaves nothing that another has to find", async () => {
    const stage = await sparseStage();
    let isLate = false;
    stage.hooks.before = async (operation, key) => {
      if (operation !== "put" || !key.endsWith(".1") || isLate) return;
      isLate = true;
      await stage.delete(2);
      await stage.sweep({ now: () => Date.now() + 2 * hourMs });
      assert.deepEqual(stage.store.keys(), []);
    };
    await stage.sweep({ now: () => Date.now() + 2 * hourMs });
    assert.ok(isLate);
    assert.deepEqual(stage.store.keys(), []);
  });

  it("a form that comes back late is no newer than the newest", async () => {
    const stage = await sparseStage();
    const late = await stage.copy();
    await late.sweep();
    const form = late.store.keys(packs).find((key) => key.endsWith(".1"))!;
    const bytes = (await late.store.get(form))!;
    await stage.sweep();
    const content = changed(stage.contents.get(2)!, [0, 1, 14]);
    await stage.backup(3, content, 2);
    await stage.delete(2);
    assert.equal((await stage.sweep()).compactedPacks, 1);
    await stage.store.put(form, bytes, { ifAbsent: true });
    await stage.assertRestores(3);
    await stage.sweep();
    await stage.assertRestores(3);
    assert.deepEqual(
      ofJob(stage, 1)
        .map(([, generation]) => generation)
        .sort(),
      [0, 0, 2],
    );
    assert.ok(!stage.store.keys(packs).includes(form));
  });

  it("a pack that is still locked stays beside what was left of it, without holding anybody up, until a sweep finds it free", async () => {
    const stage = await sparseStage({ objectLock: true });
    for (const key of stage.store.keys(packs))
      await stage.store.retain(key, { mode: "GOVERNANCE", until: new Date(stage.clock.now + hourMs) });
    assert.deepEqual((await stage.sweep()).finished, true);
    const forms = () => stage.store.keys(packs).filter((key) => key.includes("/job1/"));
    assert.equal(forms().length, 4);
    assert.equal((await stage.sweep()).compactedPacks, 0);
    stage.clock.now += hourMs + 1000;
    await stage.sweep();
    assert.equal(forms().length, 3);
    await stage.assertRestores(2);
  });

  it("a retention holds the form that is there", async () => {
    const stage = await sparseStage({ objectLock: true });
    await stage.sweep();
    const until = new Date(Math.ceil(Date.now() / 1000) * 1000 + hourMs);
    await retainSnapshot(stage.job(2), { mode: "GOVERNANCE", until, outOfTime: never });
    for (const key of stage.store.keys(packs)) assert.deepEqual(stage.store.retentionOf(key)?.until, until, key);
  });
});

describe("several sweeps at once", () => {
  /** Five snapshots, each of which changes some chunks of every pack of the one before. */
  const origin = (async () => {
    const stage = new Stage();
    let content: Buffer = randomBytes((3 * chunksPerPack + 3) * chunkBytes + 100);
    await stage.backup(1, content);
    for (const n of range(2, 6)) {
      content = changed(
        content,
        [0, 16, 32].flatMap((pack) => range(pack, pack + 4).map((chunk) => chunk + (n - 2) * 3)),
      );
      await stage.backup(n, content, n - 1);
    }
    return stage;
  })();

  const pace = fc.constantFrom(1, 2, 5);
  const diesAfter = fc.option(fc.integer({ min: 1, max: 80 }), { nil: undefined, freq: 1 });
  const sweeps = fc.array(fc.record({ pace, diesAfter }), { minLength: 1, maxLength: 3 });
  const deletedMeanwhile = fc.subarray([4, 5]);

  it("with deletions, a backup and restores beside them leave every snapshot whole, and one form of each pack", async () => {
    await fc.assert(
      fc.asyncProperty(deletedMeanwhile, sweeps, pace, fc.scheduler(), async (meanwhile, all, slow, scheduler) => {
        const stage = await (await origin).copy();
        const turn = async () => {
          await new Promise((resolve) => setImmediate(resolve));
          await scheduler.schedule(Promise.resolve());
        };
        const asWorker = (options: { pace: number; diesAfter?: number | undefined }) =>
          workerStore(stage.store, turn, options);
        const base = 5;
        // Packs of the first backup have 6 chunks left in the fourth, 3 in the fifth.
        for (const n of [1, 2, 3]) await stage.delete(n);
        const content = changed(stage.contents.get(base)!, [1, 20, 40]);
        stage.contents.set(6, content);
        const living = () => range(1, 7).filter((n) => stage.store.keys(`domains/vol/roots/snap${n}`).length > 0);
        const read = living().find((n) => !meanwhile.includes(n));

        await scheduler.waitFor(
          Promise.all([
            ...all.map(async (worker) => {
              const location = { store: asWorker(worker), domain: "vol" };
              try {
                await sweepDomain(location, { until: never, compacts: true });
              } catch (error) {
                if (!(error instanceof Killed)) throw error;
              }
            }),
            ...meanwhile.map((n) => deleteBackup({ ...stage.job(n), store: asWorker({ pace: slow }) })),
            backup({ ...stage.job(6), store: asWorker({ pace: 1 }) }, SparseVolume.of(content), [`snap${base}`]),
            ...(read === undefined ? [] : [stage.assertRestores(read, asWorker({ pace: slow }))]),
          ]),
        );
        for (const n of living()) await stage.assertRestores(n);
        await stage.sweep();
        for (const n of living()) await stage.assertRestores(n);
        const { damagedPacks, compactedPacks } = await stage.sweep();
        assert.deepEqual([damagedPacks, compactedPacks], [[], 0]);
        const forms = stage.store.keys(packs).map((key) => originalPack(key).pack);
        assert.equal(new Set(forms).size, forms.length, forms.join());
        // A backup that came too late for its base is a full one, and nothing of the first is left.
        const ofFirst = ofJob(stage, 1);
        assert.ok(ofFirst.length === 0 || ofFirst.some(([, generation]) => generation > 0));
        for (const n of living()) await stage.assertRestores(n);
      }),
      { numRuns: 40, interruptAfterTimeLimit: 6_000, markInterruptAsFailure: false },
    );
  });
});

describe("a compacted pack", () => {
  const chunk = fc.record({
    gap: fc.nat(100),
    stored: fc.uint8Array({ minLength: 1, maxLength: 60 }),
    encoding: fc.constantFrom(0 as const, 1 as const),
    hash: fc.uint8Array({ minLength: 32, maxLength: 32 }),
  });
  const some = fc.array(chunk, { minLength: 1, maxLength: 20 }).map((all) => {
    let offset = 0;
    return all.map(({ gap, stored, encoding, hash }) => {
      offset += gap;
      const entry = { hash: Buffer.from(hash).toString("hex"), offset, length: stored.length, encoding, stored };
      offset += stored.length;
      return entry;
    });
  });

  it("tells the place of each chunk, in the pack and in itself", () => {
    fc.assert(
      fc.property(some, (chunks) => {
        const object = encodeCompactedPack(chunks);
        const decoded = decodeCompactedPack(object, object.length, "pack.1");
        assert.deepEqual(
          decoded.map(({ position, ...entry }) => ({
            ...entry,
            stored: Uint8Array.from(object.subarray(position, position + entry.length)),
          })),
          chunks,
        );
      }),
    );
  });

  it("is never taken for whole when its end was changed or cut off", () => {
    fc.assert(
      fc.property(some, fc.nat(), fc.integer({ min: 1, max: 255 }), (chunks, at, flip) => {
        const object = encodeCompactedPack(chunks);
        const tail = 41 * chunks.length + 46;
        const spoilt = Buffer.from(object);
        spoilt[object.length - 1 - (at % tail)]! ^= flip;
        const cut = object.subarray(0, object.length - 1 - (at % object.length));
        for (const bytes of [spoilt, cut])
          assert.throws(
            () => decodeCompactedPack(bytes, bytes.length, "pack.1"),
            (error) => error instanceof RepositoryDamaged || error instanceof UnsupportedFormat,
          );
      }),
    );
  });
});

describe("the chunks that are live", () => {
  const place = (pack: string, at: number) => ({
    pack,
    hash: at.toString(16).padStart(64, "0"),
    offset: at,
    length: 10,
    encoding: 0 as const,
  });

  it("count once, however many pages refer to them, until a pack has enough", () => {
    const live = new LiveChunks([{ pack: "a", enoughBytes: 30 }]);
    for (const at of [0, 10, 0, 10, 10]) live.add(place("a", at));
    assert.deepEqual(
      live.packs().map(([pack, { size, bytes }]) => [pack, size, bytes]),
      [["a", 2, 20]],
    );
    live.add(place("b", 0));
    live.add(place("a", 20));
    assert.ok(live.isEmpty && !live.isOpen("a"));
  });

  it("of a pack at one place two of which are meant make nobody sure of that pack", () => {
    const live = new LiveChunks([{ pack: "a", enoughBytes: 300 }]);
    live.add(place("a", 0));
    live.add({ ...place("a", 0), hash: "f".repeat(64) });
    assert.ok(live.isEmpty);
  });

  it("never take more memory than they may: packs wait for another pass, and at least one gets on", () => {
    const names = range(0, 10).map((n) => `pack${n}`);
    const live = new LiveChunks(
      names.map((pack) => ({ pack, enoughBytes: Number.POSITIVE_INFINITY })),
      100,
    );
    for (const at of range(0, 50)) for (const pack of names) live.add(place(pack, at * 10));
    const held = live.packs().reduce((sum, [, { size }]) => sum + size, 0);
    assert.ok(held <= 100 && live.packs().length >= 1);
    assert.deepEqual([...live.packs().map(([pack]) => pack), ...live.postponed].sort(), names);
  });
});
