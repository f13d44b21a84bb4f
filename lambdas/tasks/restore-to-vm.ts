/** The state of a restore that makes the complete volume a disk of a VM: of one that is there, or of one that is made for it. */
import { OperationRefused, StateConflict, VmBusy, VmNotFound } from "../domain/errors.ts";
import type { Job, RestoreTarget } from "../domain/job.ts";
import { vmIdFor, vmRow } from "../domain/vm.ts";
import type { Hypervisor, VmDescription } from "../hypervisors/port.ts";
import type { Services } from "../services.ts";
import { updateRunningJob } from "../tables/jobs.ts";
import { getVmDefinition } from "../tables/vm-definitions.ts";
import { getVm, recordDiscoveredVm, releaseVm, tryHoldVm } from "../tables/vms.ts";
import { recordDiscovered } from "../tables/volumes.ts";
import { requireJob, requireSnapshot } from "../transactions/create-snapshot.ts";
import { type RestoredVolume, restoredForVm } from "../transactions/restore-volume.ts";
import type { TaskInput } from "./state-function.ts";

/** As operations that callers ask for: a call that libvirt does not answer fails after as long. The state machine waits for twice that. */
const holdSeconds = 60;

/** A restore whose target is a VM. */
interface ForVm {
  readonly job: Job;
  readonly target: RestoreTarget;
  readonly hypervisor: Hypervisor;
  readonly volume: RestoredVolume;
}

/**
 * From the beginning of this state on the volume stays, whatever becomes of the job. Runs twice with the same outcome: an attached disk and
 * a VM that was made are found. Both rows are then as a discovery would make them.
 *
 * @throws VmBusy while something else is being done to the VM
 * @throws VmNotFound, OperationRefused, StateConflict
 */
export async function GiveToVm(
  services: Services,
  { job: { tenant, jobId }, volume }: TaskInput & { volume: RestoredVolume },
): Promise<void> {
  const { database } = services;
  await restoredForVm(database, { tenant, id: jobId }, volume, services.now().toISOString());
  const job = await requireJob(database, tenant, jobId);
  if (!job.target) throw new Error(`${jobId} has no target`);
  const { target } = job;
  const hypervisor = await services.hypervisor(target.hypervisorTenant, target.hypervisorId);
  const restore: ForVm = { job, target, hypervisor, volume };
  const vmId = target.newVm ? await define(services, restore, target.newVm.name) : await attach(services, restore);
  await recordVolume(services, restore);
  const updatedAt = services.now().toISOString();
  await updateRunningJob(database, job, { target: { ...target, vmId }, updatedAt });
}

async function attach(services: Services, restore: ForVm): Promise<string> {
  const { database } = services;
  const { job, target, hypervisor, volume } = restore;
  const vm = await getVm(database, job.tenant, target.vmId ?? "");
  if (!vm || vm.missing) throw new VmNotFound(`${target.vmId} is not on its hypervisor any more.`);
  if (!hypervisor.operateVm) throw new OperationRefused(`${target.hypervisorId} attaches no disks.`);
  const now = services.now();
  const until = new Date(now.getTime() + holdSeconds * 1000).toISOString();
  if (!(await tryHoldVm(database, vm, { operationId: job.id, until }, now.toISOString())))
    throw new VmBusy(`Something else is being done to ${vm.id} (${vm.name}).`);
  try {
    await hypervisor.operateVm(vm.externalId, {
      operation: "attach-disk",
      volumeExternalId: volume.externalId,
    });
  } finally {
    await releaseVm(database, vm, job.id);
  }
  const tenants = new Map(vm.disks.map((disk) => [disk.volumeId, disk.tenant]));
  const tenantOf = (id: string) => tenants.get(id) ?? (id === target.volumeId ? job.tenant : vm.hypervisorTenant);
  await recordVm(services, restore, await findVm(hypervisor, vm.externalId), { unassigned: vm.unassigned, tenantOf });
  return vm.id;
}

async function define(services: Services, restore: ForVm, name: string): Promise<string> {
  const { database } = services;
  const { job, target, hypervisor, volume } = restore;
  const { vmDefinition } = await requireSnapshot(database, job.tenant, job.snapshotId);
  const definition = await getVmDefinition(database, { tenant: job.tenant, id: job.snapshotId });
  if (!vmDefinition || definition === undefined)
    throw new StateConflict(`No definition of a VM is saved with ${job.snapshotId} any more.`);
  if (!hypervisor.defineVm) throw new OperationRefused(`${target.hypervisorId} makes no VMs.`);
  const volumeExternalId = volume.externalId;
  const vm = { name, definition, target: vmDefinition.target, volumeExternalId };
  const externalId = await hypervisor.defineVm(vm);
  // Like the volume it belongs to whoever restores, whatever the rules say of its name.
  const owned = { unassigned: false, tenantOf: () => job.tenant };
  await recordVm(services, restore, await findVm(hypervisor, externalId), owned);
  return vmIdFor(target.hypervisorId, externalId);
}

async function findVm(hypervisor: Hypervisor, externalId: string): Promise<VmDescription> {
  const found = await hypervisor.describeVm?.(externalId);
  if (found) return found;
  throw new VmNotFound(`There is no VM ${externalId} on the hypervisor any more.`);
}

async function recordVm(
  { database, now }: Services,
  { job, target }: ForVm,
  found: VmDescription,
  { unassigned, tenantOf }: { unassigned: boolean; tenantOf: (volumeId: string) => string },
): Promise<void> {
  const row = vmRow({ tenant: target.hypervisorTenant, id: target.hypervisorId }, found, tenantOf);
  await recordDiscoveredVm(database, { ...row, tenant: job.tenant, unassigned, discoveredAt: now().toISOString() });
}

/** The volume as it is now that a VM has it: it may have another name, and can be backed up. */
async function recordVolume({ database, now }: Services, { job, target, hypervisor, volume }: ForVm): Promise<void> {
  const found = await hypervisor.describeVolume(volume.externalId);
  const { tenant } = job;
  const { hypervisorId, hypervisorTenant, volumeId: id } = target;
  const row = { ...found, tenant, id, hypervisorId, hypervisorTenant, unassigned: false };
  await recordDiscovered(database, { ...row, discoveredAt: now().toISOString() });
}
