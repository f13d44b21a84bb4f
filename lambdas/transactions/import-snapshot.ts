/** The rows of a snapshot whose backup was found in a store: written where there are none, and never over any. */
import { defaultStoreId, type StoreRow, type Volume } from "../domain/inventory.ts";
import { changeId, type Snapshot } from "../domain/snapshot.ts";
import type { DescribedSnapshot } from "../domain/snapshot-description.ts";
import type { StoreReference } from "../domain/store-reference.ts";
import type { Database } from "../tables/database.ts";
import { getSnapshot, insertBackedUp } from "../tables/snapshots.ts";
import { insertStoreReference } from "../tables/store-references.ts";
import { getVolume, insertMissingVolume } from "../tables/volumes.ts";
import { decideAndWrite } from "./decide-and-write.ts";

/** A backup as it was found. */
export interface FoundBackup {
  readonly tenant: string;
  readonly storeId: StoreRow["id"];
  readonly snapshotId: string;
  /** The job that published it. Its row is gone. */
  readonly jobId: string;
  /** Size of the volume, bytes. */
  readonly sizeBytes: number;
  readonly encrypted: boolean;
  readonly publishedAt: Date;
  /** When the store's lock on it ends, ISO 8601; undefined where there is none, or the store does not tell. */
  readonly lockedUntil?: string | undefined;
  /** Its tenant is the one above. */
  readonly described: DescribedSnapshot;
}

/** Snapshot BackedUp with its reference, and its volume as one that discovery has not found yet. "replay": the snapshot has a row. */
export function importBackup(database: Database, found: FoundBackup, now: string): Promise<"written" | "replay"> {
  const { tenant, snapshotId, described } = found;
  return decideAndWrite(database, async () => {
    if (await getSnapshot(database, tenant, snapshotId)) return "replay";
    const known = await getVolume(database, tenant, described.volumeId);
    const volume = known ?? volumeOf(found);
    return [
      insertBackedUp(database, snapshotOf(found, volume, now)),
      insertStoreReference(database, referenceOf(found, now)),
      ...(known ? [] : [insertMissingVolume(database, volume)]),
    ];
  });
}

/**
 * Whose hypervisor it was. What lies in a store that a tenant registered may have been written by that tenant: its word gives no right to
 * the hypervisor of another. In the stack's own bucket nobody else writes.
 */
function hypervisorTenantOf({ tenant, storeId, described }: FoundBackup): string {
  return storeId === defaultStoreId ? described.hypervisorTenant : tenant;
}

function volumeOf(found: FoundBackup): Volume {
  const { tenant, sizeBytes, described } = found;
  return {
    tenant,
    id: described.volumeId,
    hypervisorId: described.hypervisorId,
    hypervisorTenant: hypervisorTenantOf(found),
    externalId: described.volumeExternalId,
    name: described.volumeName ?? described.volumeExternalId,
    sizeBytes,
    inUse: false,
    backingUp: 0,
    unassigned: false,
    missing: true,
    discoveredAt: described.createdAt,
  };
}

function snapshotOf(found: FoundBackup, volume: Volume, now: string): Omit<Snapshot, "readers"> {
  const { tenant, storeId, snapshotId, jobId, sizeBytes, encrypted, publishedAt, lockedUntil, described } = found;
  const { name, description, consistency, createdOnPrimaryAt, storedBytes } = described;
  return {
    tenant,
    id: snapshotId,
    volumeId: volume.id,
    hypervisorId: volume.hypervisorId,
    hypervisorTenant: volume.hypervisorTenant,
    storeId,
    ...(name === undefined ? {} : { name }),
    ...(description === undefined ? {} : { description }),
    tags: described.tags,
    state: "BackedUp",
    updateCount: 1,
    lastChange: changeId(jobId, "BackedUp", 1),
    jobId,
    attempt: 1,
    maxAttempts: 1,
    onBackupFailure: "delete",
    ...(consistency === undefined ? {} : { consistency }),
    logicalBytes: sizeBytes,
    physicalBytes: 0,
    ...(storedBytes === undefined ? {} : { storedBytes }),
    createdAt: described.createdAt,
    updatedAt: now,
    ...(createdOnPrimaryAt === undefined ? {} : { createdOnPrimaryAt }),
    backedUpAt: publishedAt.toISOString(),
    ...(encrypted ? { encrypted: true } : {}),
    ...(lockedUntil === undefined ? {} : { lockedUntil }),
  };
}

function referenceOf(
  { tenant, storeId, snapshotId, jobId, sizeBytes, described }: FoundBackup,
  now: string,
): StoreReference {
  return {
    tenant,
    snapshotId,
    role: "Image",
    storeId,
    state: "Ready",
    jobId,
    installPath: `roots/${snapshotId}`,
    sizeBytes,
    ...(described.storedBytes === undefined ? {} : { physicalBytes: described.storedBytes }),
    updatedAt: now,
  };
}
