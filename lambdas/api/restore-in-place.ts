/**
 * Restores that give a volume back the bytes of one of its snapshots. The volume belongs to the job from the request on: no snapshot of it is
 * requested and no VM that has it is started, until the job is done with it, or what it held is put back.
 */
import { StateConflict } from "../domain/errors.ts";
import { newId } from "../domain/ids.ts";
import type { Volume } from "../domain/inventory.ts";
import { type Job, newJob } from "../domain/job.ts";
import type { Snapshot } from "../domain/snapshot.ts";
import { isPerhapsStopped, type Vm } from "../domain/vm.ts";
import type { Services } from "../services.ts";
import { transact, WriteRefused } from "../tables/database.ts";
import { snapshotsOnPrimary } from "../tables/primary-copies.ts";
import { getVm, vmsOnHypervisor } from "../tables/vms.ts";
import { requestRestoreInPlace } from "../transactions/restore-volume.ts";
import { requireSnapshot, requireVolume } from "./access.ts";
import type { ApiRequest } from "./api-handler.ts";
import type { ApiResponse, Caller } from "./http.ts";
import { explainRefusal, showSnapshot } from "./lookups.ts";
import { idempotently } from "./middleware/idempotency.ts";
import { accepted, frozenPolicy, startOrLeave } from "./new-jobs.ts";
import type { operations } from "./operations.ts";
import { Problem } from "./problem.ts";
import { diskRefusal, readableState, unsavedRefusal } from "./refusals.ts";
import { jobRepresentation, pathOf, volumeRepresentation } from "./representations.ts";

type Request = ApiRequest<(typeof operations)["restoreSnapshot"]>;

export async function restoreInPlace(services: Services, request: Request): Promise<ApiResponse> {
  const { caller, id } = request;
  const answer = await idempotently(services, request, { job: newId("job") }, async ({ ids, record }) => {
    const { snapshot, volume, vms } = await requirePossible(services, caller, id);
    const now = services.now().toISOString();
    const job: Omit<Job, "open"> = {
      ...newJob(ids.job, "restore-volume", snapshot, (await frozenPolicy(services)).policy, now),
      target: {
        hypervisorId: volume.hypervisorId,
        hypervisorTenant: volume.hypervisorTenant,
        name: volume.name,
        volumeId: volume.id,
        replaces: volume.externalId,
      },
    };
    const answer = {
      job: jobRepresentation(job),
      snapshot: await showSnapshot(services, { ...snapshot, readers: [...snapshot.readers, job.id] }),
      volume: volumeRepresentation({ ...volume, restoringJobId: job.id }, caller),
    };
    try {
      await transact(services.database, [
        ...requestRestoreInPlace(services.database, snapshot, vms, job, now),
        ...record(answer),
      ]);
    } catch (error) {
      if (!(error instanceof WriteRefused)) throw error;
      await requirePossible(services, caller, id);
      throw new StateConflict(`something is being done to ${volume.id} or to a VM that has it; try again`);
    }
    await startOrLeave(services, { ...job, open: true });
    return answer;
  });
  return accepted(services, caller, answer);
}

interface Possible {
  readonly snapshot: Snapshot;
  readonly volume: Volume;
  /** All that have the volume as a disk. */
  readonly vms: readonly Vm[];
}

/** Throws the problem that stands in the way. */
async function requirePossible(services: Services, caller: Caller, id: string): Promise<Possible> {
  const { database } = services;
  const snapshot = await requireSnapshot(services, caller, id);
  if (snapshot.state !== readableState) throw await explainRefusal(services, caller, id, "restore");
  const volume = await requireVolume(services, caller, snapshot.volumeId);
  const vms = await vmsWith(services, volume);
  const refusal =
    diskRefusal(volume) ??
    runningRefusal(caller, volume, vms) ??
    unsavedRefusal(volume, await snapshotsOnPrimary(database, volume));
  if (refusal) throw refusal;
  return { snapshot, volume, vms };
}

/** Rows of an index lag behind: each is read again. */
async function vmsWith({ database }: Services, volume: Volume): Promise<Vm[]> {
  const found: Vm[] = [];
  const hypervisor = { tenant: volume.hypervisorTenant, id: volume.hypervisorId };
  for await (const { tenant, id } of vmsOnHypervisor(database, hypervisor)) {
    const vm = await getVm(database, tenant, id);
    const hasVolume = vm?.disks.some((disk) => disk.tenant === volume.tenant && disk.volumeId === volume.id);
    if (vm && hasVolume && !vm.missing) found.push(vm);
  }
  return found;
}

/** By the rows: the job looks at the VM itself, and changes nothing while that runs. A VM of another tenant is not named. */
function runningRefusal(caller: Caller, volume: Volume, vms: readonly Vm[]): Problem | undefined {
  const vm = vms.find((one) => !isPerhapsStopped(one));
  if (!vm) return undefined;
  const isOwn = vm.tenant === caller.tenant;
  return new Problem(
    "vm-is-running",
    `${volume.id} is a disk of ${isOwn ? `${vm.id} (${vm.name})` : "a VM"} that is not stopped but ${vm.state}: a disk is restored in place only while its VM is stopped. Stop it, or restore to a new volume. If it was stopped by other means, discover again (POST ${pathOf("hypervisors", volume.hypervisorId)}/discover).`,
    { members: { volumeId: volume.id, ...(isOwn ? { vmId: vm.id } : {}) } },
  );
}
