/** What discovery does alike for all that it finds on a hypervisor: whose it is, and whose row of it may be written. */
import { assignTenant, type HypervisorRow } from "../domain/inventory.ts";
import type { Services } from "../services.ts";
import { getHypervisor } from "../tables/hypervisors.ts";

/** Rows written at once: 16 writes of some 10 ms make over 1,000 rows a second. */
const parallelWrites = 16;

export interface Owned {
  readonly tenant: string;
  readonly id: string;
  readonly hypervisorId: string;
  readonly hypervisorTenant: string;
}

/** What is known stays with the tenant that has it (a volume that was restored belongs to who restored it); rules assign what is new. */
export function ownerOf(
  hypervisor: HypervisorRow,
  name: string,
  rows: readonly { readonly tenant: string; readonly unassigned: boolean; readonly missing: boolean }[],
): { tenant: string; unassigned: boolean } {
  const owner = rows.find((row) => !row.missing) ?? rows[0];
  return owner ? { tenant: owner.tenant, unassigned: owner.unassigned } : assignTenant(hypervisor, name);
}

/**
 * Another tenant may have registered a hypervisor under the same id, and ids of what is found are made of it: rows of that one are not this
 * one's to change, whatever tenant its rules name. They are where that other hypervisor is not registered (any more), and in the
 * hypervisor's own tenant. `write` answers false when the row is another tenant's, unless it is to be written `insteadOf` that one.
 */
export async function recordFound(
  services: Services,
  found: Owned,
  write: (insteadOf?: string) => Promise<boolean>,
  read: () => Promise<Owned | undefined>,
): Promise<boolean> {
  if (await write()) return true;
  const { tenant, id, hypervisorId, hypervisorTenant } = found;
  const other = (await read())?.hypervisorTenant;
  const isFree =
    tenant === hypervisorTenant ||
    other === undefined ||
    !(await getHypervisor(services.database, other, hypervisorId));
  if (isFree && (await write(other))) return true;
  services.logger.warn("a row is of another tenant's hypervisor of the same id", { tenant, id, hypervisorId });
  return false;
}

/** The rows of each id; two tenants may have one. */
export async function rowsById<Row extends { readonly id: string }>(
  rows: AsyncIterable<Row>,
): Promise<Map<string, Row[]>> {
  const known = new Map<string, Row[]>();
  for await (const row of rows) known.set(row.id, [...(known.get(row.id) ?? []), row]);
  return known;
}

export async function inBatches<Item>(
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
