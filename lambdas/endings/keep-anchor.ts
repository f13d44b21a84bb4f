/**
 * When the newest backed up snapshot of a volume is deleted, the next backup would have to read everything: its base is then an older one,
 * and what changed between the two is known to nobody once the deleted one's copy is merged away. So that copy stays on primary, hidden, as
 * an anchor, and the ranges in which the two differ are told from their backups before one of them goes.
 */

import { type ByteRange, coarsened, unionOf } from "../domain/byte-ranges.ts";
import { RepositoryDamaged, UnsupportedFormat } from "../domain/errors.ts";
import { protectionOf } from "../domain/protection.ts";
import type { Snapshot } from "../domain/snapshot.ts";
import { changedBetween } from "../repository/changed-between.ts";
import type { Services } from "../services.ts";
import { anchorFor, anchorRanges, writeAnchor } from "../tables/anchors.ts";
import { getSnapshot, recordPhysicalBytes, snapshotsOfVolume } from "../tables/snapshots.ts";
import { deleteStoreReference, getStoreReference, writeStoreReference } from "../tables/store-references.ts";
import { getVolume } from "../tables/volumes.ts";
import { primaryReference } from "../transactions/create-snapshot.ts";
import { backupOf } from "./clean-up.ts";
import { type Removal, type RemovalOptions, removeAnchor } from "./remove-primary.ts";

/** In a row some 80 KB. More ranges are made fewer by covering what lies between them. */
const mostRanges = 4096;

export interface KeepOptions extends RemovalOptions {
  /** True when time is short: then the copy is not kept. */
  readonly until: () => boolean;
}

/**
 * Makes the copy of a snapshot that is being deleted the anchor of its volume and store, where it is the newest there and an older one is left
 * to build on. `gone`: it is no copy of the snapshot any more. Undefined: it is not to be kept. Else an earlier anchor is still being
 * removed: call again later.
 */
export async function keepAnchor(
  services: Services,
  snapshot: Snapshot,
  options: KeepOptions,
): Promise<Removal | undefined> {
  const { database } = services;
  const existing = await anchorFor(database, snapshot);
  if (existing?.snapshotId === snapshot.id) return handOver(services, snapshot, options.jobId);
  if (existing && existing.snapshotId > snapshot.id) return undefined;
  const reference = await getStoreReference(database, primaryReference(snapshot));
  if (reference?.state !== "Ready" || !(await mayHaveAnchor(services, snapshot))) return undefined;
  const base = await baseOfNext(services, snapshot);
  if (!base) return undefined;
  if (existing) {
    const removal = await removeAnchor(services, existing, snapshot, options);
    if (removal !== "gone") return removal;
  }
  const changed = await rangesBetween(services, base, snapshot, [], options);
  if (!changed) return undefined;
  const { tenant, volumeId, storeId, id: snapshotId } = snapshot;
  const { installPath, physicalBytes = 0 } = reference;
  const anchor = {
    tenant,
    volumeId,
    storeId,
    snapshotId,
    installPath,
    baseSnapshotId: base.id,
    changed,
    physicalBytes,
  };
  if (!(await writeAnchor(database, anchor))) return undefined;
  return handOver(services, snapshot, options.jobId);
}

/**
 * When the base of an anchor is deleted, the next older one takes its place. Without any, or where that cannot be told, the anchor is of no use and
 * goes. `gone`: nothing is left to do; else call again later.
 */
export async function rebaseAnchor(services: Services, snapshot: Snapshot, options: KeepOptions): Promise<Removal> {
  const anchor = await anchorFor(services.database, snapshot);
  if (anchor?.baseSnapshotId !== snapshot.id) return "gone";
  const base = await baseOfNext(services, snapshot);
  const changed = base && (await rangesBetween(services, base, snapshot, anchorRanges(anchor), options));
  if (!changed) return removeAnchor(services, anchor, snapshot, options);
  await writeAnchor(services.database, { ...anchor, baseSnapshotId: base.id, changed });
  return "gone";
}

/** The rows alone: the bytes stay where they are. */
async function handOver(services: Services, snapshot: Snapshot, jobId: string): Promise<"gone"> {
  const { database } = services;
  const key = primaryReference(snapshot);
  if (await getStoreReference(database, key)) {
    await writeStoreReference(database, key, "Destroying", { jobId, updatedAt: services.now().toISOString() });
    await recordPhysicalBytes(database, snapshot, 0);
    await deleteStoreReference(database, key);
  }
  return "gone";
}

async function mayHaveAnchor(services: Services, snapshot: Snapshot): Promise<boolean> {
  const { primaryRetention } = await services.settings();
  if (primaryRetention !== "reference" || snapshot.backedUpAt === undefined) return false;
  const volume = await getVolume(services.database, snapshot.tenant, snapshot.volumeId);
  if (!volume || volume.missing || protectionOf(volume) !== "protected") return false;
  const hypervisor = await services.hypervisor(snapshot.hypervisorTenant, snapshot.hypervisorId);
  return hypervisor.capabilities.changeTracking;
}

/** The snapshot that the next backup will build on when this one is gone; undefined when a newer one will do, is about to, or none is left. */
async function baseOfNext({ database }: Services, snapshot: Snapshot): Promise<Snapshot | undefined> {
  for await (const { id } of snapshotsOfVolume(database, snapshot.tenant, snapshot.volumeId)) {
    const other = await getSnapshot(database, snapshot.tenant, id);
    if (other?.storeId !== snapshot.storeId) continue;
    const isNewer = id > snapshot.id;
    if (isNewer && (other.state === "BackedUp" || other.state === "BackingUp")) return undefined;
    if (!isNewer && other.state === "BackedUp") return other;
  }
  return undefined;
}

/** Offset and length in turns: in what the two differ, with `more`. Undefined when that cannot be told, or not in time. */
async function rangesBetween(
  services: Services,
  earlier: Snapshot,
  later: Snapshot,
  more: Iterable<ByteRange>,
  { jobId, until }: KeepOptions,
): Promise<number[] | undefined> {
  try {
    const [from, to] = await Promise.all([backupOf(services, earlier, jobId), backupOf(services, later, jobId)]);
    const changed = await changedBetween(from, to);
    if (!changed) return undefined;
    const ranges = await coarsened(whileInTime(unionOf(changed, more, Number.MAX_SAFE_INTEGER), until), mostRanges);
    return until() ? undefined : ranges.flatMap(({ offset, length }) => [offset, length]);
  } catch (error) {
    if (error instanceof RepositoryDamaged || error instanceof UnsupportedFormat) return undefined;
    throw error;
  }
}

async function* whileInTime(ranges: AsyncIterable<ByteRange>, until: () => boolean): AsyncGenerator<ByteRange> {
  for await (const range of ranges) {
    if (until()) return;
    yield range;
  }
}
