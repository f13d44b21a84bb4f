/** Volumes: list, look at, take out of protection and into it again. They come from discovery and from restores. */
import { StateConflict } from "../domain/errors.ts";
import { protectionOf } from "../domain/protection.ts";
import type { Services } from "../services.ts";
import { snapshotsOnPrimary } from "../tables/primary-copies.ts";
import { beginEndOfProtection, listVolumes as listVolumeRows, protectAgain } from "../tables/volumes.ts";
import { requireVolume } from "./access.ts";
import type { ApiRequest } from "./api-handler.ts";
import { pageAnswer } from "./cursor.ts";
import { type ApiResponse, mayActAs } from "./http.ts";
import type { operations } from "./operations.ts";
import { diskRefusal, unsavedRefusal } from "./refusals.ts";
import { volumeRepresentation } from "./representations.ts";

type Operations = typeof operations;

export async function listVolumes(
  services: Services,
  { caller, query }: ApiRequest<Operations["listVolumes"]>,
): Promise<ApiResponse> {
  const { hypervisorId, limit, cursor } = query;
  const withUnassigned = mayActAs(caller, "admin");
  const page = await listVolumeRows(services.database, caller.tenant, {
    hypervisorId,
    withUnassigned,
    limit,
    after: cursor,
  });
  return pageAnswer(
    page.items.map((volume) => volumeRepresentation(volume, caller)),
    page.next,
  );
}

export async function readVolume(
  services: Services,
  { caller, id }: ApiRequest<Operations["getVolume"]>,
): Promise<ApiResponse> {
  return { status: 200, body: volumeRepresentation(await requireVolume(services, caller, id), caller) };
}

/**
 * The copies on primary go in rounds of garbage collection, which look again for snapshots without a backup: one may have been requested at
 * the same moment.
 */
export async function unprotectVolume(
  services: Services,
  { caller, id }: ApiRequest<Operations["unprotectVolume"]>,
): Promise<ApiResponse> {
  const { database } = services;
  const volume = await requireVolume(services, caller, id);
  if (protectionOf(volume) === "protected") {
    const copies = await snapshotsOnPrimary(database, volume);
    const refusal = diskRefusal(volume) ?? unsavedRefusal(volume, copies);
    if (refusal) throw refusal;
    await beginEndOfProtection(database, volume);
  }
  const now = await requireVolume(services, caller, id);
  if (protectionOf(now) === "protected")
    throw diskRefusal(now) ?? new StateConflict(`${id} changed meanwhile; try again`);
  return { status: 202, body: volumeRepresentation(now, caller) };
}

export async function protectVolume(
  services: Services,
  { caller, id }: ApiRequest<Operations["protectVolume"]>,
): Promise<ApiResponse> {
  const volume = await requireVolume(services, caller, id);
  if (
    protectionOf(volume) !== "protected" &&
    !(await protectAgain(services.database, volume, services.now().toISOString()))
  )
    throw new StateConflict(
      `What ${id} has on primary storage is being merged; try again when its protection has ended`,
    );
  return { status: 200, body: volumeRepresentation(await requireVolume(services, caller, id), caller) };
}
