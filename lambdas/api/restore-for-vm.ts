/** What a restore may be told beside a hypervisor: a name, a storage pool, and the VM that gets the volume as a disk. */
import { assignTenant, type HypervisorRow, hypervisorKinds } from "../domain/inventory.ts";
import type { Snapshot } from "../domain/snapshot.ts";
import type { Services } from "../services.ts";
import { vmsOnHypervisor } from "../tables/vms.ts";
import type { ApiRequest } from "./api-handler.ts";
import type { Caller } from "./http.ts";
import type { operations } from "./operations.ts";
import { invalidRequest, Problem } from "./problem.ts";
import { operationRefusal, situationOf } from "./vms-refusals.ts";

type Target = ApiRequest<(typeof operations)["restoreSnapshot"]>["body"]["target"];

/**
 * Throws the problem that names the field for what cannot be done. Whether the pool is on the host is found out by the job: nothing here
 * reaches a hypervisor.
 */
export async function requireTargetPossible(
  services: Services,
  caller: Caller,
  snapshot: Snapshot,
  hypervisor: HypervisorRow,
  { name = "", pool, attachToVmId, newVm }: Target,
): Promise<void> {
  const { kind } = hypervisor.settings;
  if (hypervisorKinds[kind].snapshotNames?.test(name))
    throw invalidRequest([
      {
        pointer: "/target/name",
        detail: `must not be what a snapshot's file is called on a hypervisor of kind ${kind}`,
      },
    ]);
  if (pool !== undefined && !hypervisorKinds[kind].pools)
    throw invalidRequest([
      { pointer: "/target/pool", detail: `must not be given: ${hypervisor.id} is of kind ${kind}, which has no pools` },
    ]);
  if (attachToVmId !== undefined) await requireAttachable(services, caller, hypervisor, attachToVmId);
  if (newVm === undefined) return;
  if (!hypervisorKinds[kind].makesVms)
    throw invalidRequest([
      { pointer: "/target/newVm", detail: `must not be given: ${hypervisor.id} is of kind ${kind}, which has no VMs` },
    ]);
  if (snapshot.vmDefinition === undefined)
    throw invalidRequest([
      { pointer: "/target/newVm", detail: `must not be given: no definition of a VM is saved with ${snapshot.id}` },
    ]);
  await requireFreeVmName(services, caller, hypervisor, newVm.name);
}

async function requireAttachable(
  services: Services,
  caller: Caller,
  hypervisor: HypervisorRow,
  vmId: string,
): Promise<void> {
  const where = { pointer: "/target/attachToVmId" };
  const situation = await situationOf(services, caller, vmId, where);
  const { hypervisorId, hypervisorTenant } = situation.vm;
  if (hypervisorId !== hypervisor.id || hypervisorTenant !== hypervisor.tenant)
    throw invalidRequest([{ ...where, detail: `is on another hypervisor, ${hypervisorId}` }]);
  const refusal = operationRefusal(situation, "attach-disk");
  if (refusal) throw refusal;
}

/** As far as the last discovery knows, and the rules: no name is taken that they keep for another tenant. */
async function requireFreeVmName(
  { database }: Services,
  caller: Caller,
  hypervisor: HypervisorRow,
  name: string,
): Promise<void> {
  const owner = assignTenant(hypervisor, name);
  if (!owner.unassigned && owner.tenant !== caller.tenant)
    throw vmNameTaken(`The rules of ${hypervisor.id} keep the name ${name} for others. Choose another.`);
  for await (const vm of vmsOnHypervisor(database, hypervisor))
    if (vm.name === name && !vm.missing)
      throw vmNameTaken(`${hypervisor.id} has a VM of the name ${name} already. Choose another name.`);
}

function vmNameTaken(detail: string): Problem {
  return new Problem("vm-name-taken", detail, {
    errors: [{ pointer: "/target/newVm/name", detail: "is taken" }],
  });
}
