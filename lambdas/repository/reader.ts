/** Restores a snapshot: shards of pages, chunks fetched with few large requests, each checked before it is written. */
import { RepositoryDamaged } from "../domain/errors.ts";
import { ByteWriter } from "./binary.ts";
import type { PageReference } from "./branch.ts";
import { type LostRange, lostRanges } from "./damage.ts";
import { type DomainCipher, openCipher } from "./domain-cipher.ts";
import { type DomainLocation, geometryFor } from "./domain-record.ts";
import { InFlight, mapAhead } from "./in-flight.ts";
import { domainKeys, jobKeys, parsePageName } from "./layout.ts";
import { Losses } from "./losses.ts";
import { lossOf } from "./lost-packs.ts";
import { decodeRoot, type Root } from "./manifest.ts";
import { lostChunk, PackReader, planRanges, wantedChunks } from "./pack-reader.ts";
import type { Page } from "./page.ts";
import {
  encodeShardTable,
  maxShards,
  readShardPart,
  readShardTable,
  type ShardPart,
  type ShardTable,
  totalBytes,
  type VolumeShape,
} from "./shard-table.ts";
import { foundReferences, isDamage, readReferencedPage, type Volume } from "./tree.ts";

/** A restore: which snapshot of which domain, by which job. */
export interface RestoreSource extends DomainLocation {
  readonly snapshotId: string;
  readonly jobId: string;
  /** Restores all that is left of a damaged backup: what is lost stays zeros and is told. */
  readonly salvage?: boolean;
}

export interface RestorePlan {
  readonly sizeBytes: number;
  readonly shardCount: number;
  /** Bytes of chunks that are not zeros: an upper bound by less than one chunk. */
  readonly bytesTotal: number;
  /** With `salvage`: what is lost with branches. */
  readonly lost: readonly LostRange[];
}

/** What the repository needs of a hypervisor's writer. */
export interface VolumeWriter {
  write(data: Uint8Array, offset: number): Promise<void>;
  flush(): Promise<void>;
}

const shardBytes = 256 * 1024 * 1024;
/** Ranges of packs on their way, each with 8 MiB of memory. Of 1.3 MiB each, with 20 ms a request, they bring 500 MB/s. */
const rangesInFlight = 8;
/** Pages read ahead of the one whose chunks are being fetched. */
const pagesAhead = 2;

/** The root of a published snapshot. Throws RepositoryDamaged when it is missing or damaged. */
export async function readRoot(
  source: Pick<RestoreSource, "store" | "domain" | "snapshotId" | "keys" | "mayBeUnencrypted">,
): Promise<Root> {
  const key = domainKeys(source.domain).root(source.snapshotId);
  const object = await source.store.get(key);
  if (!object) throw new RepositoryDamaged(`The backup of ${source.snapshotId} is missing: there is no object ${key}.`);
  const root = decodeRoot(object, key);
  if (root.snapshotId !== source.snapshotId)
    throw new RepositoryDamaged(`The object ${key} is damaged: it is the root of ${root.snapshotId}.`);
  const cipher = source.keys && (await openCipher(source, root.wrappedKey));
  return cipher ? decodeRoot(object, key, cipher) : root;
}

/** Writes the restore's work objects; a replay answers the same. */
export async function planRestore(source: RestoreSource): Promise<RestorePlan> {
  const key = jobKeys(source.domain, source.jobId).restorePlan;
  const known = await readShardTable(source, key);
  const losses: LostRange[] = [];
  if (!known || source.salvage) {
    const root = await readRoot(source);
    const { chunkBytes, pageChunks, sizeBytes, wrappedKey } = root;
    const geometry = { ...geometryFor(sizeBytes), chunkBytes, pageChunks };
    const shape = { sizeBytes, geometry, wrappedKey, hinted: false };
    const object = { key, cipher: await openCipher(source, wrappedKey) };
    const plan = encodeShardTable(shape, await cutIntoShards(source, root, losses), object);
    await source.store.put(key, plan, { ifAbsent: true });
  }
  const table = known ?? (await openRestorePlan(source));
  const { shape, shards } = table;
  return { sizeBytes: shape.sizeBytes, shardCount: shards.length, bytesTotal: totalBytes(table), lost: losses };
}

/** Deletes the restore's work objects. Gone is success. */
export async function finishRestorePlan(source: Pick<RestoreSource, "store" | "domain" | "jobId">): Promise<void> {
  await source.store.deleteEveryVersionBelow(jobKeys(source.domain, source.jobId).restore);
}

/** Throws RepositoryDamaged naming all branches that are missing or damaged and the byte ranges of the volume that are lost; of a salvage they come to `losses`. */
async function cutIntoShards(source: RestoreSource, root: Root, losses: LostRange[]): Promise<ShardPart[]> {
  const target = Math.max(shardBytes, Math.ceil(root.sizeBytes / (maxShards - 1)));
  const parts: ShardPart[] = [];
  let pages: PageToRestore[] = [];
  let bytes = 0;
  const close = () => {
    parts.push({ bytes, body: encodePages(pages) });
    pages = [];
    bytes = 0;
  };
  for await (const { page, lost } of foundReferences(source, root)) {
    if (lost) losses.push(lost);
    if (!page) continue;
    pages.push(page);
    bytes += bytesOfPage(page, root);
    if (bytes >= target) close();
  }
  if (losses.length > 0 && !source.salvage) throw lostRanges(losses);
  if (pages.length > 0) close();
  return parts;
}

/** Bytes of the volume in a page's chunks; exact but for a page that holds the volume's short last chunk and zeros. */
function bytesOfPage(page: PageToRestore, volume: Pick<Root, "sizeBytes" | "chunkBytes" | "pageChunks">): number {
  const start = page.index * volume.pageChunks * volume.chunkBytes;
  return Math.min(page.chunks * volume.chunkBytes, volume.sizeBytes - start);
}

type PageToRestore = Pick<PageReference, "index" | "name" | "chunks">;

function encodePages(pages: readonly PageToRestore[]): Buffer {
  const writer = new ByteWriter().u32(pages.length);
  for (const page of pages) writer.u32(page.index).text(page.name).u32(page.chunks);
  return writer.finish();
}

async function openRestorePlan(source: RestoreSource): Promise<ShardTable> {
  const key = jobKeys(source.domain, source.jobId).restorePlan;
  const table = await readShardTable(source, key);
  if (!table) throw new RepositoryDamaged(`The restore by ${source.jobId} is not planned: there is no object ${key}.`);
  return table;
}

async function readPages(source: RestoreSource, table: ShardTable, shard: number): Promise<PageToRestore[]> {
  const part = await readShardPart(source.store, jobKeys(source.domain, source.jobId).restorePlan, table, shard);
  const pages = Array.from({ length: part.count(10) }, () => {
    const page = { index: part.u32(), name: part.text(), chunks: part.u32() };
    if (!parsePageName(page.name)) throw part.damaged("a page in it has no proper name");
    return page;
  });
  part.end();
  return pages;
}

export interface ShardRestoreOptions {
  readonly shard: number;
  /** `next` of the call before. */
  readonly from?: number;
  readonly writer: VolumeWriter;
  /** Asked before each page: true when time is short. */
  readonly until: () => boolean;
  /** Called with the bytes of this shard that are done, those of earlier calls included. */
  readonly onProgress?: (bytesDone: number) => void | Promise<void>;
}

/**
 * Writes the shard's chunks into the volume and flushes them; zeros are not written. With `finished: false` call again `from: next`.
 * Throws RepositoryDamaged naming the object and the byte ranges of the volume that are lost, those outside of this shard included. A salvage goes on, and answers
 * what this call has found lost.
 */
export async function restoreShard(
  source: RestoreSource,
  options: ShardRestoreOptions,
): Promise<{ finished: boolean; next?: number; bytesDone: number; lost: readonly LostRange[] }> {
  const table = await openRestorePlan(source);
  const { shape, cipher } = table;
  const pages = await readPages(source, table, options.shard);
  const restore = new ShardRestore(source, { ...options, shape, pages, cipher });
  const next = await restore.run();
  await options.writer.flush();
  const { bytesDone, lost } = restore;
  return next < pages.length ? { finished: false, next, bytesDone, lost } : { finished: true, bytesDone, lost };
}

interface ShardRestoreWork extends ShardRestoreOptions {
  readonly shape: VolumeShape;
  readonly pages: readonly PageToRestore[];
  readonly cipher: DomainCipher | undefined;
}

class ShardRestore {
  readonly #source: RestoreSource;
  readonly #work: ShardRestoreWork;
  readonly #volume: Volume;
  readonly #packs: PackReader;
  readonly #flights = new InFlight(rangesInFlight);
  readonly #losses = new Losses();
  bytesDone: number;

  constructor(source: RestoreSource, work: ShardRestoreWork) {
    this.#source = source;
    this.#work = work;
    this.#volume = { sizeBytes: work.shape.sizeBytes, ...work.shape.geometry };
    this.#packs = new PackReader(source, work.cipher);
    this.bytesDone = work.pages
      .slice(0, work.from ?? 0)
      .reduce((sum, page) => sum + bytesOfPage(page, this.#volume), 0);
  }

  /** The position after the last page that is written. Requests of neighbouring pages overlap. */
  async run(): Promise<number> {
    let next = this.#work.from ?? 0;
    const read = (page: PageToRestore) => readReferencedPage(this.#source, page, this.#volume);
    try {
      for await (const { page, lost } of mapAhead(this.#work.pages.slice(next), pagesAhead, read)) {
        if (this.#hasFailed || this.#work.until()) break;
        if (lost) this.#losses.add([lost]);
        if (page) await this.#fetch(page);
        this.bytesDone += bytesOfPage(this.#work.pages[next]!, this.#volume);
        next += 1;
        await this.#work.onProgress?.(this.bytesDone);
      }
      await this.#flights.settle();
    } finally {
      await this.#flights.drain();
    }
    if (this.#hasFailed) throw await this.#loss();
    return next;
  }

  get lost(): readonly LostRange[] {
    return this.#losses.list();
  }

  get #hasFailed(): boolean {
    return this.#losses.any && !this.#source.salvage;
  }

  async #loss(): Promise<Error> {
    try {
      const root = await readRoot(this.#source);
      return await lossOf(this.#source, root, { lost: this.lost, stopped: this.#work.until });
    } catch (error) {
      if (isDamage(error)) return lostRanges(this.lost, { andMore: true });
      throw error;
    }
  }

  async #fetch(page: Page): Promise<void> {
    for (const range of planRanges(wantedChunks(page, this.#volume))) {
      await this.#flights.launch(async () => {
        const missing = await this.#packs.read(range, ({ bytes, volumeOffset }) =>
          this.#work.writer.write(bytes, volumeOffset),
        );
        this.#losses.add(missing.map((chunk) => lostChunk(this.#source.domain, chunk)));
      });
    }
  }
}
