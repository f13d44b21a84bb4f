/** Why an operation on a VM is refused, in words: what stands in the way, and until when. */
import {
  namesFiles,
  permissionIn,
  permissionWhile,
  permissionWhileRestored,
  roleOf,
  type VmOperation,
} from "../domain/operations.ts";
import { type DiskOfVm, isHeld, type Vm } from "../domain/vm.ts";
import type { Services } from "../services.ts";
import { snapshotsInState } from "../tables/snapshots.ts";
import { requireVm } from "./access.ts";
import { type Caller, mayActAs } from "./http.ts";
import { Problem } from "./problem.ts";
import { vmRefusal, waitOrCancel } from "./refusals.ts";
import { disksOf } from "./vms.ts";

/** All that decides whether an operation is allowed. */
export interface Situation {
  readonly caller: Caller;
  readonly vm: Vm;
  readonly disks: readonly DiskOfVm[];
  /** Jobs that back the disks up, by volumes' ids; those of the caller's tenant only. Eventually consistent, unlike the disks' counts. */
  readonly jobs: ReadonlyMap<string, readonly string[]>;
  /** ISO 8601 in UTC. */
  readonly now: string;
}

/** Throws a 404 problem. `where` is given when a field of the request names the id. */
export async function situationOf(
  services: Services,
  caller: Caller,
  id: string,
  where?: { pointer: string },
): Promise<Situation> {
  const vm = await requireVm(services, caller, id, where);
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

/** Why the operation is refused now, whatever state the VM is in; undefined when it is allowed. `named` is the volume that it names. */
export function operationRefusal(situation: Situation, operation: VmOperation, named?: string): Problem | undefined {
  const { caller, vm } = situation;
  const missing = vmRefusal(vm);
  if (missing) return missing;
  if (namesFiles(operation) && !(caller.tenant === vm.hypervisorTenant && mayActAs(caller, "admin")))
    return new Problem(
      "forbidden",
      `${operation} names a file on the hypervisor. It is for administrators of the tenant that registered it.`,
    );
  return (
    refusalByBackups(situation, operation, named) ??
    refusalByRestores(situation, operation, named) ??
    refusalByHolds(situation, operation, named)
  );
}

/** Why the operation is refused of a VM in that state. A row may be out of date: an operation is judged by a look at the VM. */
export function stateRefusal({ id, name, state }: Vm, operation: VmOperation): Problem | undefined {
  const permission = permissionIn(operation, state);
  if (permission === true) return undefined;
  return new Problem("operation-refused", `${operation} is refused: ${permission}. ${id} (${name}) is ${state}.`, {
    members: { vmId: id },
  });
}

/** Whether a backup of that disk would forbid the operation: then none may begin while it is done. */
export function threatens(operation: VmOperation, disk: DiskOfVm, named?: string): boolean {
  return permissionWhile(operation, roleOf(disk, named)) !== true;
}

/** Whether a restore in place of that disk would forbid the operation. */
export function isRefusedWhileRestored(operation: VmOperation, disk: DiskOfVm, named?: string): boolean {
  return permissionWhileRestored(operation, roleOf(disk, named)) !== true;
}

/** What the operation holds disks by: the same one of the same VM may be asked for again. */
export function diskHoldOf(vm: Vm, operation: VmOperation): string {
  return `${operation} of ${vm.id}`;
}

/** Something else is being done to the VM, or to a disk that the operation would take away. */
function refusalByHolds({ vm, disks, now }: Situation, operation: VmOperation, named?: string): Problem | undefined {
  const own = diskHoldOf(vm, operation);
  const heldByOthers = ({ volume }: DiskOfVm) => volume && isHeld(volume, now) && volume.heldFor !== own;
  const disk = disks.find((one) => heldByOthers(one) && threatens(operation, one, named));
  const held = isHeld(vm, now) ? vm : disk?.volume;
  if (!held) return undefined;
  const what = held === vm ? vm.id : `disk ${disk?.target} of ${vm.id}`;
  return new Problem(
    "vm-is-being-operated",
    `Something is being done to ${what} already. Try again when it is done, or after ${held.heldUntil}.`,
    { members: { vmId: vm.id } },
  );
}

function refusalByRestores({ vm, disks }: Situation, operation: VmOperation, named?: string): Problem | undefined {
  for (const disk of disks) {
    const jobId = disk.volume?.restoringJobId;
    const permission = permissionWhileRestored(operation, roleOf(disk, named));
    if (jobId === undefined || permission === true) continue;
    const what = disk.visible ? `${disk.target} (${disk.volumeId})` : disk.target;
    const jobs = disk.visible ? [jobId] : [];
    return new Problem(
      "volume-is-restoring",
      `${operation} is refused: ${permission}. ${what} is being restored. ${disk.visible ? waitOrCancel(jobId) : "Try again later."}`,
      { members: { vmId: vm.id, jobs } },
    );
  }
  return undefined;
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
