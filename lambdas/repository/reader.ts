/** Restores a snapshot: shards of pages, chunks fetched with few large requests, each checked before it is written. */
import { RepositoryDamaged } from "../domain/errors.ts";
import { ByteWriter } from "./binary.ts";
import { defaultGeometry } from "./domain-record.ts";
import { InFlight } from "./in-flight.ts";
import { domainKeys, jobKeys, parsePageName } from "./layout.ts";
import { chunkLength, chunksOfPage, decodeRoot, type PageReference, type Root } from "./manifest.ts";
import type { ObjectStore } from "./object-store.ts";
import { PackReader, planRanges, type WantedChunk } from "./pack-reader.ts";
import { type Page, readPage } from "./page.ts";
import {
  encodeShardTable,
  maxShards,
  readShardPart,
  readShardTable,
  type ShardPart,
  type ShardTable,
  totalBytes,
} from "./shard-table.ts";

/** A restore: which snapshot of which domain, by which job. */
export interface RestoreSource {
  readonly store: ObjectStore;
  readonly domain: string;
  readonly snapshotId: string;
  readonly jobId: string;
}

export interface RestorePlan {
  readonly sizeBytes: number;
  readonly shardCount: number;
  /** Bytes of chunks that are not zeros: an upper bound by less than one chunk. */
  readonly bytesTotal: number;
}

/** What the repository needs of a hypervisor's writer. */
export interface VolumeWriter {
  write(data: Uint8Array, offset: number): Promise<void>;
  flush(): Promise<void>;
}

const shardBytes = 256 * 1024 * 1024;
/** Ranges of packs on their way, of at most 4 MiB each and what they unpack to. */
const rangesInFlight = 4;
/** How many ranges an error names. */
const namedRanges = 10;

/** The root of a published snapshot. Throws RepositoryDamaged when it is missing or damaged. */
export async function readRoot(source: Pick<RestoreSource, "store" | "domain" | "snapshotId">): Promise<Root> {
  const key = domainKeys(source.domain).root(source.snapshotId);
  const object = await source.store.get(key);
  if (!object) throw new RepositoryDamaged(`The backup of ${source.snapshotId} is missing: there is no object ${key}.`);
  const root = decodeRoot(object, key);
  if (root.snapshotId === source.snapshotId) return root;
  throw new RepositoryDamaged(`The object ${key} is damaged: it is the root of ${root.snapshotId}.`);
}

/** Writes the restore's work objects; a replay answers the same. */
export async function planRestore(source: RestoreSource): Promise<RestorePlan> {
  const keys = jobKeys(source.domain, source.jobId);
  const root = await readRoot(source);
  const { chunkBytes, pageChunks } = root;
  const shape = { sizeBytes: root.sizeBytes, geometry: { ...defaultGeometry, chunkBytes, pageChunks } };
  await source.store.put(keys.restorePlan, encodeShardTable(shape, cutIntoShards(root)), { ifAbsent: true });
  const table = await openRestorePlan(source);
  return {
    sizeBytes: table.sizeBytes,
    shardCount: table.shards.length,
    bytesTotal: totalBytes(table),
  };
}

/** Deletes the restore's work objects. Gone is success. */
export async function finishRestorePlan(source: Pick<RestoreSource, "store" | "domain" | "jobId">): Promise<void> {
  await source.store.deleteEveryVersionBelow(jobKeys(source.domain, source.jobId).restore);
}

function cutIntoShards(root: Root): ShardPart[] {
  const target = Math.max(shardBytes, Math.ceil(root.sizeBytes / (maxShards - 1)));
  const parts: ShardPart[] = [];
  let pages: PageReference[] = [];
  let bytes = 0;
  const close = () => {
    parts.push({ bytes, body: encodePages(pages) });
    pages = [];
    bytes = 0;
  };
  for (const page of root.pages) {
    pages.push(page);
    bytes += bytesOfPage(page, root);
    if (bytes >= target) close();
  }
  if (pages.length > 0) close();
  return parts;
}

/** Bytes of the volume in a page's chunks; exact but for a page that holds the volume's short last chunk and zeros. */
function bytesOfPage(page: PageReference, volume: Pick<Root, "sizeBytes" | "chunkBytes" | "pageChunks">): number {
  const start = page.index * volume.pageChunks * volume.chunkBytes;
  return Math.min(page.chunks * volume.chunkBytes, volume.sizeBytes - start);
}

function encodePages(pages: readonly PageReference[]): Buffer {
  const writer = new ByteWriter().u32(pages.length);
  for (const page of pages) writer.u32(page.index).text(page.name).u32(page.chunks);
  return writer.finish();
}

async function openRestorePlan(source: RestoreSource): Promise<ShardTable> {
  const key = jobKeys(source.domain, source.jobId).restorePlan;
  const table = await readShardTable(source.store, key);
  if (!table) throw new RepositoryDamaged(`The restore by ${source.jobId} is not planned: there is no object ${key}.`);
  return table;
}

async function readPages(source: RestoreSource, table: ShardTable, shard: number): Promise<PageReference[]> {
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
 * Throws RepositoryDamaged naming the object and the byte ranges of the volume that are lost.
 */
export async function restoreShard(
  source: RestoreSource,
  options: ShardRestoreOptions,
): Promise<{ finished: boolean; next?: number; bytesDone: number }> {
  const table = await openRestorePlan(source);
  const pages = await readPages(source, table, options.shard);
  const volume = { sizeBytes: table.sizeBytes, ...table.geometry };
  let next = options.from ?? 0;
  let bytesDone = pages.slice(0, next).reduce((sum, page) => sum + bytesOfPage(page, volume), 0);
  for (; next < pages.length && !options.until(); next++) {
    const page = pages[next]!;
    await restorePage(source, page, { volume, writer: options.writer });
    bytesDone += bytesOfPage(page, volume);
    await options.onProgress?.(bytesDone);
  }
  await options.writer.flush();
  return next < pages.length ? { finished: false, next, bytesDone } : { finished: true, bytesDone };
}

type Volume = Pick<Root, "sizeBytes" | "chunkBytes" | "pageChunks">;

async function restorePage(
  source: RestoreSource,
  reference: PageReference,
  output: { readonly volume: Volume; readonly writer: VolumeWriter },
): Promise<void> {
  const page = await readReferencedPage(source, reference, output.volume);
  const packs = new PackReader(source.store, source.domain);
  const lost: WantedChunk[] = [];
  const flights = new InFlight(rangesInFlight);
  try {
    for (const range of planRanges(wantedChunks(page, output.volume))) {
      await flights.launch(() =>
        packs.read(range, async (chunk, bytes) => {
          if (bytes) await output.writer.write(bytes, chunk.volumeOffset);
          else lost.push(chunk);
        }),
      );
    }
    await flights.settle();
  } finally {
    await flights.drain();
  }
  if (lost.length > 0) throw lostChunks(source.domain, lost);
}

async function readReferencedPage(source: RestoreSource, reference: PageReference, volume: Volume): Promise<Page> {
  const chunks = chunksOfPage(reference.index, volume);
  const first = reference.index * volume.pageChunks * volume.chunkBytes;
  const range = `${first}-${Math.min(first + chunks * volume.chunkBytes, volume.sizeBytes) - 1}`;
  try {
    const page = await readPage(source.store, source.domain, reference.name);
    if (page.index === reference.index && page.chunks.length === chunks) return page;
  } catch (error) {
    if (!(error instanceof RepositoryDamaged)) throw error;
    throw new RepositoryDamaged(`${error.message} Bytes ${range} of the volume are lost.`, { cause: error });
  }
  throw new RepositoryDamaged(`The page ${reference.name} is of another place. Bytes ${range} of the volume are lost.`);
}

function wantedChunks(page: Page, volume: Volume): WantedChunk[] {
  const firstChunk = page.index * volume.pageChunks;
  return page.chunks.flatMap((chunk, index) => {
    if (!chunk) return [];
    const volumeLength = chunkLength(firstChunk + index, volume);
    const length = Math.min(chunk.length, volumeLength);
    return [{ ...chunk, length, volumeOffset: (firstChunk + index) * volume.chunkBytes, volumeLength }];
  });
}

function lostChunks(domain: string, lost: readonly WantedChunk[]): RepositoryDamaged {
  const objects = [...new Set(lost.map((chunk) => domainKeys(domain).pack(chunk.pack)))].sort();
  const ranges = joinRanges(lost);
  const named = ranges.slice(0, namedRanges).map(({ first, end }) => `${first}-${end - 1}`);
  const more = ranges.length > namedRanges ? ` and ${ranges.length - namedRanges} more ranges` : "";
  const verb = objects.length > 1 ? "objects are" : "object is";
  return new RepositoryDamaged(
    `The ${verb} missing or damaged: ${objects.slice(0, namedRanges).join(", ")}. Bytes ${named.join(", ")}${more} of the volume are lost.`,
  );
}

function joinRanges(lost: readonly WantedChunk[]): { first: number; end: number }[] {
  const ranges: { first: number; end: number }[] = [];
  for (const chunk of lost.toSorted((a, b) => a.volumeOffset - b.volumeOffset)) {
    const last = ranges.at(-1);
    const end = chunk.volumeOffset + chunk.volumeLength;
    if (last?.end === chunk.volumeOffset) last.end = end;
    else ranges.push({ first: chunk.volumeOffset, end });
  }
  return ranges;
}
