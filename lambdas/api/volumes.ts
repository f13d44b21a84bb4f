/** Volumes: list, look at. They come from discovery and from restores. */
import type { Services } from "../services.ts";
import { listVolumes as listVolumeRows } from "../tables/volumes.ts";
import { requireVolume } from "./access.ts";
import type { ApiRequest } from "./api-handler.ts";
import { pageAnswer } from "./cursor.ts";
import { type ApiResponse, mayActAs } from "./http.ts";
import type { operations } from "./operations.ts";
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
