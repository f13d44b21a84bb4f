/** Snapshots of VMs: one moment of several volumes. */
import { StateConflict } from "../domain/errors.ts";
import { newId } from "../domain/ids.ts";
import type { Volume } from "../domain/inventory.ts";
import type { SnapshotGroup } from "../domain/job.ts";
import type { DiskOfVm, Vm } from "../domain/vm.ts";
import type { Services } from "../services.ts";
import { transact, WriteRefused } from "../tables/database.ts";
import { listSnapshots } from "../tables/snapshots.ts";
import { requireVm as requireVmRow } from "../tables/vms.ts";
import { requestSnapshots } from "../transactions/create-snapshot.ts";
import { requireSnapshot, requireVm } from "./access.ts";
import type { ApiRequest } from "./api-handler.ts";
import { pageAnswer } from "./cursor.ts";
import type { ApiResponse, Caller } from "./http.ts";
import { showSnapshots } from "./lookups.ts";
import { idempotently } from "./middleware/idempotency.ts";
import { frozenPolicy, startOrLeave } from "./new-jobs.ts";
import type { operations } from "./operations.ts";
import { requireRoomInChain } from "./primary-chain.ts";
import { invalidRequest, Problem } from "./problem.ts";
import { vmRefusal, volumeRefusal } from "./refusals.ts";
import { mostVolumesTogether } from "./request-schemas.ts";
import type { VmSnapshotRepresentation } from "./response-schemas.ts";
import { newSnapshot, requireAsked } from "./snapshots.ts";
import { disksOf } from "./vms.ts";

type Operations = typeof operations;

/**
 * One transaction makes a snapshot and a job for each volume, and one execution, named after the first job, takes them. The answer that a
 * repetition gets holds ids only: the rows are read anew for each.
 */
export async function createVmSnapshot(
  services: Services,
  request: ApiRequest<Operations["createVmSnapshot"]>,
): Promise<ApiResponse> {
  const { caller, id, body } = request;
  const group = await idempotently(services, request, { group: newId("group") }, async ({ ids, record }) => {
    const vm = await requireVm(services, caller, id);
    const volumes = await volumesToTake(services, caller, vm, body.volumeIds);
    await requireAsked(services, caller, vm, body);
    await requireRoomInChain(services, volumes);
    const group: SnapshotGroup = {
      id: ids.group,
      members: volumes.map(() => ({ snapshotId: newId("snapshot"), jobId: newId("job") })),
    };
    const settings = await frozenPolicy(services, body);
    const now = services.now().toISOString();
    const rows = volumes.map((volume, index) => {
      const { snapshotId = "", jobId = "" } = group.members[index] ?? {};
      return newSnapshot({ snapshot: snapshotId, job: jobId }, volume, body, settings, now, { vmId: vm.id, group });
    });
    try {
      await transact(services.database, [
        ...requestSnapshots(services.database, rows),
        requireVmRow(services.database, vm),
        ...record(group),
      ]);
    } catch (error) {
      if (!(error instanceof WriteRefused)) throw error;
      await volumesToTake(services, caller, await requireVm(services, caller, id), body.volumeIds);
      throw new StateConflict(`${id}, its volumes or the store changed meanwhile; try again`);
    }
    const [first] = rows;
    if (first) await startOrLeave(services, { ...first.job, open: true });
    return group;
  });
  const snapshots = await Promise.all(
    group.members.map(({ snapshotId }) => requireSnapshot(services, caller, snapshotId)),
  );
  const answer: VmSnapshotRepresentation = {
    groupId: group.id,
    vmId: id,
    snapshots: await showSnapshots(services, snapshots),
  };
  return { status: 202, body: answer };
}

/** The named volumes, or all that the VM has. Throws a problem where one of them cannot be taken. */
async function volumesToTake(
  services: Services,
  caller: Caller,
  vm: Vm,
  named: readonly string[] | undefined,
): Promise<Volume[]> {
  const refusal = vmRefusal(vm);
  if (refusal) throw refusal;
  const disks = await disksOf(services, caller, vm);
  const chosen = named === undefined ? allDisks(vm, disks) : namedVolumes(vm, disks, named);
  for (const volume of chosen) {
    const refusal = volumeRefusal(volume);
    if (refusal) throw refusal;
  }
  return chosen;
}

function allDisks(vm: Vm, disks: readonly DiskOfVm[]): Volume[] {
  const volumes = disks.flatMap(({ visible, volume }) => (visible && volume ? [volume] : []));
  const others = disks.filter(({ visible }) => !visible);
  const members = { vmId: vm.id };
  if (others.length > 0)
    throw new Problem(
      "vm-has-other-disks",
      `${vm.id} has disks that are not yours to take: ${others.map(({ target }) => target).join(", ")}. Name the volumes to take in volumeIds.`,
      { members },
    );
  if (volumes.length === 0) throw new Problem("conflict", `${vm.id} has no disks.`, { members });
  if (volumes.length > mostVolumesTogether)
    throw new Problem(
      "vm-has-other-disks",
      `${vm.id} has ${volumes.length} disks, and ${mostVolumesTogether} can be taken together. Name the volumes to take in volumeIds.`,
      { members },
    );
  return volumes;
}

function namedVolumes(vm: Vm, disks: readonly DiskOfVm[], named: readonly string[]): Volume[] {
  return named.map((volumeId, index) => {
    const disk = disks.find((one) => one.volumeId === volumeId);
    if (disk?.visible && disk.volume) return disk.volume;
    throw invalidRequest([{ pointer: `/volumeIds/${index}`, detail: `is no disk of ${vm.id}` }]);
  });
}

export async function listVmSnapshots(
  services: Services,
  { caller, id, query }: ApiRequest<Operations["listVmSnapshots"]>,
): Promise<ApiResponse> {
  const vm = await requireVm(services, caller, id);
  const { state, limit, cursor } = query;
  const page = await listSnapshots(services.database, caller.tenant, { vmId: vm.id, state, limit, after: cursor });
  return pageAnswer(await showSnapshots(services, page.items), page.next);
}
