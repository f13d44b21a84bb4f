/**
 * Operations on VMs: which are allowed now, and doing one.
 *
 * No backup may begin of a disk that an operation takes away, and no such operation while one goes on. So an operation first holds, in one
 * transaction, the VM and the disks whose backups forbid it, on condition that none of them is being backed up; a backup begins on
 * condition that its volume is not held. Whichever is first, the other is refused.
 */
import { isRetryable, StateConflict, VmNotFound } from "../domain/errors.ts";
import { newId } from "../domain/ids.ts";
import { volumeIdFor } from "../domain/inventory.ts";
import {
  isForbiddenBySomeBackup,
  namesFiles,
  permissionWhile,
  roleOf,
  type VmOperation,
  vmOperations,
} from "../domain/operations.ts";
import { type DiskOfVm, isHeld, type Vm } from "../domain/vm.ts";
import type { Hypervisor, VmDescription, VmOperationRequest } from "../hypervisors/port.ts";
import type { Services } from "../services.ts";
import { transact, WriteRefused } from "../tables/database.ts";
import { snapshotsInState } from "../tables/snapshots.ts";
import { getVm, holdVm, markVmMissing, recordDiscoveredVm, releaseVm } from "../tables/vms.ts";
import { holdVolume, releaseVolume } from "../tables/volumes.ts";
import { requireVm, requireVolume } from "./access.ts";
import type { ApiRequest } from "./api-handler.ts";
import { type ApiResponse, type Caller, mayActAs } from "./http.ts";
import { hypervisorProblem } from "./hypervisor-problems.ts";
import { idempotently } from "./middleware/idempotency.ts";
import type { operations } from "./operations.ts";
import { invalidRequest, Problem } from "./problem.ts";
import { vmRefusal, volumeRefusal, waitOrCancel } from "./refusals.ts";
import type { VmOperationsRepresentation, VmRepresentation } from "./response-schemas.ts";
import { disksOf, showVm } from "./vms.ts";
import { vmRow } from "./vms-discovery.ts";

type Operations = typeof operations;
type Body = ApiRequest<Operations["operateVm"]>["body"];

/**
 * How long an operation counts that nobody ends. The function that does it is ended after 29 s; what the hypervisor was asked for by then is
 * done, or refused, within as long again.
 */
const holdSeconds = 60;

/** How long a VM is looked at after an operation. The answer must not fail for it: a repetition would do the operation again. */
const lookMilliseconds = 5_000;

/** All that decides whether an operation is allowed. */
interface Situation {
  readonly caller: Caller;
  readonly vm: Vm;
  readonly disks: readonly DiskOfVm[];
  /** Jobs that back the disks up, by volumes' ids; those of the caller's tenant only. Eventually consistent, unlike the disks' counts. */
  readonly jobs: ReadonlyMap<string, readonly string[]>;
  /** ISO 8601 in UTC. */
  readonly now: string;
}

async function situationOf(services: Services, caller: Caller, id: string): Promise<Situation> {
  const vm = await requireVm(services, caller, id);
  const disks = await disksOf(services, caller, vm);
  const jobs = new Map<string, string[]>();
  if (disks.some(isBackingUp))
    for await (const { tenant, volumeId, jobId } of snapshotsInState(services.database, "BackingUp"))
      if (tenant === caller.tenant) jobs.set(volumeId, [...(jobs.get(volumeId) ?? []), jobId]);
  return { caller, vm, disks, jobs, now: services.now().toISOString() };
}

function isBackingUp({ volume }: DiskOfVm): boolean {
  return (volume?.backingUp ?? 0) > 0;
}

/** Why the operation is refused now, in words; undefined when it is allowed. `named` is the volume that it names. */
function refusalOf(situation: Situation, operation: VmOperation, named?: string): Problem | undefined {
  const { caller, vm } = situation;
  const missing = vmRefusal(vm);
  if (missing) return missing;
  if (namesFiles(operation) && !(caller.tenant === vm.hypervisorTenant && mayActAs(caller, "admin")))
    return new Problem(
      "forbidden",
      `${operation} names a file on the hypervisor. It is for administrators of the tenant that registered it.`,
    );
  return refusalByBackups(situation, operation, named) ?? refusalByHolds(situation, operation, named);
}

/** Whether a backup of that disk would forbid the operation: then none may begin while it is done. */
function threatens(operation: VmOperation, disk: DiskOfVm, named?: string): boolean {
  return permissionWhile(operation, roleOf(disk, named)) !== true;
}

/** Something else is being done to the VM, or to a disk that the operation would take away. */
function refusalByHolds({ vm, disks, now }: Situation, operation: VmOperation, named?: string): Problem | undefined {
  const disk = disks.find((one) => one.volume && isHeld(one.volume, now) && threatens(operation, one, named));
  const held = isHeld(vm, now) ? vm : disk?.volume;
  if (!held) return undefined;
  const what = held === vm ? vm.id : `disk ${disk?.target} of ${vm.id}`;
  return new Problem(
    "vm-is-being-operated",
    `Something is being done to ${what} already. Try again when it is done, or after ${held.heldUntil}.`,
    { members: { vmId: vm.id } },
  );
}

function refusalByBackups({ vm, disks, jobs }: Situation, operation: VmOperation, named?: string): Problem | undefined {
  for (const disk of disks.filter(isBackingUp)) {
    const permission = permissionWhile(operation, roleOf(disk, named));
    if (permission === true) continue;
    const standing = jobs.get(disk.volumeId) ?? [];
    const what = disk.visible ? `${disk.target} (${disk.volumeId})` : disk.target;
    const by = standing.length === 0 ? "" : ` by ${standing.join(", ")}`;
    const [first] = standing;
    const until = first === undefined ? "Try again when that has ended." : waitOrCancel(first);
    return new Problem(
      "vm-is-backing-up",
      `${operation} is refused: ${permission}. ${what} is being backed up${by}. ${until}`,
      { members: { vmId: vm.id, jobs: standing } },
    );
  }
  return undefined;
}

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
  const refusal = refusalOf(situation, operation, named);
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
    const refusal = refusalOf(situation, body.operation, body.volumeId);
    if (refusal) throw refusal;
    const wanted = await wantedOf(services, situation, body);
    const held = await hold(services, situation, body, ids.operation);
    const answer = await whileHeld(services, situation.vm, held, ids.operation, (host) =>
      act(services, situation, host, { wanted, volumeId: body.volumeId }),
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
      const refusal = volumeRefusal(volume);
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

/**
 * Holds the VM, and those of its disks whose backups would forbid the operation. Answers these disks. Throws the problem that stands in the
 * way by now.
 */
async function hold(
  services: Services,
  { caller, vm, disks, now }: Situation,
  { operation, volumeId }: Body,
  operationId: string,
): Promise<DiskOfVm[]> {
  const { database } = services;
  const until = new Date(Date.parse(now) + holdSeconds * 1000).toISOString();
  const threatened = disks.filter((disk) => disk.volume && threatens(operation, disk, volumeId));
  try {
    await transact(database, [
      holdVm(database, vm, { operationId, until }, now),
      ...threatened.map(({ tenant, volumeId: id }) =>
        holdVolume(database, { tenant, id }, { operationId, until }, now),
      ),
    ]);
    return threatened;
  } catch (error) {
    if (!(error instanceof WriteRefused)) throw error;
    const refusal = refusalOf(await situationOf(services, caller, vm.id), operation, volumeId);
    throw refusal ?? new StateConflict(`${vm.id} or one of its disks changed meanwhile; try again`);
  }
}

/** What an operation is done with. */
interface Host {
  readonly adapter: Hypervisor;
  /** To be called before the hypervisor is asked: from then on nobody knows what it does when the connection breaks. */
  asking(): void;
}

/** Lets go when it is done, refused for good, or was never asked for. What may still be carried out keeps its hold until that ends by itself. */
async function whileHeld<Result>(
  services: Services,
  vm: Vm,
  held: readonly DiskOfVm[],
  operationId: string,
  act: (host: Host) => Promise<Result>,
): Promise<Result> {
  const release = async () => {
    for (const { tenant, volumeId: id } of held) await releaseVolume(services.database, { tenant, id }, operationId);
    await releaseVm(services.database, vm, operationId);
  };
  let asked = false;
  const asking = () => {
    asked = true;
  };
  try {
    const result = await act({ adapter: await services.hypervisor(vm.hypervisorTenant, vm.hypervisorId), asking });
    await release();
    return result;
  } catch (error) {
    if (!asked || !isRetryable(error)) await release();
    throw hypervisorProblem(vm.hypervisorId, error);
  }
}

/**
 * Does it, and answers the VM as it is after that. The VM is looked at before: what backups forbid was judged by the disks that the last
 * discovery found.
 */
async function act(
  services: Services,
  { caller, vm }: Situation,
  { adapter, asking }: Host,
  { wanted, volumeId }: { wanted: VmOperationRequest; volumeId: string | undefined },
): Promise<VmRepresentation> {
  if (!adapter.operateVm) throw new StateConflict(`${vm.hypervisorId} is of kind ${adapter.kind}, which has no VMs`);
  const before = await lookAt(adapter, vm);
  if (isForbiddenBySomeBackup(wanted.operation) && !hasDisksOf(vm, before))
    throw new StateConflict(`${vm.id} has other disks than at the last discovery. Discover ${vm.hypervisorId} again`);
  asking();
  await adapter.operateVm(vm.externalId, wanted);
  services.logger.info("operation done", { tenant: vm.tenant, vmId: vm.id, operation: wanted.operation });
  const recorded = recordAsItIs(services, vm, adapter, volumeId).catch((error: unknown) =>
    services.logger.warn("the VM was not looked at after an operation", { vmId: vm.id, error: error as Error }),
  );
  const timeIsUp = new Promise((resolve) => setTimeout(resolve, lookMilliseconds).unref());
  await Promise.race([recorded, timeIsUp]);
  return showVm(services, caller, (await getVm(services.database, vm.tenant, vm.id)) ?? vm);
}

/** Throws VmNotFound. */
async function lookAt(adapter: Hypervisor, vm: Vm): Promise<VmDescription> {
  for await (const found of adapter.listVms?.() ?? []) if (found.externalId === vm.externalId) return found;
  throw new VmNotFound(`${vm.id} (${vm.name}) is not on its hypervisor any more.`);
}

function hasDisksOf(vm: Vm, { disks }: VmDescription): boolean {
  const known = vm.disks.map(({ volumeId }) => volumeId);
  const now = disks.map(({ volumeExternalId }) => volumeIdFor(vm.hypervisorId, volumeExternalId));
  return JSON.stringify(known) === JSON.stringify(now);
}

/** Brings the VM's row up to date. A disk that was attached is of the VM's tenant; whose others are the next discovery tells. */
async function recordAsItIs(
  { database, now }: Services,
  vm: Vm,
  adapter: Hypervisor,
  attached: string | undefined,
): Promise<void> {
  const { tenant, unassigned, hypervisorTenant } = vm;
  const discoveredAt = now().toISOString();
  const tenants = new Map(vm.disks.map((disk) => [disk.volumeId, disk.tenant]));
  const tenantOf = (id: string) => tenants.get(id) ?? (id === attached ? tenant : hypervisorTenant);
  try {
    const row = vmRow({ tenant: hypervisorTenant, id: vm.hypervisorId }, await lookAt(adapter, vm), tenantOf);
    await recordDiscoveredVm(database, { ...row, tenant, unassigned, discoveredAt });
  } catch (error) {
    if (!(error instanceof VmNotFound)) throw error;
    await markVmMissing(database, vm, discoveredAt);
  }
}
