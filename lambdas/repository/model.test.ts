/**
 * The whole repository against a model that is nothing but the bytes of each snapshot. Volumes of any size, any writes, backups in every
 * mode, deletions and sweeps side by side, and workers that die at any request: after every step each snapshot that is there has exactly
 * its bytes, and when all has settled the store holds what these snapshots need and nothing else.
 *
 * A failure prints fast-check's seed and path. SNAPFERRY_MODEL_RUNS=1000 makes so many runs, however long they take;
 * SNAPFERRY_MODEL_SEED and SNAPFERRY_MODEL_PATH repeat one.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { DocumentReader } from "../../test/support/document-reader.ts";
import { type Death, DyingStore, WorkerDied } from "../../test/support/dying-store.ts";
import { MemoryKeyService } from "../../test/support/memory-key-service.ts";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { copyAll, never, restore, SparseVolume, smallGeometry } from "../../test/support/repository.ts";
import { HintMismatch } from "../domain/errors.ts";
import { auditHint } from "./audit.ts";
import { ensureDomain } from "./domain-record.ts";
import { type BackupTarget, pinBase, unpinJob } from "./pin.ts";
import { type Extent, writePlan } from "./planner.ts";
import { publishRoot } from "./publish.ts";
import { sampleCheck } from "./sample-check.ts";
import { deleteBackup, sweepDomain } from "./sweep.ts";
import { verifyBackup } from "./verify.ts";

/** 16 chunks to a pack, so that there is something to compact. */
const geometry = { ...smallGeometry, packBytes: 8192 };
const { chunkBytes, pageChunks } = geometry;
const pageBytes = chunkBytes * pageChunks;
const maxVolumeBytes = 5 * pageBytes + 99;
const hourMs = 60 * 60 * 1000;
/** Grain of hints and of allocated ranges: no divisor of anything, so that they begin and end within chunks. */
const blockBytes = 97;
/** A backup that nobody kills needs two attempts: the second after a hint was found wrong. */
const maxAttempts = 2;

const death: fc.Arbitrary<Death | undefined> = fc.oneof(
  { weight: 3, arbitrary: fc.constant(undefined) },
  {
    weight: 2,
    arbitrary: fc.record({ after: fc.nat(60), tookEffect: fc.boolean() }, { noNullPrototype: true }),
  },
);

interface BackupAct {
  readonly kind: "backup";
  readonly mode: "full" | "compared" | "hinted" | "hinted-wrongly";
  /** Which of the changes a wrong hint leaves out. */
  readonly leftOut: number;
  readonly death: Death | undefined;
  /** Whether another attempt follows the death; else the job is collected. */
  readonly goesOn: boolean;
  readonly verifiesFully: boolean;
}
type Act =
  | { readonly kind: "write"; readonly at: number; readonly length: number; readonly fill: number }
  | { readonly kind: "resize"; readonly to: number }
  | BackupAct
  | { readonly kind: "delete"; readonly which: number; readonly death: Death | undefined }
  | { readonly kind: "sweep"; readonly compacts: boolean; readonly death: Death | undefined };

const backupAct: fc.Arbitrary<BackupAct> = fc.record({
  kind: fc.constant("backup" as const),
  mode: fc.constantFrom("full", "compared", "compared", "hinted", "hinted", "hinted-wrongly"),
  leftOut: fc.nat(99),
  death,
  goesOn: fc.boolean(),
  verifiesFully: fc.boolean(),
});
const writeAct: fc.Arbitrary<Act> = fc.record({
  kind: fc.constant("write" as const),
  at: fc.oneof(fc.constant(0), fc.nat(maxVolumeBytes)),
  length: fc.oneof(fc.integer({ min: 1, max: 3 * chunkBytes }), fc.integer({ min: 1, max: 4 * pageBytes })),
  fill: fc.nat(19),
});
const resizeAct: fc.Arbitrary<Act> = fc.record({ kind: fc.constant("resize" as const), to: fc.nat(maxVolumeBytes) });
/** Mostly the oldest goes, and seldom the last one. */
const deleteAct: fc.Arbitrary<Act> = fc.record({ kind: fc.constant("delete" as const), which: fc.nat(9), death });
const sweepAct: fc.Arbitrary<Act> = fc.record({ kind: fc.constant("sweep" as const), compacts: fc.boolean(), death });

/** Acts of one step go on at once, but for what happens to the volume, which comes first. */
const step = fc.oneof(
  { weight: 3, arbitrary: fc.tuple(writeAct, writeAct, backupAct) },
  { weight: 2, arbitrary: fc.tuple(writeAct, backupAct, sweepAct) },
  { weight: 2, arbitrary: fc.tuple(writeAct, backupAct, deleteAct, sweepAct) },
  { weight: 1, arbitrary: fc.tuple(resizeAct, writeAct, backupAct) },
  { weight: 1, arbitrary: fc.tuple(deleteAct, sweepAct, sweepAct) },
);
const script = fc.record({
  isEncrypted: fc.boolean(),
  sizeBytes: fc.oneof(fc.nat(maxVolumeBytes), fc.integer({ min: 2 * pageBytes, max: maxVolumeBytes })),
  isAllocatedWhole: fc.boolean(),
  startsEmpty: fc.boolean(),
  deathOfCollector: death,
  steps: fc.array(step, { minLength: 1, maxLength: 9 }),
});

interface WorldOptions {
  readonly isEncrypted: boolean;
  readonly sizeBytes: number;
  /** Whether the hypervisor cannot tell what is allocated. */
  readonly isAllocatedWhole: boolean;
  readonly startsEmpty: boolean;
  /** Of every first try to collect a job. */
  readonly deathOfCollector: Death | undefined;
}

/** Bytes that the same `fill` makes again: zeros, a repeated byte, or noise. Few different ones, so that chunks occur more than once. */
function bytesOf(fill: number, length: number): Buffer {
  if (fill % 5 === 0) return Buffer.alloc(length);
  if (fill % 5 === 1) return Buffer.alloc(length, fill);
  return createHash("shake256", { outputLength: length }).update(String(fill)).digest();
}

/** Blocks of `content` that `isWanted` picks, neighbours as one range. */
function rangesOf(content: Uint8Array, isWanted: (start: number, end: number) => boolean): Extent[] {
  const ranges: { offset: number; length: number }[] = [];
  for (let start = 0; start < content.length; start += blockBytes) {
    const end = Math.min(start + blockBytes, content.length);
    const last = ranges.at(-1);
    if (!isWanted(start, end)) continue;
    if (last && last.offset + last.length === start) last.length += end - start;
    else ranges.push({ offset: start, length: end - start });
  }
  return ranges;
}

/** What change tracking tells when it tells the truth. */
function changesOf(before: Buffer, now: Buffer): Extent[] {
  return rangesOf(now, (start, end) => !before.subarray(start, end).equals(now.subarray(start, end)));
}

/** A pack's key, whether the pack lies there as it was written or in a compacted form. */
function originalPackKey(key: string): string {
  return key.replace(/^(domains\/vol\/packs\/.+)\.[1-9]$/, "$1");
}

class World {
  readonly store = new MemoryObjectStore();
  readonly #keys: MemoryKeyService | undefined;
  readonly #options: WorldOptions;
  /** What each snapshot that was ever begun has to hold. */
  readonly #contents = new Map<string, Buffer>();
  /** Jobs that may have left something behind: collected when nobody works any more. */
  readonly #unsettled: BackupTarget[] = [];
  #volume: Buffer;
  #jobs = 0;
  /** Packs that sweeps have compacted. */
  compacted = 0;

  constructor(options: WorldOptions) {
    this.#options = options;
    this.#keys = options.isEncrypted ? new MemoryKeyService() : undefined;
    this.#volume = bytesOf(options.startsEmpty ? 0 : 2, options.sizeBytes);
  }

  #target(snapshotId: string, jobId: string, dies?: Death): BackupTarget {
    const store = new DyingStore(this.store, dies);
    return { store, domain: "vol", snapshotId, jobId, ...(this.#keys && { keys: this.#keys }) };
  }

  async open(): Promise<void> {
    await ensureDomain(this.#target("none", "none"), { geometry });
  }

  /** Ids of the snapshots that are published, newest first. */
  #living(): string[] {
    const prefix = "domains/vol/roots/";
    const ids = this.store.keys(prefix).map((key) => key.slice(prefix.length));
    return ids.sort((a, b) => Number(b.slice(4)) - Number(a.slice(4)));
  }

  async take(acts: readonly Act[]): Promise<void> {
    for (const act of acts) {
      if (act.kind === "write") this.#write(act);
      if (act.kind === "resize") this.#resize(act.to);
    }
    await Promise.all(acts.map((act) => this.#unlessDead(() => this.#run(act))));
    for (const { snapshotId, jobId } of this.#unsettled.splice(0)) {
      await this.#unlessDead(() => unpinJob(this.#target(snapshotId, jobId, this.#options.deathOfCollector)));
      await unpinJob(this.#target(snapshotId, jobId));
    }
  }

  async #unlessDead(work: () => Promise<unknown>): Promise<void> {
    await work().catch((error: unknown) => {
      if (!(error instanceof WorkerDied)) throw error;
    });
  }

  #write({ at, length, fill }: { at: number; length: number; fill: number }): void {
    const written = Buffer.from(this.#volume);
    if (at < written.length) written.set(bytesOf(fill, Math.min(length, written.length - at)), at);
    this.#volume = written;
  }

  #resize(sizeBytes: number): void {
    const resized = Buffer.alloc(sizeBytes);
    this.#volume.copy(resized);
    this.#volume = resized;
  }

  async #run(act: Act): Promise<unknown> {
    if (act.kind === "backup") return this.#backUp(act);
    if (act.kind === "delete") {
      const living = this.#living();
      const isSpared = living.length < 2 && act.which > 0;
      const snapshotId = act.which < 5 ? living.at(-1) : living[act.which % living.length];
      return isSpared || snapshotId === undefined
        ? undefined
        : deleteBackup(this.#target(snapshotId, "none", act.death));
    }
    if (act.kind !== "sweep") return undefined;
    const { compacts } = act;
    this.compacted += (
      await sweepDomain(this.#target("none", "none", act.death), { until: never, compacts })
    ).compactedPacks;
    return undefined;
  }

  async #backUp(act: BackupAct): Promise<void> {
    const [snapshotId, jobId] = [`snap${++this.#jobs}`, `job${this.#jobs}`];
    const frozen = this.#volume;
    this.#contents.set(snapshotId, frozen);
    const target = this.#target(snapshotId, jobId, act.death);
    const successor = this.#target(snapshotId, jobId);
    this.#unsettled.push(successor);
    await this.#attempts(target, frozen, act).catch((error: unknown) => {
      if (!(error instanceof WorkerDied)) throw error;
      return act.goesOn ? this.#attempts(successor, frozen, act, maxAttempts + 1) : undefined;
    });
    await unpinJob(target);
  }

  async #attempts(target: BackupTarget, frozen: Buffer, act: BackupAct, first = 1): Promise<void> {
    for (let attempt = first; ; attempt++) {
      try {
        return await this.#attempt(target, frozen, act, attempt);
      } catch (error) {
        if (!(error instanceof HintMismatch) || attempt + 1 === first + maxAttempts) throw error;
        assert.equal(act.mode, "hinted-wrongly", String(error));
      }
    }
  }

  async #attempt(target: BackupTarget, frozen: Buffer, act: BackupAct, attempt: number): Promise<void> {
    const volume = this.#frozenVolume(frozen);
    const { sizeBytes } = volume;
    const candidates = act.mode === "full" ? [] : this.#living().filter((id) => id !== target.snapshotId);
    const { baseSnapshotId } = await pinBase(target, candidates.slice(0, 3), { sizeBytes });
    const changed = baseSnapshotId === undefined ? undefined : this.#hint(act, baseSnapshotId, frozen);
    const hint = changed && { changed: ReadableStream.from(changed) };
    const plan = await writePlan(target, { sizeBytes, extents: volume.allocated(), ...hint });
    const { planHash } = plan;
    await copyAll(target, plan, volume, attempt);
    if (plan.hinted) {
      const audit = { planHash, reader: volume, extents: volume.allocated(), percent: 100, until: never };
      await auditHint(target, audit);
    }
    await verifyBackup(target, { planHash, until: never, full: act.verifiesFully });
    await publishRoot(target, { planHash });
  }

  #frozenVolume(frozen: Buffer): SparseVolume {
    if (this.#options.isAllocatedWhole) return SparseVolume.of(frozen);
    const volume = new SparseVolume(frozen.length);
    const filled = rangesOf(frozen, (start, end) => frozen.subarray(start, end).some((byte) => byte !== 0));
    volume.extents.push(
      ...filled.map(({ offset, length }) => ({ offset, bytes: frozen.subarray(offset, offset + length) })),
    );
    return volume;
  }

  #hint({ mode, leftOut }: BackupAct, base: string, frozen: Buffer): Extent[] | undefined {
    const changes = changesOf(this.#contents.get(base)!, frozen);
    if (mode === "hinted") return changes;
    return mode === "hinted-wrongly" ? changes.filter((_, at) => at !== leftOut % changes.length) : undefined;
  }

  /** Every snapshot that is published has its bytes: by a restore, by a check of all its chunks, and by the document. */
  async check(): Promise<void> {
    for (const snapshotId of this.#living()) {
      const expected = this.#contents.get(snapshotId)!;
      const restored = await restore(this.#target(snapshotId, "restore"));
      assert.ok(expected.equals(await restored.content()), `${snapshotId} came back with other bytes`);
      const sample = await sampleCheck(this.#target(snapshotId, "check"), {
        percent: 100,
        seed: "model",
        until: never,
      });
      assert.deepEqual([sample.finished, sample.lost], [true, []]);
      assert.ok(expected.equals(await this.#reader().volume(snapshotId)), `${snapshotId} is not as the document says`);
    }
  }

  #reader(): DocumentReader {
    const keys = this.#keys;
    const unwrap = keys && { unwrap: (wrapped: Uint8Array) => keys.unwrap(wrapped, { domain: "vol" }) };
    return new DocumentReader({ domain: "vol", get: (key) => this.store.get(key), ...unwrap });
  }

  /** After a sweep of what nobody works on any more nothing is left that no snapshot needs, and nothing is missing. */
  async settle(): Promise<void> {
    const later = { until: never, compacts: true, now: () => Date.now() + 2 * hourMs };
    const swept = await sweepDomain(this.#target("none", "none"), later);
    assert.deepEqual([swept.finished, swept.damagedPacks], [true, []]);
    this.compacted += swept.compactedPacks;
    const needed = new Set<string>();
    for (const snapshotId of this.#living())
      for (const key of await this.#reader().neededKeys(snapshotId)) needed.add(key);
    if (needed.size > 0) needed.add("domains/vol/domain.json");
    assert.deepEqual(this.store.keys().map(originalPackKey).sort(), [...needed].sort());
  }
}

const runs = process.env.SNAPFERRY_MODEL_RUNS;
const { SNAPFERRY_MODEL_SEED: seed, SNAPFERRY_MODEL_PATH: path } = process.env;
const bounds: fc.Parameters<unknown> =
  runs === undefined
    ? { numRuns: 40, interruptAfterTimeLimit: 6_000, markInterruptAsFailure: false }
    : { numRuns: Number(runs) };

test("every snapshot keeps its bytes through whatever happens, and nothing else is kept", async () => {
  await fc.assert(
    fc.asyncProperty(script, async ({ steps, ...options }) => {
      const world = new World(options);
      await world.open();
      for (const acts of steps) {
        await world.take(acts);
        await world.check();
      }
      await world.settle();
      await world.check();
    }),
    { ...bounds, ...(seed !== undefined && { seed: Number(seed) }), ...(path !== undefined && { path }) },
  );
});
