/** The volume of a snapshot and the adapter that reaches it. */
import { VolumeNotFound } from "../domain/errors.ts";
import type { Volume } from "../domain/inventory.ts";
import type { Snapshot } from "../domain/snapshot.ts";
import type { Hypervisor } from "../hypervisors/port.ts";
import type { Services } from "../services.ts";
import { getVolume } from "../tables/volumes.ts";

export async function volumeOf(
  services: Services,
  snapshot: Snapshot,
): Promise<{ volume: Volume; hypervisor: Hypervisor }> {
  const volume = await getVolume(services.database, snapshot.tenant, snapshot.volumeId);
  if (!volume) throw new VolumeNotFound(`${snapshot.volumeId} is no longer registered`);
  return { volume, hypervisor: await services.hypervisor(snapshot.hypervisorTenant, snapshot.hypervisorId) };
}
