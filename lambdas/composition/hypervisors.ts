import { HypervisorMisconfigured } from "../domain/errors.ts";
import type { HypervisorSettings } from "../domain/inventory.ts";
import { environmentList } from "../environment.ts";
import { FileHypervisor } from "../hypervisors/file/file-hypervisor.ts";
import type { Hypervisor } from "../hypervisors/port.ts";
import type { Database } from "../tables/database.ts";
import { getHypervisor } from "../tables/hypervisors.ts";

/** The adapter of a registered hypervisor. Throws HypervisorMisconfigured when it is not registered (any more). */
export async function openHypervisor(database: Database, tenant: string, id: string): Promise<Hypervisor> {
  const row = await getHypervisor(database, tenant, id);
  if (!row) throw new HypervisorMisconfigured(`${id} is no longer registered`);
  return hypervisorOf(row.settings);
}

/** The adapter for these settings, registered or about to be. */
export function hypervisorOf(settings: HypervisorSettings): Hypervisor {
  return new FileHypervisor({ directory: settings.directory, allowedRoots: environmentList("FILE_ROOTS") });
}
