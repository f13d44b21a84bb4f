/** Doing an operation on the hypervisor, and looking at the VM there. */
import { StateConflict, VmNotFound } from "../domain/errors.ts";
import { type Volume, volumeIdFor } from "../domain/inventory.ts";
import { isForbiddenBySomeBackup } from "../domain/operations.ts";
import { type Vm, type VmState, vmRow } from "../domain/vm.ts";
import type { Hypervisor, VmDescription, VmOperationRequest } from "../hypervisors/port.ts";
import type { Services } from "../services.ts";
import { getVm, markVmMissing, recordDiscoveredVm } from "../tables/vms.ts";
import { getVolume, recordDiscovered } from "../tables/volumes.ts";
import type { VmRepresentation } from "./response-schemas.ts";
import { showVm } from "./vms.ts";
import { type Situation, stateRefusal } from "./vms-refusals.ts";

/** How long the hypervisor may take for an operation. The function lives for 29 s, and looks at the VM before and after. */
const operationMilliseconds = 12_000;
/** How long a VM is looked at after an operation. The answer must not fail for it: a repetition would do the operation again. */
const lookMilliseconds = 5_000;

/** What an operation is done with. */
export interface Host {
  readonly adapter: Hypervisor;
  /** To be called before the hypervisor is asked: from then on nobody knows what it does when the connection breaks. */
  asking(): void;
}

/**
 * Does it, and answers the VM as it is after that. The VM is looked at before: what backups forbid was judged by the disks that the last
 * discovery found, and nobody tells when its state changes. What it is then is recorded also where the operation fails.
 */
export async function operateOnHost(
  services: Services,
  { caller, vm }: Situation,
  { adapter, asking }: Host,
  { wanted, volumeId }: { wanted: VmOperationRequest; volumeId: string | undefined },
): Promise<VmRepresentation> {
  if (!adapter.operateVm) throw new StateConflict(`${vm.hypervisorId} is of kind ${adapter.kind}, which has no VMs`);
  const before = await lookAt(adapter, vm);
  if (isForbiddenBySomeBackup(wanted.operation) && !hasDisksOf(vm, before))
    throw new StateConflict(`${vm.id} has other disks than at the last discovery. Discover ${vm.hypervisorId} again`);
  let isGoingOn = false;
  try {
    const refusal = stateRefusal({ ...vm, state: before.state }, wanted.operation);
    if (refusal) throw refusal;
    asking();
    const { finished } = await adapter.operateVm(vm.externalId, wanted, { until: Date.now() + operationMilliseconds });
    services.logger.info("operation done", { tenant: vm.tenant, vmId: vm.id, operation: wanted.operation, finished });
    isGoingOn = !finished;
  } finally {
    await recordInTime(services, vm, adapter, { named: volumeId, isGoingOn });
  }
  return showVm(services, caller, (await getVm(services.database, vm.tenant, vm.id)) ?? vm);
}

interface Done {
  /** The disk that the operation named. */
  readonly named: string | undefined;
  /** Whether the guest was asked to stop, and has not. */
  readonly isGoingOn: boolean;
}

/** Never fails: see {@link lookMilliseconds}. */
async function recordInTime(services: Services, vm: Vm, adapter: Hypervisor, done: Done): Promise<void> {
  const recorded = recordAsItIs(services, vm, adapter, done).catch((error: unknown) =>
    services.logger.warn("the VM was not looked at after an operation", { vmId: vm.id, error: error as Error }),
  );
  const timeIsUp = new Promise((resolve) => setTimeout(resolve, lookMilliseconds).unref());
  await Promise.race([recorded, timeIsUp]);
}

/** Throws VmNotFound. */
async function lookAt(adapter: Hypervisor, vm: Vm): Promise<VmDescription> {
  const found = await adapter.describeVm?.(vm.externalId);
  if (found) return found;
  throw new VmNotFound(`${vm.id} (${vm.name}) is not on its hypervisor any more.`);
}

function hasDisksOf(vm: Vm, { disks }: VmDescription): boolean {
  const known = vm.disks.map(({ volumeId }) => volumeId);
  const now = disks.map(({ volumeExternalId }) => volumeIdFor(vm.hypervisorId, volumeExternalId));
  return JSON.stringify(known) === JSON.stringify(now);
}

/** Brings the VM's row up to date, and that of the disk that was named. One that was attached is of the VM's tenant; whose others are the next discovery tells. */
async function recordAsItIs(services: Services, vm: Vm, adapter: Hypervisor, done: Done): Promise<void> {
  const { database, now } = services;
  const { named, isGoingOn } = done;
  const { tenant, unassigned, hypervisorTenant } = vm;
  const discoveredAt = now().toISOString();
  const tenants = new Map(vm.disks.map((disk) => [disk.volumeId, disk.tenant]));
  const tenantOf = (id: string) => tenants.get(id) ?? (id === named ? tenant : hypervisorTenant);
  try {
    const found = await lookAt(adapter, vm);
    const state: VmState = isGoingOn && found.state === "running" ? "stopping" : found.state;
    const row = vmRow({ tenant: hypervisorTenant, id: vm.hypervisorId }, { ...found, state }, tenantOf);
    await recordDiscoveredVm(database, { ...row, tenant, unassigned, discoveredAt });
  } catch (error) {
    if (!(error instanceof VmNotFound)) throw error;
    await markVmMissing(database, vm, discoveredAt);
  }
  const volume = named === undefined ? undefined : await getVolume(database, tenant, named);
  if (volume) await recordVolume(services, volume, adapter);
}

/** The volume as it is now: with the name that it has as a disk, and whether it can be backed up. */
async function recordVolume({ database, now }: Services, volume: Volume, adapter: Hypervisor): Promise<void> {
  const { tenant, id, hypervisorId, hypervisorTenant, unassigned } = volume;
  const found = await adapter.describeVolume(volume.externalId);
  const row = { ...found, tenant, id, hypervisorId, hypervisorTenant, unassigned };
  await recordDiscovered(database, { ...row, discoveredAt: now().toISOString() });
}
