/** Volumes that are taken out of protection: what is left of them on primary storage goes, step by step, in rounds of garbage collection. */
import { summarizeError } from "../domain/errors.ts";
import type { Volume } from "../domain/inventory.ts";
import { isOutside } from "../domain/outside-faults.ts";
import type { Services } from "../services.ts";
import { getVolume, protectionEnded, recordProtectionError, volumesEndingProtection } from "../tables/volumes.ts";
import { clearPrimary } from "./remove-primary.ts";

/** What became of a round, in numbers of volumes. */
export interface EndedProtection {
  readonly ended: number;
  /** A backup or an export holds the chain, the hypervisor works on, or it is out of reach or refuses. */
  readonly waiting: number;
  /** What went wrong is Snapferry's own. */
  readonly failed: number;
}

/** How long one merge is waited for: other volumes wait for their turn, and the hypervisor works on meanwhile. */
const mergeWaitSeconds = 20;

/** Every volume of every tenant whose protection is ending. One that fails or has to wait does not hold up the others. */
export async function endProtections(services: Services, until: () => boolean): Promise<EndedProtection> {
  const counts = { ended: 0, waiting: 0, failed: 0 };
  for await (const { tenant, id } of volumesEndingProtection(services.database)) {
    if (until()) return counts;
    const volume = await getVolume(services.database, tenant, id);
    if (volume?.protection === "ending") counts[await endOrRecord(services, volume)]++;
  }
  return counts;
}

async function endOrRecord(services: Services, volume: Volume): Promise<keyof EndedProtection> {
  const { database, logger } = services;
  const about = { tenant: volume.tenant, volumeId: volume.id };
  try {
    const options = { jobId: `unprotect ${volume.id}`, waitSeconds: mergeWaitSeconds };
    if ((await clearPrimary(services, volume, options)) === "gone") {
      await protectionEnded(database, volume);
      return "ended";
    }
    await recordProtectionError(database, volume, undefined);
    return "waiting";
  } catch (error) {
    await recordProtectionError(database, volume, summarizeError(error));
    if (isOutside(error)) {
      logger.warn("a volume's protection cannot be ended now", { ...about, error: error as Error });
      return "waiting";
    }
    logger.error("a volume's protection could not be ended", { ...about, error: error as Error });
    return "failed";
  }
}
