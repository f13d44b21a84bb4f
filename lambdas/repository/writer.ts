/** Copies one shard of a volume into packs: read, compare with the base, compress, upload, all overlapped in bounded memory. */
import { RepositoryDamaged, UnsupportedFormat } from "../domain/errors.ts";
import { BasePages } from "./base-pages.ts";
import { chunkHash, type EncodedChunk, encodeChunk, isZero } from "./chunk.ts";
import { readDistrusted } from "./distrust.ts";
import { attemptOfKey, jobKeys } from "./layout.ts";
import type { Page } from "./page.ts";
import type { BackupTarget } from "./pin.ts";
import { openPlan, type PlannedPage, readPlannedPages } from "./planner.ts";
import { type OpenPage, type PendingLocation, partialChunks, ShardOutput } from "./shard-output.ts";
import { type Checkpoint, decodeCheckpoint } from "./shard-state.ts";
import type { ShardTable } from "./shard-table.ts";
import { type Run, readRuns, type VolumeReader } from "./volume-runs.ts";

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

/** Chunks being compressed or waiting for their turn: four times the thread pool's threads, 4 MiB. */
const chunksInFlight = 16;

/**
 * Copies the shard, or goes on where an earlier invocation stopped. With `finished: false` call again. A shard that has a result is
 * not read again. Needs less than 256 MiB of memory.
 */
export async function copyShard(
  target: BackupTarget,
  options: ShardCopyOptions,
): Promise<{ finished: boolean; bytesDone: number }> {
  const plan = await openPlan(target, options.planHash);
  if (await hasResult(target, options.shard))
    return { finished: true, bytesDone: plan.shards[options.shard]?.bytes ?? 0 };
  const pages = await readPlannedPages(target, plan, options.shard);
  const resumed = await newestCheckpoint(target, options, pages);
  const distrusted = await readDistrusted(target);
  return new ShardCopy(target, { ...options, plan, pages, resumed, distrusted }).run();
}

async function hasResult(target: BackupTarget, shard: number): Promise<boolean> {
  for await (const _ of target.store.list(jobKeys(target.domain, target.jobId).results(shard))) return true;
  return false;
}

interface Resumable {
  readonly checkpoint: Checkpoint;
  readonly partial: Page | undefined;
}

/** The checkpoint of the latest attempt that has a usable one. */
async function newestCheckpoint(
  target: BackupTarget,
  options: ShardCopyOptions,
  pages: readonly PlannedPage[],
): Promise<Resumable | undefined> {
  const keys: string[] = [];
  for await (const { key } of target.store.list(jobKeys(target.domain, target.jobId).checkpoints(options.shard))) {
    keys.push(key);
  }
  for (const key of keys.sort((a, b) => attemptOfKey(b) - attemptOfKey(a))) {
    const object = await target.store.get(key);
    const usable = object && usableCheckpoint(object, key, { planHash: options.planHash, pages });
    if (usable) return usable;
  }
  return undefined;
}

/** A checkpoint only saves time: one that is damaged or of another plan is passed over. */
function usableCheckpoint(
  object: Uint8Array,
  key: string,
  shard: { planHash: string; pages: readonly PlannedPage[] },
): Resumable | undefined {
  try {
    const checkpoint = decodeCheckpoint(object, key);
    const partial = partialChunks(checkpoint, key);
    const isOfPlan = checkpoint.planHash === shard.planHash && checkpoint.nextPage <= shard.pages.length;
    const page = shard.pages[checkpoint.nextPage];
    const isOfPage = !partial || (partial.index === page?.index && partial.chunks.length === page.allocated.length);
    return isOfPlan && isOfPage ? { checkpoint, partial } : undefined;
  } catch (error) {
    if (error instanceof RepositoryDamaged || error instanceof UnsupportedFormat) return undefined;
    throw error;
  }
}

/** A chunk between its being read and its turn in the output. */
interface PendingChunk {
  readonly page: OpenPage;
  readonly index: number;
  readonly length: number;
  readonly location: PendingLocation | undefined;
  readonly encoding: Promise<EncodedChunk> | undefined;
  readonly endsPage: boolean;
  /** Set on the last chunk of a run. */
  readonly endRun: (() => void) | undefined;
}

interface ShardCopyWork extends ShardCopyOptions {
  readonly plan: ShardTable;
  readonly pages: readonly PlannedPage[];
  readonly resumed: Resumable | undefined;
  readonly distrusted: ReadonlySet<string>;
}

class ShardCopy {
  readonly #work: ShardCopyWork;
  readonly #output: ShardOutput;
  readonly #basePages: BasePages;
  /** Chunks of the base's pages read so far and of this shard, by hash. */
  readonly #known = new Map<string, PendingLocation>();
  readonly #queue: PendingChunk[] = [];
  #page: OpenPage | undefined;

  constructor(target: BackupTarget, work: ShardCopyWork) {
    this.#work = work;
    this.#output = new ShardOutput(target, {
      planHash: work.planHash,
      shard: work.shard,
      attempt: work.attempt,
      geometry: work.plan.geometry,
      resumed: work.resumed?.checkpoint,
    });
    this.#basePages = new BasePages(target, work.pages, this.#output.position.page);
  }

  async run(): Promise<{ finished: boolean; bytesDone: number }> {
    const { pages, plan, reader, until } = this.#work;
    const shard = { pages, sizeBytes: plan.sizeBytes, geometry: plan.geometry, from: this.#output.position };
    try {
      for await (const run of readRuns(reader, shard, until)) await this.#take(run);
      while (this.#queue.length > 0) await this.#passOn();
      const finished = this.#output.position.page === pages.length;
      await (finished ? this.#output.finish() : this.#output.pause());
      return { finished, bytesDone: this.#output.bytesDone };
    } finally {
      await Promise.allSettled(this.#queue.map((chunk) => chunk.encoding));
      await this.#output.drain();
    }
  }

  async #take(run: Run): Promise<void> {
    const page = await this.#openPage(run.page);
    const { chunkBytes } = this.#work.plan.geometry;
    const lastOfPage = page.planned.allocated.lastIndexOf(true);
    for (let at = 0; at < run.chunks; at++) {
      const bytes = run.bytes.subarray(at * chunkBytes, Math.min((at + 1) * chunkBytes, run.length));
      const index = run.chunk + at;
      const place = { page, index, length: bytes.length, endsPage: index === lastOfPage };
      const endRun = at === run.chunks - 1 ? run.release : undefined;
      this.#queue.push({ ...place, ...this.#identify(page, index, bytes), endRun });
      if (this.#queue.length >= chunksInFlight) await this.#passOn();
    }
  }

  async #openPage(position: number): Promise<OpenPage> {
    if (this.#page?.position === position) return this.#page;
    const planned = this.#work.pages[position]!;
    const base = await this.#basePages.at(position);
    const { resumed } = this.#work;
    const partial = position === resumed?.checkpoint.nextPage ? resumed.partial : undefined;
    const chunks = new Array<OpenPage["chunks"][number]>(planned.allocated.length).fill(undefined);
    for (const [index, chunk] of partial?.chunks.entries() ?? []) chunks[index] = chunk;
    for (const chunk of [...(base?.chunks ?? []), ...chunks]) {
      if (chunk && !this.#work.distrusted.has(chunk.pack)) this.#known.set(chunk.hash, chunk);
    }
    this.#page = { position, planned, base, chunks };
    return this.#page;
  }

  /** Where the chunk lies already, or the start of putting it somewhere. */
  #identify(page: OpenPage, index: number, bytes: Uint8Array): Pick<PendingChunk, "location" | "encoding"> {
    if (isZero(bytes)) return { location: undefined, encoding: undefined };
    const hash = chunkHash(bytes);
    const before = page.base?.chunks[index];
    if (before?.hash === hash && !this.#work.distrusted.has(before.pack))
      return { location: before, encoding: undefined };
    const known = this.#known.get(hash);
    if (known) return { location: known, encoding: undefined };
    const location: PendingLocation = { hash, pack: "", offset: 0, length: 0, encoding: 0 };
    this.#known.set(hash, location);
    const encoding = encodeChunk(bytes);
    encoding.catch(() => undefined);
    return { location, encoding };
  }

  /** Hands the oldest chunk to the output. */
  async #passOn(): Promise<void> {
    const { page, index, length, location, encoding, endsPage, endRun } = this.#queue.shift()!;
    const encoded = await encoding;
    await this.#output.add(page, { index, length, location, endsPage, ...(encoded && { encoded }) });
    endRun?.();
    if (endRun) await this.#work.onProgress?.(this.#output.bytesDone);
  }
}
