/** What a caller may know of. All else is a 404, whether it belongs to somebody else or never was. */
import type { Volume } from "../domain/inventory.ts";
import type { Snapshot } from "../domain/snapshot.ts";
import type { Vm } from "../domain/vm.ts";
import type { Services } from "../services.ts";
import { getSnapshot } from "../tables/snapshots.ts";
import { getVm } from "../tables/vms.ts";
import { getVolume } from "../tables/volumes.ts";
import { type Caller, mayActAs } from "./http.ts";
import { notFound } from "./problem.ts";

/** The snapshot of the caller's tenant. Throws a 404 problem. */
export async function requireSnapshot(
  services: Pick<Services, "database">,
  caller: Caller,
  id: string,
): Promise<Snapshot> {
  const snapshot = await getSnapshot(services.database, caller.tenant, id);
  if (!snapshot) throw notFound("snapshot", id);
  return snapshot;
}

/** The volume, if the caller may know of it. Throws a 404 problem. `where` is given when a field of the request names the id. */
export async function requireVolume(
  services: Pick<Services, "database">,
  caller: Caller,
  id: string,
  where?: { pointer: string },
): Promise<Volume> {
  const volume = await getVolume(services.database, caller.tenant, id);
  if (!volume || !maySee(caller, volume)) throw notFound("volume", id, where);
  return volume;
}

/** The VM, if the caller may know of it. Throws a 404 problem. `where` is given when a field of the request names the id. */
export async function requireVm(
  services: Pick<Services, "database">,
  caller: Caller,
  id: string,
  where?: { pointer: string },
): Promise<Vm> {
  const vm = await getVm(services.database, caller.tenant, id);
  if (!vm || !maySee(caller, vm)) throw notFound("vm", id, where);
  return vm;
}

/** What no rule has given to a tenant is for administrators. */
export function maySee(caller: Caller, found: Pick<Volume | Vm, "tenant" | "unassigned">): boolean {
  return found.tenant === caller.tenant && (!found.unassigned || mayActAs(caller, "admin"));
}
