/** Whether the hint of change tracking told the truth: some of what it called unchanged is read and compared. */
import { HintMismatch, VerificationFailed } from "../domain/errors.ts";
import { Bitmap } from "./bitmap.ts";
import { encodeChunks } from "./codec.ts";
import { ruleOutHint } from "./hint.ts";
import { forEachInFlight } from "./in-flight.ts";
import { chunkLength, chunksOfPage, type Root } from "./manifest.ts";
import { type Page, readPage } from "./page.ts";
import { PageChunks } from "./page-chunks.ts";
import { type BackupTarget, readPinnedBase } from "./pin.ts";
import { type Extent, openPlan, type PlannedPage, readPlannedPages } from "./planner.ts";
import { isSampled } from "./sampling.ts";
import { readBatches, type VolumeReader } from "./shard-batches.ts";
import type { ShardTable, VolumeShape } from "./shard-table.ts";
import { isDamage, pagesWithin } from "./tree.ts";

export interface AuditOptions {
  readonly planHash: string;
  readonly reader: VolumeReader;
  /** The volume's allocated ranges, ascending: where the base has zeros, only pages with any of them are looked at. */
  readonly extents: AsyncIterable<Extent>;
  /** Share of what is unread that is compared, 0 to 100, in parts of pages. Of a volume with anything unread at least one part is. */
  readonly percent: number;
  /** Asked before each page: true when time is short. What was compared by then has to do. */
  readonly until: () => boolean;
}

/**
 * Compares a sample of what a hinted plan leaves unread with the base. Throws HintMismatch when a chunk differs; the next attempt
 * then reads everything. Throws VerificationFailed, with the same effect, when the base's tree is damaged. To be called before the export is closed and the root is published.
 */
export async function auditHint(
  target: BackupTarget,
  options: AuditOptions,
): Promise<{ finished: boolean; checkedBytes: number }> {
  const opening = openPlan(target, options.planHash);
  const ofPlan = opening.then(({ shape }) => shape);
  const [plan, { base }] = await Promise.all([opening, readPinnedBase(target, ofPlan)]);
  if (!base || !plan.shape.hinted || options.percent === 0) return { finished: true, checkedBytes: 0 };
  try {
    return { finished: true, checkedBytes: await auditPages(target, plan, base, options) };
  } catch (error) {
    if (!isDamage(error)) throw error;
    await ruleOutHint(target, String(error));
    throw new VerificationFailed("The base of a hinted backup is damaged. The next attempt reads the whole volume.", {
      cause: error,
    });
  }
}

/** Answers how many bytes were compared. */
async function auditPages(target: BackupTarget, plan: ShardTable, base: Root, options: AuditOptions): Promise<number> {
  let checkedBytes = 0;
  await forEachInFlight(sampledPages(target, plan, base, options), pagesInFlight, async ({ index, name, toRead }) => {
    const page = name === undefined ? zeroPage(index, plan) : await readPage(target.store, target.domain, name);
    const unread = { page, toRead, shape: plan.shape };
    const compared = await comparePage(target, unread, options.reader, plan.cipher?.chunkIdKey);
    checkedBytes += compared;
  });
  return checkedBytes;
}

/** One is fetched while others are read and hashed. */
const pagesInFlight = 4;

interface SampledPage extends PageToCompare {
  /** The chunks that are compared, some. */
  readonly toRead: Bitmap;
}

/** Ends early when time is short. */
async function* sampledPages(
  target: BackupTarget,
  plan: ShardTable,
  base: Root,
  { extents, percent, until }: AuditOptions,
): AsyncGenerator<SampledPage> {
  const plannedPages = pagesOfPlan(target, plan);
  let next = await plannedPages.next();
  /** The first part that could be compared, as long as none is wanted. */
  let instead: SampledPage | undefined;
  let isAnyWanted = false;
  for await (const page of pagesToCompare(target, plan, base, extents)) {
    while (!next.done && next.value.index < page.index) next = await plannedPages.next();
    const planned = !next.done && next.value.index === page.index ? next.value : undefined;
    const picked = allParts.filter((part) => isSampled(`${target.jobId}/${page.index}/${part}`, percent));
    if (picked.length === 0 && (isAnyWanted || instead)) continue;
    const unread = partsUnread(page.index, plan.shape, planned);
    const wanted = picked.flatMap((part) => unread[part]!);
    if (wanted.length > 0) {
      if (until()) return;
      isAnyWanted = true;
      yield sampled(page, wanted, plan.shape);
    } else if (!isAnyWanted) {
      const first = unread.find((chunks) => chunks.length > 0);
      instead ??= first && sampled(page, first, plan.shape);
    }
  }
  if (!isAnyWanted && instead && !until()) yield instead;
}

/** A whole page is much for a small volume: 256 MiB. Of smaller parts some would lie in nearly every page, and all these had to be fetched. */
const partsOfPage = 16;
const allParts = Array.from({ length: partsOfPage }, (_, part) => part);

/** The chunks of a page that the plan does not read, part by part. */
function partsUnread(
  index: number,
  { sizeBytes, geometry }: VolumeShape,
  planned: PlannedPage | undefined,
): readonly (readonly number[])[] {
  const parts = allParts.map((): number[] => []);
  for (let chunk = 0; chunk < chunksOfPage(index, { sizeBytes, ...geometry }); chunk++) {
    const part = Math.floor((chunk * partsOfPage) / geometry.pageChunks);
    if (!planned?.toRead.has(chunk)) parts[part]?.push(chunk);
  }
  return parts;
}

function sampled(page: PageToCompare, chunks: readonly number[], { sizeBytes, geometry }: VolumeShape): SampledPage {
  const toRead = new Bitmap(chunksOfPage(page.index, { sizeBytes, ...geometry }));
  for (const chunk of chunks) toRead.set(chunk);
  return { ...page, toRead };
}

interface PageToCompare {
  readonly index: number;
  /** Absent where the base has zeros. */
  readonly name?: string;
}

/** The base's pages, and where it has none (zeros) those that are allocated in the volume now. Ascending by index. */
async function* pagesToCompare(
  target: BackupTarget,
  plan: ShardTable,
  base: Root,
  extents: AsyncIterable<Extent>,
): AsyncGenerator<PageToCompare> {
  const { chunkBytes, pageChunks } = plan.shape.geometry;
  const ofBase = pagesWithin(target, base, plan.shape);
  let next = await ofBase.next();
  for await (const index of indexesOf(extents, chunkBytes * pageChunks)) {
    for (; !next.done && next.value.index < index; next = await ofBase.next()) yield next.value;
    if (next.done || next.value.index > index) yield { index };
  }
  for (; !next.done; next = await ofBase.next()) yield next.value;
}

/** The pages that these ranges touch, each once. */
async function* indexesOf(extents: AsyncIterable<Extent>, pageBytes: number): AsyncGenerator<number> {
  let next = 0;
  for await (const { offset, length } of extents) {
    const end = Math.ceil((offset + length) / pageBytes);
    for (let index = Math.max(next, Math.floor(offset / pageBytes)); length > 0 && index < end; index++) yield index;
    if (length > 0) next = end;
  }
}

function zeroPage(index: number, { shape }: ShardTable): Page {
  const chunks = chunksOfPage(index, { sizeBytes: shape.sizeBytes, ...shape.geometry });
  return { index, chunks: PageChunks.zeros(chunks) };
}

/** What the plan reads, ascending by index. One shard's part is in memory. */
async function* pagesOfPlan(target: BackupTarget, plan: ShardTable): AsyncGenerator<PlannedPage> {
  for (const shard of plan.shards.keys()) yield* await readPlannedPages(target, plan, shard);
}

interface UnreadPage {
  readonly page: Page;
  readonly toRead: Bitmap;
  readonly shape: VolumeShape;
}

/** Answers how many bytes were compared. */
async function comparePage(
  target: BackupTarget,
  { page, toRead, shape }: UnreadPage,
  reader: VolumeReader,
  chunkIdKey: Uint8Array | undefined,
): Promise<number> {
  const { sizeBytes, geometry } = shape;
  const unread = { pages: [{ index: page.index, toRead }], sizeBytes, geometry, from: { page: 0, chunk: 0 } };
  let checkedBytes = 0;
  for await (const batch of readBatches(reader, unread, () => false)) {
    const expected = batch.chunks.map((at) => page.chunks.at(at)?.hash);
    const named = await encodeChunks({ bytes: batch.bytes, chunkBytes: geometry.chunkBytes, expected, chunkIdKey });
    const changed = batch.chunks.find((_, at) => named[at]?.hash !== expected[at]);
    if (changed !== undefined) throw await mismatch(target, page.index * geometry.pageChunks + changed, shape);
    checkedBytes += batch.length;
    batch.release();
  }
  return checkedBytes;
}

async function mismatch(target: BackupTarget, chunk: number, shape: VolumeShape): Promise<HintMismatch> {
  const { chunkBytes } = shape.geometry;
  const first = chunk * chunkBytes;
  const last = first + chunkLength(chunk, { sizeBytes: shape.sizeBytes, chunkBytes }) - 1;
  const reason = `Bytes ${first}-${last} have changed since the base, and change tracking did not say so`;
  await ruleOutHint(target, reason);
  return new HintMismatch(`${reason}. The next attempt reads the whole volume.`);
}
