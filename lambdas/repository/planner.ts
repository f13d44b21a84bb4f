/** The plan of a backup: which pages hold allocated data, cut into shards that one worker each copies. */
import { VerificationFailed } from "../domain/errors.ts";
import { type ByteReader, ByteWriter } from "./binary.ts";
import type { Geometry } from "./domain-record.ts";
import { jobKeys, parsePageName } from "./layout.ts";
import { chunkLength, chunksOfPage } from "./manifest.ts";
import { decodeBitmap, encodeBitmap } from "./page.ts";
import { type BackupTarget, readPinnedBase } from "./pin.ts";
import {
  encodeShardTable,
  maxShards,
  readShardPart,
  readShardTable,
  type ShardPart,
  type ShardTable,
  totalBytes,
} from "./shard-table.ts";

/** A range of a volume, bytes. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
}

/** A page with allocated data. */
export interface PlannedPage {
  readonly index: number;
  /** For each chunk of the page whether any of its bytes is allocated. */
  readonly allocated: readonly boolean[];
  /** The base's page at the same place. */
  readonly base?: string;
}

export interface PlanSummary {
  readonly planHash: string;
  readonly shardCount: number;
  /** Bytes of the volume in chunks with allocated data. */
  readonly bytesTotal: number;
}

/** A shard is closed when it has so many allocated bytes: two to three seconds of copying, and one page where all is allocated. */
const shardBytes = 256 * 1024 * 1024;

/**
 * Writes the plan of the job once; every later call answers the same, whatever extents it brings. `extents` are the allocated ranges,
 * ascending and not overlapping. Needs memory in proportion to allocated pages (about 250 bytes each).
 */
export async function writePlan(
  target: BackupTarget,
  volume: { readonly sizeBytes: number; readonly extents: AsyncIterable<Extent> },
): Promise<PlanSummary> {
  const keys = jobKeys(target.domain, target.jobId);
  const known = await readShardTable(target.store, keys.plan);
  if (!known) {
    const { geometry, base } = await readPinnedBase(target);
    const basePages = new Map(base?.pages.map((page) => [page.index, page.name]));
    const shape = { sizeBytes: volume.sizeBytes, geometry };
    const parts = await cutIntoShards(withBase(allocatedPages(volume.extents, shape), basePages), shape);
    await target.store.put(keys.plan, encodeShardTable(shape, parts), { ifAbsent: true });
  }
  const table = known ?? (await openPlan(target));
  return {
    planHash: table.hash,
    shardCount: table.shards.length,
    bytesTotal: totalBytes(table),
  };
}

/** The plan of the job. Throws VerificationFailed when there is none, or another one than `planHash` names. */
export async function openPlan(target: BackupTarget, planHash?: string): Promise<ShardTable> {
  const table = await readShardTable(target.store, jobKeys(target.domain, target.jobId).plan);
  if (!table) throw new VerificationFailed(`The job ${target.jobId} has no plan, or was collected.`);
  if (planHash !== undefined && table.hash !== planHash) {
    throw new VerificationFailed(`The plan of the job ${target.jobId} is not ${planHash}.`);
  }
  return table;
}

/** The pages of one shard. */
export async function readPlannedPages(target: BackupTarget, table: ShardTable, shard: number): Promise<PlannedPage[]> {
  const part = await readShardPart(target.store, jobKeys(target.domain, target.jobId).plan, table, shard);
  const pages = Array.from({ length: part.count(6) }, () => decodePlannedPage(part, table));
  part.end();
  return pages;
}

interface VolumeShape {
  readonly sizeBytes: number;
  readonly geometry: Geometry;
}

function chunksIn(index: number, shape: VolumeShape): number {
  return chunksOfPage(index, { sizeBytes: shape.sizeBytes, ...shape.geometry });
}

async function* allocatedPages(extents: AsyncIterable<Extent>, shape: VolumeShape): AsyncGenerator<PlannedPage> {
  const { chunkBytes, pageChunks } = shape.geometry;
  let current: { index: number; allocated: boolean[] } | undefined;
  let position = 0;
  for await (const extent of extents) {
    checkExtent(extent, position, shape.sizeBytes);
    position = extent.offset + extent.length;
    if (extent.length === 0) continue;
    const last = Math.floor((position - 1) / chunkBytes);
    for (let chunk = Math.floor(extent.offset / chunkBytes); chunk <= last; chunk++) {
      const index = Math.floor(chunk / pageChunks);
      if (current?.index !== index) {
        if (current) yield current;
        current = { index, allocated: new Array<boolean>(chunksIn(index, shape)).fill(false) };
      }
      current.allocated[chunk % pageChunks] = true;
    }
  }
  if (current) yield current;
}

function checkExtent(extent: Extent, position: number, sizeBytes: number): void {
  const inOrder = extent.offset >= position && extent.length >= 0;
  if (!inOrder || extent.offset + extent.length > sizeBytes) {
    throw new RangeError(
      `The extent at ${extent.offset} of ${extent.length} bytes is out of order or outside of the volume.`,
    );
  }
}

async function* withBase(
  pages: AsyncIterable<PlannedPage>,
  base: ReadonlyMap<number, string>,
): AsyncGenerator<PlannedPage> {
  for await (const page of pages) {
    const name = base.get(page.index);
    yield name === undefined ? page : { ...page, base: name };
  }
}

async function cutIntoShards(pages: AsyncIterable<PlannedPage>, shape: VolumeShape): Promise<ShardPart[]> {
  const target = Math.max(shardBytes, Math.ceil(shape.sizeBytes / (maxShards - 1)));
  const parts: ShardPart[] = [];
  let shard = { bytes: 0, pages: 0, body: new ByteWriter() };
  const close = () => {
    const body = new ByteWriter().u32(shard.pages).bytes(shard.body.finish()).finish();
    parts.push({ bytes: shard.bytes, body });
    shard = { bytes: 0, pages: 0, body: new ByteWriter() };
  };
  for await (const page of pages) {
    encodePlannedPage(shard.body, page);
    shard.pages += 1;
    shard.bytes += allocatedBytes(page, shape);
    if (shard.bytes >= target) close();
  }
  if (shard.pages > 0) close();
  return parts;
}

/** Bytes of the volume in the allocated chunks of a page. */
function allocatedBytes(page: PlannedPage, shape: VolumeShape): number {
  const volume = { sizeBytes: shape.sizeBytes, chunkBytes: shape.geometry.chunkBytes };
  const first = page.index * shape.geometry.pageChunks;
  return page.allocated.reduce((sum, isAllocated, at) => sum + (isAllocated ? chunkLength(first + at, volume) : 0), 0);
}

function encodePlannedPage(writer: ByteWriter, page: PlannedPage): void {
  writer
    .u32(page.index)
    .text(page.base ?? "")
    .bytes(encodeBitmap(page.allocated));
}

function decodePlannedPage(reader: ByteReader, table: ShardTable): PlannedPage {
  const index = reader.u32();
  const base = reader.text();
  const chunks = chunksIn(index, table);
  if (chunks <= 0 || (base !== "" && !parsePageName(base))) throw reader.damaged("a page in it makes no sense");
  const allocated = decodeBitmap(reader.bytes(Math.ceil(chunks / 8)), chunks);
  return base === "" ? { index, allocated } : { index, allocated, base };
}
