/**
 * Operations on VMs: which are allowed now, and doing one.
 *
 * No backup may begin of a disk that an operation takes away, and no such operation while one goes on. So an operation first holds, in one
 * transaction, the VM and the disks whose backups forbid it, on condition that none of them is being backed up; a backup begins on
 * condition that its volume is not held. Whichever is first, the other is refused.
 */
import { isRetryable, StateConflict } from "../domain/errors.ts";
import { newId } from "../domain/ids.ts";
import { type VmOperation, vmOperations } from "../domain/operations.ts";
import type { DiskOfVm, Vm } from "../domain/vm.ts";
import type { VmOperationRequest } from "../hypervisors/port.ts";
import type { Services } from "../services.ts";
import { transact, WriteRefused } from "../tables/database.ts";
import { holdVm, releaseVm } from "../tables/vms.ts";
import { holdVolume, releaseVolume, requireNotRestoring } from "../tables/volumes.ts";
import { requireVolume } from "./access.ts";
import type { ApiRequest } from "./api-handler.ts";
import type { ApiResponse } from "./http.ts";
import { hypervisorProblem } from "./hypervisor-problems.ts";
import { idempotently } from "./middleware/idempotency.ts";
import type { operations } from "./operations.ts";
import { invalidRequest } from "./problem.ts";
import { diskRefusal } from "./refusals.ts";
import type { VmOperationsRepresentation } from "./response-schemas.ts";
import { type Host, operateOnHost } from "./vms-on-host.ts";
import {
  diskHoldOf,
  isRefusedWhileRestored,
  operationRefusal,
  type Situation,
  situationOf,
  stateRefusal,
  threatens,
} from "./vms-refusals.ts";

type Operations = typeof operations;
type Body = ApiRequest<Operations["operateVm"]>["body"];

/**
 * How long an operation counts that nobody ends. The function that does it is ended after 29 s; what the hypervisor was asked for by then is
 * done, or refused, within as long again.
 */
const holdSeconds = 60;

type Verdict = VmOperationsRepresentation["operations"][number];

/** Of what names a disk there is a verdict for each disk. */
export async function listVmOperations(
  services: Services,
  { caller, id }: ApiRequest<Operations["listVmOperations"]>,
): Promise<ApiResponse> {
  const situation = await situationOf(services, caller, id);
  const detachable = situation.disks.filter(({ visible }) => visible);
  const body: VmOperationsRepresentation = {
    vmId: id,
    operations: vmOperations.flatMap((operation): Verdict[] =>
      operation === "detach-disk"
        ? detachable.map(({ volumeId }) => ({ operation, volumeId, ...verdict(situation, operation, volumeId) }))
        : [{ operation, ...verdict(situation, operation) }],
    ),
  };
  return { status: 200, body };
}

function verdict(situation: Situation, operation: VmOperation, named?: string): Omit<Verdict, "operation"> {
  const refusal = operationRefusal(situation, operation, named) ?? stateRefusal(situation.vm, operation);
  if (!refusal) return { allowed: true };
  const jobs = refusal.extras.members?.jobs as string[] | undefined;
  return { allowed: false, reason: refusal.message, ...(jobs === undefined ? {} : { jobs }) };
}

/** Does it once for each `Idempotency-Key`; the answer is stored when it is done. */
export async function operateVm(
  services: Services,
  request: ApiRequest<Operations["operateVm"]>,
): Promise<ApiResponse> {
  const { caller, id, body } = request;
  const answer = await idempotently(services, request, { operation: newId("operation") }, async ({ ids, record }) => {
    const situation = await situationOf(services, caller, id);
    const refusal = operationRefusal(situation, body.operation, body.volumeId);
    if (refusal) throw refusal;
    const wanted = await wantedOf(services, situation, body);
    const holds = await hold(services, situation, body, ids.operation);
    const answer = await whileHeld(services, situation.vm, holds, (host) =>
      operateOnHost(services, situation, host, { wanted, volumeId: body.volumeId }),
    );
    const items = record(answer);
    if (items.length > 0) await transact(services.database, items);
    return answer;
  });
  return { status: 200, body: answer };
}

/** What the hypervisor is asked for. Throws a problem that names the field when it names what is not there. */
async function wantedOf(services: Services, { caller, vm, disks }: Situation, body: Body): Promise<VmOperationRequest> {
  const { operation, volumeId = "", path = "", imagePath = "", cpus = 0, memoryBytes = 0 } = body;
  switch (operation) {
    case "attach-disk": {
      const volume = await requireVolume(services, caller, volumeId, { pointer: "/volumeId" });
      const refusal = diskRefusal(volume);
      if (refusal) throw refusal;
      if (volume.hypervisorId !== vm.hypervisorId || volume.hypervisorTenant !== vm.hypervisorTenant)
        throw invalidRequest([{ pointer: "/volumeId", detail: `is on another hypervisor than ${vm.id}` }]);
      return { operation, volumeExternalId: volume.externalId };
    }
    case "detach-disk": {
      const disk = disks.find((one) => one.visible && one.volumeId === volumeId);
      if (!disk?.volume) throw invalidRequest([{ pointer: "/volumeId", detail: `is no disk of ${vm.id}` }]);
      return { operation, volumeExternalId: disk.volume.externalId };
    }
    case "attach-iso":
      return { operation, path };
    case "reinstall":
      return { operation, imagePath };
    case "change-cpu":
      return { operation, cpus };
    case "change-memory":
      return { operation, memoryBytes };
    default:
      return { operation };
  }
}

interface Holds {
  /** Of the VM: one operation at a time. */
  readonly operationId: string;
  /** Of the disks: the same operation may be asked for again and goes on where it was. */
  readonly diskHold: string;
  readonly disks: readonly DiskOfVm[];
}

/** Holds the VM, and those of its disks whose backups would forbid the operation, unless a restore that forbids it has one of them. Throws the problem that stands in the way by now. */
async function hold(
  services: Services,
  { caller, vm, disks, now }: Situation,
  { operation, volumeId }: Body,
  operationId: string,
): Promise<Holds> {
  const { database } = services;
  const until = new Date(Date.parse(now) + holdSeconds * 1000).toISOString();
  const known = disks.filter((disk) => disk.volume);
  const threatened = known.filter((disk) => threatens(operation, disk, volumeId));
  const unlessRestoring = (disk: DiskOfVm) => isRefusedWhileRestored(operation, disk, volumeId);
  const looked = known.filter((disk) => !threatened.includes(disk) && unlessRestoring(disk));
  const diskHold = diskHoldOf(vm, operation);
  try {
    await transact(database, [
      holdVm(database, vm, { operationId, until }, now),
      ...threatened.map((disk) => {
        const hold = { operationId: diskHold, until, unlessRestoring: unlessRestoring(disk) };
        return holdVolume(database, { tenant: disk.tenant, id: disk.volumeId }, hold, now);
      }),
      ...looked.map(({ tenant, volumeId: id }) => requireNotRestoring(database, { tenant, id })),
    ]);
    return { operationId, diskHold, disks: threatened };
  } catch (error) {
    if (!(error instanceof WriteRefused)) throw error;
    const refusal = operationRefusal(await situationOf(services, caller, vm.id), operation, volumeId);
    throw refusal ?? new StateConflict(`${vm.id} or one of its disks changed meanwhile; try again`);
  }
}

/**
 * Lets go of the VM when the hypervisor has answered, and of the disks when it is done, refused for good, or was never asked for. Disks of an
 * operation that may still be carried out are held until that ends by itself.
 */
async function whileHeld<Result>(
  services: Services,
  vm: Vm,
  { operationId, diskHold, disks }: Holds,
  act: (host: Host) => Promise<Result>,
): Promise<Result> {
  const { database } = services;
  const releaseDisks = async () => {
    for (const { tenant, volumeId: id } of disks) await releaseVolume(database, { tenant, id }, diskHold);
  };
  let asked = false;
  const asking = () => {
    asked = true;
  };
  try {
    const adapter = await services.hypervisor(vm.hypervisorTenant, vm.hypervisorId);
    const result = await act({ adapter, asking });
    await releaseDisks();
    return result;
  } catch (error) {
    if (!asked || !isRetryable(error)) await releaseDisks();
    throw hypervisorProblem(vm.hypervisorId, error);
  } finally {
    await releaseVm(database, vm, operationId);
  }
}
