/** Virtual machines: list, look at. They come from discovery. */
import type { DiskOfVm, Vm } from "../domain/vm.ts";
import type { Services } from "../services.ts";
import { listVms as listVmRows } from "../tables/vms.ts";
import { getVolume } from "../tables/volumes.ts";
import { maySee, requireVm } from "./access.ts";
import type { ApiRequest } from "./api-handler.ts";
import { pageAnswer } from "./cursor.ts";
import { type ApiResponse, type Caller, mayActAs } from "./http.ts";
import { inParallel } from "./lookups.ts";
import type { operations } from "./operations.ts";
import { vmRepresentation } from "./representations.ts";

type Operations = typeof operations;

export async function listVms(
  services: Services,
  { caller, query }: ApiRequest<Operations["listVms"]>,
): Promise<ApiResponse> {
  const { hypervisorId, limit, cursor } = query;
  const withUnassigned = mayActAs(caller, "admin");
  const page = await listVmRows(services.database, caller.tenant, {
    hypervisorId,
    withUnassigned,
    limit,
    after: cursor,
  });
  return pageAnswer(await inParallel(page.items, (vm) => showVm(services, caller, vm)), page.next);
}

export async function readVm(
  services: Services,
  { caller, id }: ApiRequest<Operations["getVm"]>,
): Promise<ApiResponse> {
  return { status: 200, body: await showVm(services, caller, await requireVm(services, caller, id)) };
}

/** The disks in the hypervisor's order, each with its volume as it is now. */
export function disksOf(services: Pick<Services, "database">, caller: Caller, vm: Vm): Promise<DiskOfVm[]> {
  return Promise.all(
    vm.disks.map(async (disk): Promise<DiskOfVm> => {
      const volume = await getVolume(services.database, disk.tenant, disk.volumeId);
      return volume ? { ...disk, volume, visible: maySee(caller, volume) } : { ...disk, visible: false };
    }),
  );
}

export async function showVm(services: Pick<Services, "database">, caller: Caller, vm: Vm) {
  return vmRepresentation(vm, await disksOf(services, caller, vm), caller);
}
