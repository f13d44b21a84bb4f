/** Copies one shard of a volume into packs: read, compare with the base, compress, upload, all overlapped in bounded memory. */
import { VerificationFailed } from "../domain/errors.ts";
import { BasePages } from "./base-pages.ts";
import { Bitmap } from "./bitmap.ts";
import { encodeChunks } from "./codec.ts";
import type { NamedChunk } from "./codec-worker.ts";
import { readDistrusted } from "./distrust.ts";
import type { DomainCipher } from "./domain-cipher.ts";
import { ruleOutHint } from "./hint.ts";
import { KnownChunks } from "./known-chunks.ts";
import { attemptOfKey, jobKeys } from "./layout.ts";
import type { Page } from "./page.ts";
import { type ChunkLocation, PageChunks } from "./page-chunks.ts";
import type { BackupTarget } from "./pin.ts";
import { openPlan, type PlannedPage, readPlannedPages } from "./planner.ts";
import type { JobObject } from "./record.ts";
import { type Batch, readBatches, type VolumeReader } from "./shard-batches.ts";
import { type OpenPage, partialChunks, ShardOutput } from "./shard-output.ts";
import { type Checkpoint, decodeCheckpoint, decodeResult } from "./shard-state.ts";
import type { VolumeShape } from "./shard-table.ts";
import { isDamage } from "./tree.ts";

export interface ShardCopyOptions {
  readonly planHash: string;
  readonly shard: number;
  readonly attempt: number;
  readonly reader: VolumeReader;
  /** Asked before each read: true when time is short. */
  readonly until: () => boolean;
  /** Called with the bytes of this shard that are done, earlier invocations included. */
  readonly onProgress?: (bytesDone: number) => void | Promise<void>;
}

/** Batches with the codec or waiting for their turn: two for each thread of a function with two CPUs, 8 MiB. */
const batchesInFlight = 4;

/**
 * Copies the shard, or goes on where an earlier invocation stopped. With `finished: false` call again. A shard that has a result of
 * this plan is not read again. Needs less than 256 MiB of memory.
 */
export async function copyShard(
  target: BackupTarget,
  options: ShardCopyOptions,
): Promise<{ finished: boolean; bytesDone: number }> {
  const opening = openPlan(target, options.planHash);
  const keys = jobKeys(target.domain, target.jobId);
  const [plan, results, checkpoints, distrusted] = await Promise.all([
    opening,
    byAttempt(target, keys.results(options.shard)),
    byAttempt(target, keys.checkpoints(options.shard)),
    readDistrusted(
      target,
      opening.then(({ cipher }) => cipher),
    ),
  ]);
  const { cipher } = plan;
  const [isDone, pages] = await Promise.all([
    hasResult(target, results, { ...options, cipher }),
    readPlannedPages(target, plan, options.shard),
  ]);
  if (isDone) return { finished: true, bytesDone: plan.shards[options.shard]?.bytes ?? 0 };
  const resumed = await newestCheckpoint(target, checkpoints, { planHash: options.planHash, pages, cipher });
  return new ShardCopy(target, { ...options, shape: plan.shape, pages, cipher, resumed, distrusted }).run();
}

/** A worker of a plan that was dropped meanwhile may still have left one: that is of other pages. */
async function hasResult(
  target: BackupTarget,
  keys: readonly string[],
  { planHash, cipher }: { readonly planHash: string; readonly cipher: DomainCipher | undefined },
): Promise<boolean> {
  for (const key of keys) {
    const object = await target.store.get(key);
    if (object && isResultOf(planHash, object, { key, cipher })) return true;
  }
  return false;
}

function isResultOf(planHash: string, bytes: Uint8Array, object: JobObject): boolean {
  try {
    return decodeResult(bytes, object).planHash === planHash;
  } catch (error) {
    if (isDamage(error)) return false;
    throw error;
  }
}

interface Resumable {
  readonly checkpoint: Checkpoint;
  readonly partial: Page | undefined;
}

/** What attempts left of a shard, the latest first. */
async function byAttempt(target: BackupTarget, prefix: string): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of target.store.list(prefix)) keys.push(key);
  return keys.sort((a, b) => attemptOfKey(b) - attemptOfKey(a));
}

/** What a checkpoint has to be of. */
interface CheckpointedShard {
  readonly planHash: string;
  readonly pages: readonly PlannedPage[];
  readonly cipher: DomainCipher | undefined;
}

/** The first that is usable. */
async function newestCheckpoint(
  target: BackupTarget,
  keys: readonly string[],
  shard: CheckpointedShard,
): Promise<Resumable | undefined> {
  for (const key of keys) {
    const object = await target.store.get(key);
    const usable = object && usableCheckpoint(object, key, shard);
    if (usable) return usable;
  }
  return undefined;
}

/** A checkpoint only saves time: one that is damaged or of another plan is passed over. */
function usableCheckpoint(object: Uint8Array, key: string, shard: CheckpointedShard): Resumable | undefined {
  try {
    const checkpoint = decodeCheckpoint(object, { key, cipher: shard.cipher });
    const partial = partialChunks(checkpoint, key);
    const isOfPlan = checkpoint.planHash === shard.planHash && checkpoint.nextPage <= shard.pages.length;
    const page = shard.pages[checkpoint.nextPage];
    const isOfPage = partial
      ? partial.index === page?.index && partial.chunks.length === page.toRead.length
      : checkpoint.nextChunk === 0;
    return isOfPlan && isOfPage ? { checkpoint, partial } : undefined;
  } catch (error) {
    if (isDamage(error)) return undefined;
    throw error;
  }
}

/** A batch between its being read and its turn in the output. */
interface PendingBatch {
  readonly batch: Batch;
  readonly page: OpenPage;
  readonly named: Promise<NamedChunk[]>;
}

interface ShardCopyWork extends ShardCopyOptions {
  readonly shape: VolumeShape;
  readonly pages: readonly PlannedPage[];
  readonly cipher: DomainCipher | undefined;
  readonly resumed: Resumable | undefined;
  readonly distrusted: ReadonlySet<string>;
}

class ShardCopy {
  readonly #target: BackupTarget;
  readonly #work: ShardCopyWork;
  readonly #output: ShardOutput;
  readonly #basePages: BasePages;
  readonly #known = new KnownChunks((location) => this.#trusted(location) !== undefined);
  readonly #queue: PendingBatch[] = [];
  #page: OpenPage | undefined;

  constructor(target: BackupTarget, work: ShardCopyWork) {
    this.#target = target;
    this.#work = work;
    this.#output = new ShardOutput(target, {
      planHash: work.planHash,
      shard: work.shard,
      attempt: work.attempt,
      geometry: work.shape.geometry,
      cipher: work.cipher,
      resumed: work.resumed?.checkpoint,
    });
    this.#basePages = new BasePages(target, work.pages, this.#output.position.page);
  }

  async run(): Promise<{ finished: boolean; bytesDone: number }> {
    const { pages, shape, reader, until } = this.#work;
    const shard = { pages, sizeBytes: shape.sizeBytes, geometry: shape.geometry, from: this.#output.position };
    try {
      const failure = await this.#takeAll(readBatches(reader, shard, until));
      while (this.#queue.length > 0) await this.#passOn();
      const finished = this.#output.position.page === pages.length;
      await (finished ? this.#output.finish() : this.#output.pause());
      if (failure) throw failure.error;
      return { finished, bytesDone: this.#output.bytesDone };
    } finally {
      await Promise.allSettled(this.#queue.map(({ named }) => named));
      await this.#output.drain();
    }
  }

  /** Answers why reading has failed, if it has: what was read before is kept all the same. */
  async #takeAll(batches: AsyncGenerator<Batch, void, undefined>): Promise<{ readonly error: unknown } | undefined> {
    const nextOrFailure = () => batches.next().catch((error: unknown) => ({ error }));
    try {
      for (;;) {
        const next = await nextOrFailure();
        if ("error" in next) return next;
        if (next.done) return undefined;
        await this.#take(next.value);
      }
    } finally {
      await batches.return();
    }
  }

  async #take(batch: Batch): Promise<void> {
    const page = await this.#openPage(batch.page);
    const expected = batch.chunks.map((index) => this.#trusted(page.base?.chunks.at(index))?.hash);
    const { chunkBytes } = this.#work.shape.geometry;
    const chunkIdKey = this.#work.cipher?.chunkIdKey;
    const named = encodeChunks({ bytes: batch.bytes, chunkBytes, expected, chunkIdKey });
    named.catch(() => undefined);
    this.#queue.push({ batch, page, named });
    if (this.#queue.length >= batchesInFlight) await this.#passOn();
  }

  #trusted(location: ChunkLocation | undefined): ChunkLocation | undefined {
    return location && !this.#work.distrusted.has(location.pack) ? location : undefined;
  }

  async #openPage(position: number): Promise<OpenPage> {
    if (this.#page?.position === position) return this.#page;
    const planned = this.#work.pages[position]!;
    const base = await this.#basePages.at(position);
    if (this.#work.shape.hinted && planned.base !== undefined && !base)
      throw await this.#cannotFollowHint(planned.base);
    const { resumed } = this.#work;
    const partial = position === resumed?.checkpoint.nextPage ? resumed.partial : undefined;
    for (const page of [base, partial]) if (page) this.#known.addPage(page.chunks);
    this.#page = { position, planned, base, chunks: this.#chunksToBegin(planned, { base, partial }) };
    return this.#page;
  }

  /** What a page holds before any of its chunks is read. */
  #chunksToBegin(
    { toRead }: PlannedPage,
    { base, partial }: { base: Page | undefined; partial: Page | undefined },
  ): PageChunks {
    if (partial) return partial.chunks.without(new Bitmap(toRead.length));
    return this.#work.shape.hinted && base ? base.chunks.without(toRead) : PageChunks.zeros(toRead.length);
  }

  async #cannotFollowHint(basePage: string): Promise<VerificationFailed> {
    const reason = `The page ${basePage} of the base is missing or damaged`;
    await ruleOutHint(this.#target, reason);
    return new VerificationFailed(`${reason}. The next attempt reads the whole volume.`);
  }

  /** Hands the oldest batch to the output. */
  async #passOn(): Promise<void> {
    const { batch, page, named } = this.#queue.shift()!;
    const { chunkBytes } = this.#work.shape.geometry;
    for (const [at, chunk] of (await named).entries()) {
      const index = batch.chunks[at]!;
      const bytes = batch.bytes.subarray(at * chunkBytes, Math.min((at + 1) * chunkBytes, batch.length));
      const location = chunk && this.#place(page, index, chunk, bytes);
      await this.#output.add(page, {
        index,
        length: bytes.length,
        location,
        endsPage: batch.endsPage && index === batch.chunks.at(-1),
      });
    }
    batch.release();
    await this.#work.onProgress?.(this.#output.bytesDone);
  }

  /** Where the chunk lies already, or where it is put now. */
  #place(page: OpenPage, index: number, chunk: NonNullable<NamedChunk>, bytes: Uint8Array): ChunkLocation {
    const { hash, form } = chunk;
    const before = this.#trusted(page.base?.chunks.at(index));
    const known = before?.hash === hash ? before : this.#known.find(hash);
    const location =
      known ?? this.#output.store(hash, { encoding: form!.encoding, bytes: bytes.subarray(0, form!.length) });
    this.#known.add(location);
    return location;
  }
}
