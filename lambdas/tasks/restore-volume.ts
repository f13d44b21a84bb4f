/** The states of `statemachines/restore-volume.asl.json`, but for the writing of shards (copy-shards.ts). */
import { type ErrorSummary, OperationRefused, StateConflict, summarizeError } from "../domain/errors.ts";
import { hasEnded, isForVm } from "../domain/job.ts";
import { backupOf, cleanUpAfter, closeRestore, newVolumeOf } from "../endings/clean-up.ts";
import { endJob } from "../endings/end-job.ts";
import { clearPrimary } from "../endings/remove-primary.ts";
import { describeLost } from "../repository/damage.ts";
import { planRestore } from "../repository/reader.ts";
import type { Services } from "../services.ts";
import { getJob, updateRunningJob } from "../tables/jobs.ts";
import { recordedLosses, recordLoss, setProgressTotal, shardFailure } from "../tables/progress.ts";
import { getSnapshot } from "../tables/snapshots.ts";
import { getVolume } from "../tables/volumes.ts";
import { requireJob, requireSnapshot } from "../transactions/create-snapshot.ts";
import { beginRestore, type RestoredVolume, restored } from "../transactions/restore-volume.ts";
import { ReportShardFailure, writeMapItems } from "./backup-snapshot.ts";
import { GiveToVm } from "./restore-to-vm.ts";
import { type CaughtError, causeOf, mergeWaitSeconds, type StateFunctions, type TaskInput } from "./state-function.ts";

interface Plan {
  readonly sizeBytes: number;
  readonly shardCount: number;
  readonly itemsKey: string;
}

/** As many sentences as a check of a backup keeps: some 10 KiB in the job's row. */
const mostShownLosses = 10;

/** A restore makes one attempt; its states retry what a store or a hypervisor may get over. */
const onlyAttempt = 1;

async function Begin(services: Services, { job: { tenant, jobId } }: TaskInput) {
  const job = await getJob(services.database, tenant, jobId);
  if (!job || hasEnded(job.state)) return { proceed: false };
  await beginRestore(services.database, job, services.now().toISOString());
  return { proceed: true, inPlace: job.target?.replaces !== undefined };
}

/**
 * Of a restore in place: copies are layers of what is to be replaced. They stay where the volume is in use, since it is not replaced then. Not
 * finished: it is asked again after a while.
 */
async function ClearPrimary(services: Services, { job: { tenant, jobId } }: TaskInput) {
  const { database } = services;
  const { job, hypervisor } = await targetOf(services, tenant, jobId);
  const volume = await getVolume(database, tenant, job.target?.volumeId ?? "");
  if (volume?.restoringJobId !== jobId) throw new StateConflict(`${job.target?.volumeId} is not restored by ${jobId}`);
  if ((await hypervisor.describeVolume(volume.externalId)).inUse)
    throw new OperationRefused(`${volume.id} (${volume.name}) is in use: its VM is not stopped.`);
  const removal = await clearPrimary(services, volume, { jobId, waitSeconds: mergeWaitSeconds });
  const phase = removal === "in-use" ? "WaitingForExport" : "Planning";
  await updateRunningJob(database, job, { phase, updatedAt: services.now().toISOString() });
  return { finished: removal === "gone" };
}

async function Plan(services: Services, { job: { tenant, jobId, snapshotId } }: TaskInput): Promise<Plan> {
  const snapshot = await requireSnapshot(services.database, tenant, snapshotId);
  const { salvage = false } = await requireJob(services.database, tenant, jobId);
  const { lost, ...plan } = await planRestore({ ...(await backupOf(services, snapshot, jobId)), salvage });
  if (lost.length > 0) await recordLoss(services.database, jobId, describeLost(lost), services.now());
  await setProgressTotal(services.database, jobId, plan.bytesTotal, services.now());
  const itemsKey = await writeMapItems(services, jobId, plan.shardCount);
  return { sizeBytes: plan.sizeBytes, shardCount: plan.shardCount, itemsKey };
}

async function CreateVolume(services: Services, { job: { tenant, jobId }, plan }: TaskInput & { plan: Plan }) {
  const { hypervisor, job } = await targetOf(services, tenant, jobId);
  await hypervisor.createVolume(newVolumeOf(job, plan.sizeBytes));
  await updateRunningJob(services.database, job, { phase: "Copying", updatedAt: services.now().toISOString() });
}

async function Publish(services: Services, { job: { tenant, jobId }, plan }: TaskInput & { plan: Plan }) {
  const { hypervisor, job } = await targetOf(services, tenant, jobId);
  await updateRunningJob(services.database, job, { phase: "Publishing", updatedAt: services.now().toISOString() });
  const published = await hypervisor.publishVolume(newVolumeOf(job, plan.sizeBytes));
  const { externalId, name, sizeBytes, allocatedBytes, unsupported } = published;
  const volume: RestoredVolume = { externalId, name, sizeBytes, allocatedBytes, unsupported };
  return { ...volume, forVm: isForVm(job.target) };
}

async function Complete(
  services: Services,
  { job: { tenant, jobId }, volume }: TaskInput & { volume: RestoredVolume },
) {
  const { database } = services;
  const lost = shownLosses(await recordedLosses(database, jobId));
  await restored(database, { tenant, id: jobId }, volume, { now: services.now().toISOString(), lost });
}

function shownLosses(recorded: readonly string[]): string[] {
  if (recorded.length <= mostShownLosses) return [...recorded];
  return [
    ...recorded.slice(0, mostShownLosses),
    "That is not all: a salvage to a file (snapshots download) lists everything.",
  ];
}

async function Close(services: Services, { job: { tenant, jobId, snapshotId } }: TaskInput) {
  const snapshot = await getSnapshot(services.database, tenant, snapshotId);
  await closeRestore(services, await requireJob(services.database, tenant, jobId), snapshot);
}

/** Before any byte was copied no late worker can exist, so the clean-up need not wait. */
async function Abandon(services: Services, { job: { tenant, jobId }, error }: TaskInput & { error: CaughtError }) {
  const before = await requireJob(services.database, tenant, jobId);
  const failure = (await shardFailure(services.database, jobId, onlyAttempt)) ?? causeOf(error);
  const reason = before.phase === "Attaching" ? withVolumeKept(failure, before.target?.volumeId) : failure;
  await endJob(services, before, { error: reason, cancelled: false });
  const job = await requireJob(services.database, tenant, jobId);
  if (before.phase !== "Copying" && job.state !== "Succeeded") await cleanUpAfter(services, job, () => false);
}

/** What failed came after the volume was complete. */
function withVolumeKept({ name, message }: ErrorSummary, volumeId: string | undefined): ErrorSummary {
  const failure = new Error(`The volume ${volumeId} is restored and stays; giving it to the VM has failed: ${message}`);
  failure.name = name;
  return summarizeError(failure);
}

async function targetOf(services: Services, tenant: string, jobId: string) {
  const job = await requireJob(services.database, tenant, jobId);
  const { target } = job;
  if (!target) throw new Error(`${jobId} has no target`);
  return {
    job: { ...job, target },
    hypervisor: await services.hypervisor(target.hypervisorTenant, target.hypervisorId),
  };
}

export const restoreVolumeStates: StateFunctions = {
  Begin,
  ClearPrimary,
  Plan,
  CreateVolume,
  Publish,
  GiveToVm,
  Complete,
  Close,
  Abandon,
  ReportShardFailure,
};
