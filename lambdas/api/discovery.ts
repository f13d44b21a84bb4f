/** Finds the volumes of a hypervisor and its VMs: each gets its id and its tenant, and those that are gone are marked. */
import { type HypervisorRow, volumeIdFor } from "../domain/inventory.ts";
import type { VolumeDescription } from "../hypervisors/port.ts";
import type { Services } from "../services.ts";
import { markDiscovered } from "../tables/hypervisors.ts";
import { getVolume, markMissing, recordDiscovered, volumesOnHypervisor } from "../tables/volumes.ts";
import { inBatches, ownerOf, recordFound, rowsById } from "./discovered-rows.ts";
import type { Discovery } from "./response-schemas.ts";
import { discoverVms } from "./vms-discovery.ts";

/**
 * May run at any time and any number of times; a volume that a restore is writing is left alone. Undefined: the hypervisor was forgotten
 * meanwhile.
 */
export async function discover(services: Services, hypervisor: HypervisorRow): Promise<Discovery | undefined> {
  const { database } = services;
  const discoveredAt = services.now().toISOString();
  const adapter = await services.hypervisor(hypervisor.tenant, hypervisor.id);
  const known = await rowsById(volumesOnHypervisor(database, hypervisor));
  const tenants = new Map<string, string>();
  const counts = { found: 0, added: 0, missing: 0, unsupported: 0 };

  const record = async (found: VolumeDescription): Promise<void> => {
    const id = volumeIdFor(hypervisor.id, found.externalId);
    const rows = known.get(id) ?? [];
    const owner = ownerOf(hypervisor, found.name, rows);
    tenants.set(id, owner.tenant);
    counts.found++;
    if (found.unsupported !== undefined) counts.unsupported++;
    if (rows.some((row) => row.restoringJobId !== undefined)) return;
    const row = {
      ...owner,
      id,
      hypervisorId: hypervisor.id,
      hypervisorTenant: hypervisor.tenant,
      externalId: found.externalId,
      name: found.name,
      sizeBytes: found.sizeBytes,
      ...(found.allocatedBytes === undefined ? {} : { allocatedBytes: found.allocatedBytes }),
      inUse: found.inUse,
      ...(found.unsupported === undefined ? {} : { unsupported: found.unsupported }),
      discoveredAt,
    };
    const written = await recordFound(
      services,
      row,
      (insteadOf) => recordDiscovered(database, row, insteadOf),
      () => getVolume(database, row.tenant, id),
    );
    if (written && rows.length === 0) counts.added++;
  };
  await inBatches(adapter.listVolumes(), record);

  const vanished = [...known.values()].flat().filter((row) => !tenants.has(row.id) && row.restoringJobId === undefined);
  counts.missing = vanished.length;
  await inBatches(
    vanished.filter((row) => !row.missing),
    (row) => markMissing(database, row, discoveredAt),
  );
  const vms = await discoverVms(services, hypervisor, adapter, tenants, discoveredAt);
  const { quiesce: quiesces } = adapter.capabilities;
  if (!(await markDiscovered(database, hypervisor, { discoveredAt, quiesces }))) return undefined;
  return { ...counts, ...(vms === undefined ? {} : { vms }) };
}
