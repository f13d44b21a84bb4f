/** What a caller may know of. All else is a 404, whether it belongs to somebody else or never was. */
import type { Volume } from "../domain/inventory.ts";
import type { Snapshot } from "../domain/snapshot.ts";
import type { Services } from "../services.ts";
import { getSnapshot } from "../tables/snapshots.ts";
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

/** The volume, if the caller may know of it. Throws a 404 problem. */
export async function requireVolume(services: Pick<Services, "database">, caller: Caller, id: string): Promise<Volume> {
  const volume = await getVolume(services.database, caller.tenant, id);
  if (!volume || (volume.unassigned && !mayActAs(caller, "admin"))) throw notFound("volume", id);
  return volume;
}
