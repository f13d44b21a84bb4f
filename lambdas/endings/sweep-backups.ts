/** The sweep of a volume's backups, as the store's options allow. */
import type { Snapshot } from "../domain/snapshot.ts";
import type { DomainLocation } from "../repository/domain-record.ts";
import { sweepDomain } from "../repository/sweep.ts";
import type { Services } from "../services.ts";
import { getStoreOptions } from "../tables/stores.ts";

/**
 * Deletes what no snapshot of the volume needs in the store of `snapshot`, and tells of packs that it found damaged. Answers false when
 * there is more to do than the time allowed for.
 */
export async function sweepBackups(
  { database, logger }: Services,
  { tenant, storeId, volumeId }: Pick<Snapshot, "tenant" | "storeId" | "volumeId">,
  { until, ...location }: DomainLocation & { readonly until: () => boolean },
): Promise<boolean> {
  const { objectLock } = await getStoreOptions(database, tenant, storeId);
  const swept = await sweepDomain(location, { until, compacts: objectLock === undefined });
  const { compactedPacks, damagedPacks: packs, deletedObjects, deletedBytes } = swept;
  if (deletedObjects > 0)
    logger.info("backups swept", { tenant, volumeId, deletedObjects, deletedBytes, compactedPacks });
  if (packs.length > 0) logger.error("packs are damaged and were not compacted", { tenant, volumeId, packs });
  return swept.finished;
}
