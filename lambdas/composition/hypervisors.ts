import { HypervisorMisconfigured } from "../domain/errors.ts";
import type { HypervisorRow } from "../domain/inventory.ts";
import { environmentList } from "../environment.ts";
import { FileHypervisor } from "../hypervisors/file/file-hypervisor.ts";
import type { Hypervisor } from "../hypervisors/port.ts";
import type { Database } from "../tables/database.ts";
import { getHypervisor } from "../tables/hypervisors.ts";

/** The adapter of a registered hypervisor. Throws HypervisorMisconfigured when it is not registered (any more). */
export async function openHypervisor(database: Database, tenant: string, id: string): Promise<Hypervisor> {
  const row = await getHypervisor(database, tenant, id);
  if (!row) throw new HypervisorMisconfigured(`${id} is no longer registered`);
  return hypervisorOf(row);
}

/**
 * The adapter for a hypervisor, registered or about to be. A root of `file.roots` with `{tenant}` in it is each tenant's own:
 * none can register a directory of another.
 */
export function hypervisorOf({ tenant, settings }: Pick<HypervisorRow, "tenant" | "settings">): Hypervisor {
  const allowedRoots = environmentList("FILE_ROOTS").map((root) => root.replaceAll("{tenant}", tenant));
  return new FileHypervisor({ directory: settings.directory, allowedRoots });
}
