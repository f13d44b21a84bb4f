/** Copies on primary storage: what the rows of snapshots and of references say together. */
import type { Volume } from "../domain/inventory.ts";
import type { Snapshot } from "../domain/snapshot.ts";
import type { Database } from "./database.ts";
import { snapshotsOfVolume } from "./snapshots.ts";
import { findStoreReferences } from "./store-references.ts";

/**
 * The volume's snapshots of which something may be on its hypervisor, newest first. Their rows come from an index that lags behind by a
 * moment: read one again before acting on it. Those that were requested and have not begun are among them.
 */
export async function snapshotsOnPrimary(
  database: Database,
  { tenant, id }: Pick<Volume, "tenant" | "id">,
): Promise<Snapshot[]> {
  const snapshots: Snapshot[] = [];
  for await (const snapshot of snapshotsOfVolume(database, tenant, id))
    if (snapshot.state !== "Destroyed") snapshots.push(snapshot);
  const keys = snapshots.map((snapshot) => ({
    tenant,
    snapshotId: snapshot.id,
    role: "Primary" as const,
    storeId: snapshot.hypervisorId,
  }));
  const references = await findStoreReferences(database, keys);
  const onPrimary = new Set(references.map(({ snapshotId }) => snapshotId));
  return snapshots.filter(({ id: snapshotId, state }) => state === "Allocated" || onPrimary.has(snapshotId));
}
