/** What a backup's root says about its snapshot, from the rows as they are. */

import type { Snapshot } from "../domain/snapshot.ts";
import { type DescribedTexts, describeSnapshot } from "../domain/snapshot-description.ts";
import type { Services } from "../services.ts";
import { getHypervisor } from "../tables/hypervisors.ts";
import { getVolume } from "../tables/volumes.ts";

/** A row that is gone leaves its texts out: no backup fails for that. */
export async function descriptionOf(
  { database }: Pick<Services, "database">,
  snapshot: Snapshot,
): Promise<DescribedTexts> {
  const [volume, hypervisor] = await Promise.all([
    getVolume(database, snapshot.tenant, snapshot.volumeId),
    getHypervisor(database, snapshot.hypervisorTenant, snapshot.hypervisorId),
  ]);
  return describeSnapshot(snapshot, volume, hypervisor?.settings.kind);
}
