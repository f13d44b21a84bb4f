/** How many copies of a volume may be on primary storage, where they form a chain with it. */
import { hypervisorKinds, type Volume } from "../domain/inventory.ts";
import type { Services } from "../services.ts";
import { getHypervisor } from "../tables/hypervisors.ts";
import { snapshotsOnPrimary } from "../tables/primary-copies.ts";
import { Problem } from "./problem.ts";

/** Throws a problem where one of the volumes, all of one hypervisor, has as many copies there as `primary.maxChain` allows. */
export async function requireRoomInChain(services: Services, volumes: readonly Volume[]): Promise<void> {
  const [first] = volumes;
  if (!first) return;
  const hypervisor = await getHypervisor(services.database, first.hypervisorTenant, first.hypervisorId);
  if (!hypervisor || !hypervisorKinds[hypervisor.settings.kind].chained) return;
  const { maxPrimaryChain } = await services.settings();
  for (const volume of volumes) {
    const copies = await snapshotsOnPrimary(services.database, volume);
    if (copies.length < maxPrimaryChain) continue;
    throw new Problem(
      "primary-chain-is-full",
      `${volume.id} has ${copies.length} snapshots on primary storage, and primary.maxChain allows ${maxPrimaryChain}. Wait for their backups, or delete some.`,
      { members: { volumeId: volume.id, snapshots: copies.map(({ id }) => id) } },
    );
  }
}
