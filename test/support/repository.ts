/** Drives whole backups and restores against a store, as the state machines do. */
import type { Geometry } from "../../lambdas/repository/domain-record.ts";
import { ensureDomain } from "../../lambdas/repository/domain-record.ts";
import type { ObjectStore } from "../../lambdas/repository/object-store.ts";
import { type ChunkLocation, PageChunks } from "../../lambdas/repository/page-chunks.ts";
import { type BackupTarget, pinBase, unpinJob } from "../../lambdas/repository/pin.ts";
import { type Extent, type PlanSummary, writePlan } from "../../lambdas/repository/planner.ts";
import { type PublishedBackup, publishRoot } from "../../lambdas/repository/publish.ts";
import { finishRestorePlan, planRestore, type RestoreSource, restoreShard } from "../../lambdas/repository/reader.ts";
import type { VolumeReader } from "../../lambdas/repository/shard-batches.ts";
import { verifyBackup } from "../../lambdas/repository/verify.ts";
import { copyShard } from "../../lambdas/repository/writer.ts";

export const never = () => false;

/** Small sizes, so that a few KiB have many chunks, pages and packs. */
export const smallGeometry: Geometry = { chunkBytes: 512, pageChunks: 8, packBytes: 1024 };

/** A page's chunks, where these lie. */
export function pageChunksOf(locations: readonly (ChunkLocation | undefined)[]): PageChunks {
  const chunks = PageChunks.zeros(locations.length);
  for (const [position, location] of locations.entries()) chunks.set(position, location);
  return chunks;
}

/** A volume in memory: only what is written takes room. Counts what is read. */
export class SparseVolume implements VolumeReader {
  readonly sizeBytes: number;
  readonly extents: { offset: number; bytes: Uint8Array }[] = [];
  bytesRead = 0;

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
  }

  static of(bytes: Uint8Array): SparseVolume {
    const volume = new SparseVolume(bytes.length);
    if (bytes.length > 0) volume.extents.push({ offset: 0, bytes });
    return volume;
  }

  async read(target: Uint8Array, offset: number): Promise<void> {
    this.bytesRead += target.length;
    target.fill(0);
    for (const extent of this.extents) {
      const start = Math.max(offset, extent.offset);
      const end = Math.min(offset + target.length, extent.offset + extent.bytes.length);
      if (start < end) target.set(extent.bytes.subarray(start - extent.offset, end - extent.offset), start - offset);
    }
  }

  async *allocated(): AsyncGenerator<Extent> {
    for (const { offset, bytes } of this.extents) yield { offset, length: bytes.length };
  }

  async write(data: Uint8Array, offset: number): Promise<void> {
    if (offset + data.length > this.sizeBytes) throw new RangeError("The write reaches past the volume's end.");
    this.extents.push({ offset, bytes: data.slice() });
  }

  async flush(): Promise<void> {}

  /** All bytes; for small volumes. */
  async content(): Promise<Buffer> {
    const bytes = Buffer.alloc(this.sizeBytes);
    await this.read(bytes, 0);
    return bytes;
  }
}

/** Gives the domain sizes of its own before its first backup. */
export async function useGeometry(store: ObjectStore, domain: string, geometry: Geometry): Promise<void> {
  await ensureDomain({ store, domain }, { geometry });
}

export async function planBackup(
  target: BackupTarget,
  volume: SparseVolume,
  candidates: readonly string[] = [],
): Promise<PlanSummary> {
  await pinBase(target, candidates, { sizeBytes: volume.sizeBytes });
  return writePlan(target, { sizeBytes: volume.sizeBytes, extents: volume.allocated() });
}

/** Plans with the hint of change tracking. */
export async function planHinted(
  target: BackupTarget,
  volume: SparseVolume,
  { base, changed }: { base: string; changed: readonly Extent[] },
): Promise<PlanSummary> {
  await pinBase(target, [base], { sizeBytes: volume.sizeBytes });
  const { sizeBytes } = volume;
  return writePlan(target, { sizeBytes, extents: volume.allocated(), changed: ReadableStream.from(changed) });
}

export async function copyAll(
  target: BackupTarget,
  plan: PlanSummary,
  volume: SparseVolume,
  attempt = 1,
): Promise<void> {
  for (let shard = 0; shard < plan.shardCount; shard++) {
    await copyShard(target, { planHash: plan.planHash, shard, attempt, reader: volume, until: never });
  }
}

export async function backup(
  target: BackupTarget,
  volume: SparseVolume,
  candidates: readonly string[] = [],
): Promise<PublishedBackup> {
  return finishBackup(target, await planBackup(target, volume, candidates), volume);
}

/** All that follows the plan. */
export async function finishBackup(
  target: BackupTarget,
  plan: PlanSummary,
  volume: SparseVolume,
): Promise<PublishedBackup> {
  await copyAll(target, plan, volume);
  await verifyBackup(target, { planHash: plan.planHash, until: never });
  const published = await publishRoot(target, plan);
  await unpinJob(target);
  return published;
}

export async function restore(source: RestoreSource): Promise<SparseVolume> {
  const plan = await planRestore(source);
  const volume = new SparseVolume(plan.sizeBytes);
  for (let shard = 0; shard < plan.shardCount; shard++) {
    await restoreShard(source, { shard, writer: volume, until: never });
  }
  await finishRestorePlan(source);
  return volume;
}
