/** Finds the VMs of a hypervisor: each gets its id and its tenant by the same rules as volumes, and those that are gone are marked. */
import type { HypervisorRow } from "../domain/inventory.ts";
import { vmIdFor, vmRow } from "../domain/vm.ts";
import type { Hypervisor } from "../hypervisors/port.ts";
import type { Services } from "../services.ts";
import { getVm, markVmMissing, recordDiscoveredVm, vmsOnHypervisor } from "../tables/vms.ts";
import { inBatches, ownerOf, recordFound, rowsById } from "./discovered-rows.ts";
import type { Discovery } from "./response-schemas.ts";

/**
 * May run at any time and any number of times. `volumeTenants` are by volumes' ids. Undefined: the hypervisor has no VMs.
 */
export async function discoverVms(
  services: Services,
  hypervisor: HypervisorRow,
  adapter: Hypervisor,
  volumeTenants: ReadonlyMap<string, string>,
  discoveredAt: string,
): Promise<Discovery["vms"]> {
  if (!adapter.listVms) return undefined;
  const { database } = services;
  const known = await rowsById(vmsOnHypervisor(database, hypervisor));
  const seen = new Set<string>();
  const counts = { found: 0, added: 0, missing: 0 };
  await inBatches(adapter.listVms(), async (found) => {
    const id = vmIdFor(hypervisor.id, found.externalId);
    seen.add(id);
    counts.found++;
    const rows = known.get(id) ?? [];
    const owner = ownerOf(hypervisor, found.name, rows);
    const tenantOf = (volumeId: string) => volumeTenants.get(volumeId) ?? hypervisor.tenant;
    const row = { ...vmRow(hypervisor, found, tenantOf), ...owner, discoveredAt };
    const written = await recordFound(
      services,
      row,
      (insteadOf) => recordDiscoveredVm(database, row, insteadOf),
      () => getVm(database, row.tenant, id),
    );
    if (written && rows.length === 0) counts.added++;
  });
  const vanished = [...known.values()].flat().filter((row) => !seen.has(row.id));
  counts.missing = vanished.length;
  await inBatches(
    vanished.filter((row) => !row.missing),
    (row) => markVmMissing(database, row, discoveredAt),
  );
  return counts;
}
