/** The plan of a backup: which chunks are to be read, page by page, cut into shards that one worker each copies. */
import { RepositoryDamaged, VerificationFailed } from "../domain/errors.ts";
import { type ByteReader, ByteWriter } from "./binary.ts";
import { Bitmap } from "./bitmap.ts";
import type { PageReference } from "./branch.ts";
import { dropPlan, hintIsRuledOut } from "./hint.ts";
import { jobKeys, parsePageName } from "./layout.ts";
import { chunkLength, chunksOfPage, type Root } from "./manifest.ts";
import { type BackupTarget, readPinnedBase } from "./pin.ts";
import {
  decodeShardTable,
  encodeShardTable,
  maxShards,
  readShardPart,
  readShardTable,
  type ShardPart,
  type ShardTable,
  totalBytes,
  type VolumeShape,
} from "./shard-table.ts";
import { pagesOf } from "./tree.ts";

/** A range of a volume, bytes. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
}

/** A page with chunks to be read. */
export interface PlannedPage {
  readonly index: number;
  /** For each chunk of the page whether it is to be read. The others are as in the base in a hinted plan, else zeros. */
  readonly toRead: Bitmap;
  /** The base's page at the same place. */
  readonly base?: string;
}

/** What is known of a volume before it is read. Extents are ascending and do not overlap. */
export interface VolumeToPlan {
  readonly sizeBytes: number;
  /** The allocated ranges; all others are zeros. */
  readonly extents: AsyncIterable<Extent>;
  /**
   * The hint of change tracking: every range that may differ from the pinned base, discarded ones included. It is not used when
   * there is no base or when it was proven wrong before.
   */
  readonly changed?: AsyncIterable<Extent>;
}

export interface PlanSummary {
  readonly planHash: string;
  readonly shardCount: number;
  /** Bytes of the volume that will be read. */
  readonly bytesTotal: number;
  /** Whether only what the hint calls changed is read. Then `auditHint` belongs before the publication. */
  readonly hinted: boolean;
}

/** A shard is closed when it has so many bytes to read: one to two seconds of copying. */
const shardBytes = 256 * 1024 * 1024;

/**
 * Writes the plan of the job once; every later call answers the same, whatever extents it brings, unless the hint was ruled out. Needs
 * memory in proportion to the pages with something to read (about 250 bytes each).
 */
export async function writePlan(target: BackupTarget, volume: VolumeToPlan): Promise<PlanSummary> {
  const key = jobKeys(target.domain, target.jobId).plan;
  const table = (await usablePlan(target, key)) ?? (await putPlan(target, volume));
  return {
    planHash: table.hash,
    shardCount: table.shards.length,
    bytesTotal: totalBytes(table),
    hinted: table.shape.hinted,
  };
}

/** Answers the plan that counts: another worker's, if that was sooner. */
async function putPlan(target: BackupTarget, volume: VolumeToPlan): Promise<ShardTable> {
  const [{ domain, base }, changed] = await Promise.all([
    readPinnedBase(target, volume),
    usableHint(target, volume.changed),
  ]);
  const object = { key: jobKeys(target.domain, target.jobId).plan, cipher: domain.encryption?.cipher };
  const { shape, parts } = await makePlan(target, volume, { domain, base, changed });
  const plan = encodeShardTable(shape, parts, object);
  const outcome = await target.store.put(object.key, plan, { ifAbsent: true });
  return outcome === "written" ? decodeShardTable(plan, object) : openPlan(target);
}

/** The plan that is there. A hinted one whose hint was ruled out is dropped, with what was made by it. */
async function usablePlan(target: BackupTarget, key: string): Promise<ShardTable | undefined> {
  const known = await readShardTable(target, key);
  if (!known?.shape.hinted || !(await hintIsRuledOut(target))) return known;
  await dropPlan(target);
  return undefined;
}

/** The hint, unless there is none or it was ruled out. */
async function usableHint(
  target: BackupTarget,
  changed: VolumeToPlan["changed"],
): Promise<AsyncIterable<Extent> | undefined> {
  return changed && !(await hintIsRuledOut(target)) ? changed : undefined;
}

interface Plan {
  readonly shape: VolumeShape;
  readonly parts: readonly ShardPart[];
}

async function makePlan(
  target: BackupTarget,
  volume: Pick<VolumeToPlan, "sizeBytes" | "extents">,
  {
    domain,
    base,
    changed,
  }: Awaited<ReturnType<typeof readPinnedBase>> & { changed: AsyncIterable<Extent> | undefined },
): Promise<Plan> {
  const shape: VolumeShape = {
    sizeBytes: volume.sizeBytes,
    geometry: domain.geometry,
    wrappedKey: domain.encryption?.wrappedKey ?? new Uint8Array(),
    hinted: false,
  };
  const hinted = base && changed && (await makeHintedPlan(target, base, { ...shape, hinted: true }, changed));
  if (hinted) return hinted;
  const basePages = base ? pagesOf(target, base, { skipDamaged: true }) : noPages();
  return { shape, parts: await cutIntoShards(withBase(pagesToRead(volume.extents, shape), basePages), shape) };
}

/** Undefined when the hint must not be followed: it is not even in order, or a part of the base's tree is damaged. */
async function makeHintedPlan(
  target: BackupTarget,
  base: Root,
  shape: VolumeShape,
  changed: AsyncIterable<Extent>,
): Promise<Plan | undefined> {
  try {
    const toRead = pagesToRead(withResizedEnd(changed, base.sizeBytes, shape), shape);
    return { shape, parts: await cutIntoShards(withBase(toRead, pagesOf(target, base)), shape) };
  } catch (error) {
    if (error instanceof RepositoryDamaged || error instanceof ExtentOutOfPlace) return undefined;
    throw error;
  }
}

async function* noPages(): AsyncGenerator<PageReference> {}

/**
 * The plan of the job, for whoever works by it. Throws VerificationFailed when there is none, another one than `planHash` names, or one whose
 * hint was ruled out.
 */
export async function openPlan(target: BackupTarget, planHash?: string): Promise<ShardTable> {
  const [table, isRuledOut] = await Promise.all([
    readShardTable(target, jobKeys(target.domain, target.jobId).plan),
    hintIsRuledOut(target),
  ]);
  if (!table) throw new VerificationFailed(`The job ${target.jobId} has no plan, or was collected.`);
  if (planHash !== undefined && table.hash !== planHash) {
    throw new VerificationFailed(`The plan of the job ${target.jobId} is not ${planHash}.`);
  }
  if (table.shape.hinted && isRuledOut)
    throw new VerificationFailed(
      `The hint that the plan of the job ${target.jobId} follows was ruled out. The next attempt reads the whole volume.`,
    );
  return table;
}

/** The pages of one shard. */
export async function readPlannedPages(target: BackupTarget, table: ShardTable, shard: number): Promise<PlannedPage[]> {
  const part = await readShardPart(target.store, jobKeys(target.domain, target.jobId).plan, table, shard);
  const pages = Array.from({ length: part.count(6) }, () => decodePlannedPage(part, table.shape));
  part.end();
  return pages;
}

function chunksIn(index: number, shape: VolumeShape): number {
  return chunksOfPage(index, { sizeBytes: shape.sizeBytes, ...shape.geometry });
}

/** A volume that grew or shrank differs from its base in the page where the smaller one ends, and behind it. */
async function* withResizedEnd(
  changed: AsyncIterable<Extent>,
  baseBytes: number,
  shape: VolumeShape,
): AsyncGenerator<Extent> {
  const pageBytes = shape.geometry.chunkBytes * shape.geometry.pageChunks;
  const isResized = baseBytes !== shape.sizeBytes;
  const end = isResized ? Math.floor(Math.min(baseBytes, shape.sizeBytes) / pageBytes) * pageBytes : shape.sizeBytes;
  for await (const { offset, length } of changed) {
    checkExtent({ offset, length }, 0, shape.sizeBytes);
    if (offset < end) yield { offset, length: Math.min(length, end - offset) };
  }
  if (end < shape.sizeBytes) yield { offset: end, length: shape.sizeBytes - end };
}

async function* pagesToRead(extents: AsyncIterable<Extent>, shape: VolumeShape): AsyncGenerator<PlannedPage> {
  const { chunkBytes, pageChunks } = shape.geometry;
  let current: PlannedPage | undefined;
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
        current = { index, toRead: new Bitmap(chunksIn(index, shape)) };
      }
      current.toRead.set(chunk % pageChunks);
    }
  }
  if (current) yield current;
}

/** What a hypervisor says of its volume cannot be true. */
class ExtentOutOfPlace extends RangeError {}

function checkExtent(extent: Extent, position: number, sizeBytes: number): void {
  const inOrder = extent.offset >= position && extent.length >= 0;
  if (!inOrder || extent.offset + extent.length > sizeBytes) {
    throw new ExtentOutOfPlace(
      `The extent at ${extent.offset} of ${extent.length} bytes is out of order or outside of the volume.`,
    );
  }
}

/** Both ascend: one walk through the two. */
async function* withBase(
  pages: AsyncIterable<PlannedPage>,
  basePages: AsyncGenerator<PageReference>,
): AsyncGenerator<PlannedPage> {
  let base = await basePages.next();
  for await (const page of pages) {
    while (!base.done && base.value.index < page.index) base = await basePages.next();
    yield !base.done && base.value.index === page.index ? { ...page, base: base.value.name } : page;
  }
  await basePages.return(undefined);
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
    shard.bytes += bytesToRead(page, shape);
    if (shard.bytes >= target) close();
  }
  if (shard.pages > 0) close();
  return parts;
}

function bytesToRead(page: PlannedPage, shape: VolumeShape): number {
  const volume = { sizeBytes: shape.sizeBytes, chunkBytes: shape.geometry.chunkBytes };
  const first = page.index * shape.geometry.pageChunks;
  return page.toRead.indexes().reduce((sum, at) => sum + chunkLength(first + at, volume), 0);
}

function encodePlannedPage(writer: ByteWriter, page: PlannedPage): void {
  writer
    .u32(page.index)
    .text(page.base ?? "")
    .bytes(page.toRead.bytes);
}

function decodePlannedPage(reader: ByteReader, shape: VolumeShape): PlannedPage {
  const index = reader.u32();
  const base = reader.text();
  const chunks = chunksIn(index, shape);
  if (chunks <= 0 || (base !== "" && !parsePageName(base))) throw reader.damaged("a page in it makes no sense");
  const toRead = new Bitmap(chunks, reader.bytes(Bitmap.bytesFor(chunks)));
  return base === "" ? { index, toRead } : { index, toRead, base };
}
