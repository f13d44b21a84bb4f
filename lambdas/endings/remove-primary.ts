/**
 * Copies on primary storage, taken away. Where they are links of a chain that is a merge: it takes its time, and it goes on only while
 * nobody reads the chain. Every step may run twice; gone is success.
 */
import { SnapshotInUse } from "../domain/errors.ts";
import type { Volume } from "../domain/inventory.ts";
import { superfluousCopies } from "../domain/primary-retention.ts";
import type { Snapshot } from "../domain/snapshot.ts";
import type { DeletedSnapshot, Hypervisor } from "../hypervisors/port.ts";
import type { Services } from "../services.ts";
import { type Anchor, anchorsOf, deleteAnchor } from "../tables/anchors.ts";
import { snapshotsOnPrimary } from "../tables/primary-copies.ts";
import { getSnapshot, recordPhysicalBytes } from "../tables/snapshots.ts";
import { deleteStoreReference, getStoreReference, writeStoreReference } from "../tables/store-references.ts";
import { getVolume, releaseVolume, tryHoldVolume } from "../tables/volumes.ts";
import { primaryReference } from "../transactions/create-snapshot.ts";

/** `unfinished`: the hypervisor works on by itself. `in-use`: a backup of the volume is going on. Either way: call again later. */
export type Removal = "gone" | "unfinished" | "in-use";

export interface RemovalOptions {
  readonly jobId: string;
  /** How long the hypervisor is waited for. */
  readonly waitSeconds: number;
}

/**
 * How much longer than one wait backups of a volume are held back while its hypervisor merges: until the next call, which garbage
 * collection makes after 5 minutes and a deletion after 5 minutes at most; and for a call that died, three times that.
 */
const holdMarginSeconds = 900;

/** The frozen bytes go first, then their reference. */
export async function removePrimary(services: Services, snapshot: Snapshot, options: RemovalOptions): Promise<Removal> {
  const { database } = services;
  const key = primaryReference(snapshot);
  const reference = await getStoreReference(database, key);
  if (!reference) return "gone";
  const { jobId } = options;
  await writeStoreReference(database, key, "Destroying", { jobId, updatedAt: services.now().toISOString() });
  const hypervisor = await services.hypervisor(snapshot.hypervisorTenant, snapshot.hypervisorId);
  const removal = await removeFrozen(services, hypervisor, {
    ...options,
    snapshot,
    installPath: reference.installPath,
  });
  if (removal !== "gone") return removal;
  await recordPhysicalBytes(database, snapshot, 0);
  await deleteStoreReference(database, key);
  return "gone";
}

/**
 * Takes away the copies of the volume that the setting does not keep, now that this snapshot is backed up. Answers false when some have
 * to wait. A reference that a backup is going on against is one of those.
 */
export async function settlePrimary(services: Services, snapshot: Snapshot, options: RemovalOptions): Promise<boolean> {
  const { database } = services;
  for (const anchor of await anchorsOf(database, { tenant: snapshot.tenant, id: snapshot.volumeId })) {
    if (!(await isSpent(services, anchor, snapshot))) continue;
    if ((await removeAnchor(services, anchor, snapshot, options)) !== "gone") return false;
  }
  const { primaryRetention: retention } = await services.settings();
  if (retention === "true") return true;
  const hypervisor = await services.hypervisor(snapshot.hypervisorTenant, snapshot.hypervisorId);
  const { changeTracking } = hypervisor.capabilities;
  const listed = await snapshotsOnPrimary(database, { tenant: snapshot.tenant, id: snapshot.volumeId });
  const copies = listed.map((copy) => (copy.id === snapshot.id ? snapshot : copy));
  for (const { tenant, id } of superfluousCopies(copies, { retention, changeTracking })) {
    const copy = await getSnapshot(database, tenant, id);
    if (copy?.state !== "BackedUp") continue;
    if ((await removePrimary(services, copy, options)) !== "gone") return false;
  }
  return true;
}

/** A newer snapshot in its store is the reference now, or what it was kept for is gone. */
async function isSpent({ database }: Services, anchor: Anchor, backedUp: Snapshot): Promise<boolean> {
  if (anchor.storeId === backedUp.storeId && anchor.snapshotId < backedUp.id) return true;
  return (await getSnapshot(database, anchor.tenant, anchor.baseSnapshotId))?.state !== "BackedUp";
}

/** The frozen bytes go first, then the row. `snapshot` is any of the anchor's volume. */
export async function removeAnchor(
  services: Services,
  anchor: Anchor,
  snapshot: Snapshot,
  options: RemovalOptions,
): Promise<Removal> {
  const hypervisor = await services.hypervisor(snapshot.hypervisorTenant, snapshot.hypervisorId);
  const { installPath } = anchor;
  const removal = await removeFrozen(services, hypervisor, { ...options, snapshot, installPath });
  if (removal === "gone") await deleteAnchor(services.database, anchor);
  return removal;
}

/** Frozen bytes that may have no reference. */
export async function removeFrozen(
  services: Services,
  hypervisor: Hypervisor,
  { snapshot, installPath, jobId, waitSeconds }: RemovalOptions & { snapshot: Snapshot; installPath: string },
): Promise<Removal> {
  const key = { tenant: snapshot.tenant, id: snapshot.volumeId };
  const remove = () => removalBy(waitSeconds, (limit) => hypervisor.deleteSnapshot(installPath, limit));
  const isLink =
    hypervisor.capabilities.changeTracking && (await getVolume(services.database, key.tenant, key.id)) !== undefined;
  return isLink ? whileHeld(services, key, { jobId, waitSeconds }, remove) : remove();
}

/**
 * Takes away all that is on primary storage of a volume of which no snapshot can be requested meanwhile: its copies, the oldest first, then
 * what no row names. A snapshot that has no backup yet is waited for.
 */
export async function clearPrimary(
  services: Services,
  volume: Pick<Volume, "tenant" | "id" | "hypervisorTenant" | "hypervisorId" | "externalId">,
  options: RemovalOptions,
): Promise<Removal> {
  const { database } = services;
  const copies = await snapshotsOnPrimary(database, volume);
  for (const { tenant, id } of copies.reverse()) {
    const copy = await getSnapshot(database, tenant, id);
    if (copy?.state !== "BackedUp") return "in-use";
    const removal = await removePrimary(services, copy, options);
    if (removal !== "gone") return removal;
  }
  const hypervisor = await services.hypervisor(volume.hypervisorTenant, volume.hypervisorId);
  return whileHeld(services, volume, { ...options, closed: true }, async () => {
    if ((await snapshotsOnPrimary(database, volume)).length > 0) return "in-use";
    const removal = await removalBy(options.waitSeconds, async (limit) =>
      hypervisor.deleteAllSnapshots ? hypervisor.deleteAllSnapshots(volume.externalId, limit) : { finished: true },
    );
    if (removal === "gone")
      for (const anchor of await anchorsOf(database, volume)) await deleteAnchor(database, anchor);
    return removal;
  });
}

/** No backup of the volume begins meanwhile, nor while the hypervisor works on. `closed`: only while no snapshot can be requested either. */
async function whileHeld(
  { database, now }: Services,
  volume: Pick<Volume, "tenant" | "id">,
  { jobId, waitSeconds, closed = false }: RemovalOptions & { readonly closed?: boolean },
  remove: () => Promise<Removal>,
): Promise<Removal> {
  const at = now();
  const until = new Date(at.getTime() + (waitSeconds + holdMarginSeconds) * 1000).toISOString();
  if (!(await tryHoldVolume(database, volume, { operationId: jobId, until, closed }, at.toISOString())))
    return "in-use";
  let removal: Removal | undefined;
  try {
    removal = await remove();
    return removal;
  } finally {
    if (removal !== "unfinished") await releaseVolume(database, volume, jobId);
  }
}

async function removalBy(
  waitSeconds: number,
  act: (limit: { readonly until: number }) => Promise<DeletedSnapshot>,
): Promise<Removal> {
  try {
    const { finished } = await act({ until: Date.now() + waitSeconds * 1000 });
    return finished ? "gone" : "unfinished";
  } catch (error) {
    if (error instanceof SnapshotInUse) return "in-use";
    throw error;
  }
}
