/**
 * The states of `statemachines/create-snapshot.asl.json`. An execution creates one snapshot, or all of a group: then each state does its
 * work for all of them, and none of them stays where one cannot be had.
 */
import { StateConflict } from "../domain/errors.ts";
import { mostDefinitionBytes, type Snapshot } from "../domain/snapshot.ts";
import { vmIdFor } from "../domain/vm.ts";
import { removePrimary } from "../endings/remove-primary.ts";
import type { DefinedVm, SnapshotRequest, TakenSnapshot } from "../hypervisors/port.ts";
import type { Services } from "../services.ts";
import type { Database } from "../tables/database.ts";
import { getJob } from "../tables/jobs.ts";
import { getSnapshot } from "../tables/snapshots.ts";
import { saveVmDefinition } from "../tables/vm-definitions.ts";
import { getVm } from "../tables/vms.ts";
import {
  beginCreate,
  type CreatedMember,
  createdOnPrimary,
  createFailed,
  type FrozenVolume,
  isCreatedBy,
  readMembers,
} from "../transactions/create-snapshot.ts";
import { type CaughtError, causeOf, type StateFunctions, type TaskInput } from "./state-function.ts";
import { volumeOf } from "./volume-of.ts";

/** Nothing has been written to a copy that was just made, so that it is soon merged; garbage collection does what takes longer. */
const takeBackSeconds = 60;

/** What Take hands to Complete. */
interface Frozen {
  readonly snapshots: readonly FrozenVolume[];
}

/** Snapshots that were deleted or cancelled before this are not created; nor are, then, the others of their group. */
async function Begin(services: Services, { job: { tenant, jobId, snapshotId } }: TaskInput) {
  const { database } = services;
  const [job, snapshot] = await Promise.all([
    getJob(database, tenant, jobId),
    getSnapshot(database, tenant, snapshotId),
  ]);
  if (!job || !snapshot) return { proceed: false };
  const members = await readMembers(database, { tenant, id: jobId });
  const wanted = members.filter(isWanted);
  if (wanted.length === 0) return { proceed: false };
  const unwanted = members.find((member) => !wanted.includes(member));
  if (unwanted)
    throw new StateConflict(`${unwanted.snapshot.id} was to be taken at the same moment and is not wanted any more`);
  const { hypervisor, requests } = await whatToTake(services, members);
  const installPaths = new Map(requests.map((request) => [request.snapshotId, hypervisor.plannedInstallPath(request)]));
  await beginCreate(database, { tenant, id: jobId }, installPaths, services.now().toISOString());
  return { proceed: true };
}

function isWanted({ job, snapshot }: CreatedMember): boolean {
  return isCreatedBy(job, snapshot) && (snapshot.state === "Allocated" || snapshot.state === "Creating");
}

/** The members' volumes, which are all on one hypervisor. */
async function whatToTake(services: Services, members: readonly CreatedMember[]) {
  const found = await Promise.all(
    members.map(async ({ snapshot }) => {
      const { volume, hypervisor } = await volumeOf(services, snapshot);
      const request: SnapshotRequest = { externalId: volume.externalId, snapshotId: snapshot.id };
      return { hypervisor, request };
    }),
  );
  const [first] = found;
  if (!first) throw new Error("a group has no members");
  return { hypervisor: first.hypervisor, requests: found.map(({ request }) => request) };
}

async function Take(services: Services, { job: { tenant, jobId, policy } }: TaskInput): Promise<Frozen> {
  const members = await readMembers(services.database, { tenant, id: jobId });
  const { hypervisor, requests } = await whatToTake(services, members);
  const taken = await hypervisor.takeSnapshots(requests, { quiesce: policy.quiesce ?? false });
  if (taken.length !== requests.length)
    throw new Error(`the ${hypervisor.kind} hypervisor answered ${taken.length} snapshots for ${requests.length}`);
  const memberOf = new Map(members.map((member) => [member.snapshot.id, member]));
  const save = (one: TakenSnapshot) => saveDefinition(services, memberOf.get(one.snapshotId), one);
  return { snapshots: await Promise.all(taken.map(save)) };
}

/**
 * What goes on to Complete: the definition of the VM, which may be large, lies in its row by then. One that is too large is not saved, nor is
 * that of a VM which is not known as the tenant's own: a disk of it may be.
 */
async function saveDefinition(
  { database, logger }: Services,
  member: CreatedMember | undefined,
  { vm, ...frozen }: TakenSnapshot,
): Promise<FrozenVolume> {
  if (!vm || !member || !(await isOwnVm(database, member.snapshot, vm))) return frozen;
  const { job, snapshot } = member;
  const { name, target, definition } = vm;
  if (Buffer.byteLength(definition) > mostDefinitionBytes) {
    const about = { tenant: snapshot.tenant, jobId: job.id, snapshotId: snapshot.id };
    logger.warn("the definition of a VM is too large to be saved", about);
    return frozen;
  }
  const isSaved = await saveVmDefinition(database, snapshot, job.id, definition);
  return { ...frozen, ...(isSaved && { vmDefinition: { name, target } }) };
}

async function isOwnVm(
  database: Database,
  { tenant, hypervisorId, hypervisorTenant }: Snapshot,
  { externalId }: DefinedVm,
): Promise<boolean> {
  const vm = await getVm(database, tenant, vmIdFor(hypervisorId, externalId));
  return vm !== undefined && vm.hypervisorTenant === hypervisorTenant && !vm.unassigned;
}

async function Complete(services: Services, { job: { tenant, jobId }, frozen }: TaskInput & { frozen: Frozen }) {
  await createdOnPrimary(services.database, { tenant, id: jobId }, frozen.snapshots, services.now().toISOString());
}

async function Fail(services: Services, { job: { tenant, jobId }, error }: TaskInput & { error: CaughtError }) {
  const { database, logger } = services;
  const members = await readMembers(database, { tenant, id: jobId });
  const own = members.filter(({ job, snapshot }) => isCreatedBy(job, snapshot));
  const [first] = own;
  if (!first) return;
  const primaryGone = new Set<string>();
  for (const { snapshot } of own) {
    const gone = await takeBack(services, snapshot).catch((failure) => {
      logger.warn("primary is left to garbage collection", { jobId, snapshotId: snapshot.id, error: failure });
      return false;
    });
    if (gone) primaryGone.add(snapshot.id);
  }
  const now = services.now();
  const { errorGraceSeconds } = await services.settings();
  const keptUntil = new Date(now.getTime() + errorGraceSeconds * 1000).toISOString();
  const failure = { error: causeOf(error), primaryGone, cancelled: false, keptUntil };
  await createFailed(database, first.job, failure, now.toISOString());
}

/** Whether nothing of the snapshot is left on primary. */
async function takeBack(services: Services, snapshot: CreatedMember["snapshot"]): Promise<boolean> {
  const removal = await removePrimary(services, snapshot, {
    jobId: snapshot.jobId,
    waitSeconds: takeBackSeconds,
  });
  return removal === "gone";
}

export const createSnapshotStates: StateFunctions = { Begin, Take, Complete, Fail };
