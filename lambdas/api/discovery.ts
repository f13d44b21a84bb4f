/** Finds the volumes of a hypervisor: each gets its id and its tenant, and those that are gone are marked. */
import { assignTenant, type HypervisorRow, type Volume, volumeIdFor } from "../domain/inventory.ts";
import type { VolumeDescription } from "../hypervisors/port.ts";
import type { Services } from "../services.ts";
import { getHypervisor, markDiscovered } from "../tables/hypervisors.ts";
import { getVolume, markMissing, recordDiscovered, volumesOnHypervisor } from "../tables/volumes.ts";
import type { Discovery } from "./response-schemas.ts";

/** Rows written at once: 16 writes of some 10 ms make over 1,000 volumes a second. */
const parallelWrites = 16;

/**
 * May run at any time and any number of times; a volume that a restore is writing is left alone. Undefined: the hypervisor was forgotten
 * meanwhile.
 */
export async function discover(services: Services, hypervisor: HypervisorRow): Promise<Discovery | undefined> {
  const { database } = services;
  const discoveredAt = services.now().toISOString();
  const adapter = await services.hypervisor(hypervisor.tenant, hypervisor.id);
  const known = await knownVolumes(services, hypervisor);
  const seen = new Set<string>();
  const counts = { found: 0, added: 0, missing: 0, unsupported: 0 };

  const record = async (found: VolumeDescription): Promise<void> => {
    const id = volumeIdFor(hypervisor.id, found.externalId);
    seen.add(id);
    counts.found++;
    if (found.unsupported !== undefined) counts.unsupported++;
    const rows = known.get(id) ?? [];
    if (rows.some((row) => row.restoringJobId !== undefined)) return;
    const written = await recordVolume(services, {
      ...ownerOf(hypervisor, found, rows),
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
    });
    if (written && rows.length === 0) counts.added++;
  };
  await inBatches(adapter.listVolumes(), record);

  const vanished = [...known.values()].flat().filter((row) => !seen.has(row.id) && row.restoringJobId === undefined);
  counts.missing = vanished.length;
  await inBatches(
    vanished.filter((row) => !row.missing),
    (row) => markMissing(database, row, discoveredAt),
  );
  return (await markDiscovered(database, hypervisor, discoveredAt)) ? counts : undefined;
}

/**
 * Another tenant may have registered a hypervisor under the same id, and ids of volumes are made of it: rows of that one's volumes are not
 * this one's to change, whatever tenant its rules name. They are where that other hypervisor is not registered (any more), and in the
 * hypervisor's own tenant.
 */
async function recordVolume(services: Services, found: Parameters<typeof recordDiscovered>[1]): Promise<boolean> {
  const { database, logger } = services;
  if (await recordDiscovered(database, found)) return true;
  const { tenant, id, hypervisorId, hypervisorTenant } = found;
  const other = (await getVolume(database, tenant, id))?.hypervisorTenant;
  const isFree =
    tenant === hypervisorTenant || other === undefined || !(await getHypervisor(database, other, hypervisorId));
  if (isFree && (await recordDiscovered(database, found, other))) return true;
  logger.warn("a volume is on another tenant's hypervisor of the same id", { tenant, volumeId: id, hypervisorId });
  return false;
}

/** A volume stays with the tenant that has it (one that was restored belongs to who restored it); a new one is assigned by the rules. */
function ownerOf(
  hypervisor: HypervisorRow,
  found: VolumeDescription,
  rows: readonly Volume[],
): { tenant: string; unassigned: boolean } {
  const owner = rows.find((row) => !row.missing) ?? rows[0];
  return owner ? { tenant: owner.tenant, unassigned: owner.unassigned } : assignTenant(hypervisor, found.name);
}

async function knownVolumes({ database }: Services, hypervisor: HypervisorRow): Promise<Map<string, Volume[]>> {
  const known = new Map<string, Volume[]>();
  for await (const volume of volumesOnHypervisor(database, hypervisor))
    known.set(volume.id, [...(known.get(volume.id) ?? []), volume]);
  return known;
}

async function inBatches<Item>(
  items: Iterable<Item> | AsyncIterable<Item>,
  act: (item: Item) => Promise<void>,
): Promise<void> {
  let batch: Promise<void>[] = [];
  for await (const item of items) {
    batch.push(act(item));
    if (batch.length < parallelWrites) continue;
    await Promise.all(batch);
    batch = [];
  }
  await Promise.all(batch);
}
