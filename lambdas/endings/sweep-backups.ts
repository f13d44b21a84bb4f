/** The sweep of a volume's backups, as the store's options allow. */
import { RepositoryDamaged } from "../domain/errors.ts";
import type { Snapshot } from "../domain/snapshot.ts";
import type { DomainLocation } from "../repository/domain-record.ts";
import { jobKeys } from "../repository/layout.ts";
import { type BackupTarget, jobsIn, unpinJob } from "../repository/pin.ts";
import { sweepDomain } from "../repository/sweep.ts";
import type { Services } from "../services.ts";
import { getJob } from "../tables/jobs.ts";
import { getStoreOptions } from "../tables/stores.ts";

/** A job that has no row is forsaken when nothing of it was written for so long: the tables were lost, and the backups imported anew. */
const forsakenAfterMilliseconds = 86_400_000;

type Backups = Pick<Snapshot, "tenant" | "storeId" | "volumeId">;

export interface SweepLocation extends DomainLocation {
  readonly until: () => boolean;
  /** The `position` that an earlier call for the same end has answered; empty: from the beginning. */
  readonly from?: string;
}

/**
 * Deletes what no snapshot of the volume needs in the store of `snapshot`, and tells of packs that it found damaged. Answers `finished: false`
 * when there is more to do than the time allowed for. While a snapshot is damaged nobody can tell what the volume's backups need: what is to
 * be swept then is left to the sweep that follows the deletion of that one, and nobody has to wait for it.
 */
export async function sweepBackups(
  services: Services,
  { tenant, storeId, volumeId }: Backups,
  location: SweepLocation,
): Promise<{ finished: boolean; position: string }> {
  const { database, logger } = services;
  const { until, from = "", ...where } = location;
  if (!(await unpinForsaken(services, { tenant, volumeId }, location))) return { finished: false, position: from };
  const { objectLock } = await getStoreOptions(database, tenant, storeId);
  try {
    const options = { until, compacts: objectLock === undefined, from };
    const { finished, position, damagedPacks: packs, ...swept } = await sweepDomain(where, options);
    const { compactedPacks, deletedObjects, deletedBytes } = swept;
    if (deletedObjects > 0)
      logger.info("backups swept", { tenant, volumeId, deletedObjects, deletedBytes, compactedPacks });
    if (packs.length > 0) logger.error("packs are damaged and were not compacted", { tenant, volumeId, packs });
    return { finished, position };
  } catch (error) {
    if (!(error instanceof RepositoryDamaged)) throw error;
    logger.error("a sweep waits until damaged snapshots are deleted", { tenant, volumeId, error });
    return { finished: true, position: "" };
  }
}

/**
 * Takes away what jobs keep in the store that nobody cleans up after any more: with its pin in place the sweep would leave all that a job has
 * uploaded, and its base, for good. Answers false when there is more to do than the time allowed for.
 */
async function unpinForsaken(
  services: Services,
  { tenant, volumeId }: Omit<Backups, "storeId">,
  { store, domain, until }: SweepLocation,
): Promise<boolean> {
  for await (const jobId of jobsIn({ store, domain })) {
    if (until()) return false;
    const job = { store, domain, jobId };
    if (!(await isForsaken(services, tenant, job))) continue;
    if (!(await unpinJob(job, { until })).finished) return false;
    services.logger.warn("what a forsaken job kept in the store was deleted", { tenant, volumeId, jobId });
  }
  return true;
}

/** A job that is open is cleaned up after by itself. Closed ones have been given up, or were cleaned up before a late worker wrote. */
async function isForsaken(
  { database, now }: Services,
  tenant: string,
  { store, domain, jobId }: Pick<BackupTarget, "store" | "domain" | "jobId">,
): Promise<boolean> {
  const job = await getJob(database, tenant, jobId);
  if (job) return !job.open;
  const quietSince = now().getTime() - forsakenAfterMilliseconds;
  for await (const { lastModified } of store.list(jobKeys(domain, jobId).all))
    if (lastModified.getTime() > quietSince) return false;
  return true;
}
