/** What an ended job leaves behind, taken away. Every step may run twice; gone is success. */
import { dedupDomain } from "../domain/inventory.ts";
import { type Job, mayLeaveUploads } from "../domain/job.ts";
import { mayBeUnencrypted, type Snapshot } from "../domain/snapshot.ts";
import type { NewVolume } from "../hypervisors/port.ts";
import { unpinJob } from "../repository/pin.ts";
import { finishRestorePlan } from "../repository/reader.ts";
import type { Services } from "../services.ts";
import { closeJob } from "../tables/jobs.ts";
import { getSnapshot } from "../tables/snapshots.ts";
import { getStoreReference } from "../tables/store-references.ts";
import { deleteRestoringVolume, endRestoreInPlace, getVolume } from "../tables/volumes.ts";
import { primaryReference } from "../transactions/create-snapshot.ts";
import { type Removal, removeFrozen, settlePrimary } from "./remove-primary.ts";
import { sweepBackups } from "./sweep-backups.ts";

/** How long one job's merge is waited for here: other jobs wait for their turn, and the hypervisor works on meanwhile. */
const mergeWaitSeconds = 20;

/** Key, in the stack's bucket, of the list that a Distributed Map of this job reads. */
export function mapItemsKey(jobId: string): string {
  return `executions/${jobId}/shards.json`;
}

/**
 * After a backup that has succeeded: its pin goes, and the copies on primary that are not to stay. Then the job is closed. It stays open
 * when a copy has to wait (the answer is false then), and when uploads of its failed attempts are to be swept.
 */
export async function settleBackup(services: Services, job: Job, waitSeconds: number): Promise<boolean> {
  const snapshot = await getSnapshot(services.database, job.tenant, job.snapshotId);
  let settled = true;
  await tryAll(
    async () => {
      if (snapshot) await unpinJob(await backupOf(services, snapshot, job.id));
    },
    async () => {
      if (snapshot?.state === "BackedUp")
        settled = await settlePrimary(services, snapshot, { jobId: job.id, waitSeconds });
    },
    () => removeMapItems(services, job.id),
  );
  if (settled && !mayLeaveUploads(job)) await closeJob(services.database, job);
  return settled;
}

/** Closes the export of a snapshot's frozen bytes, however far its opening came. */
export async function closeExportOf(services: Services, snapshot: Snapshot): Promise<void> {
  const reference = await getStoreReference(services.database, primaryReference(snapshot));
  if (!reference) return;
  const hypervisor = await services.hypervisor(snapshot.hypervisorTenant, snapshot.hypervisorId);
  await hypervisor.closeExport({
    kind: hypervisor.kind,
    snapshotId: snapshot.id,
    installPath: reference.installPath,
    sizeBytes: reference.sizeBytes ?? 0,
  });
}

/**
 * Cleans up after an ended job and closes it. Answers false when there is more to do than the time allowed for, or something has to wait.
 * Call it when no late worker of the job can still write.
 */
export async function cleanUpAfter(services: Services, job: Job, until: () => boolean): Promise<boolean> {
  const snapshot = await getSnapshot(services.database, job.tenant, job.snapshotId);
  if (job.kind === "backup-snapshot" && snapshot) {
    const cleanUp = job.state === "Succeeded" ? cleanUpSucceededBackup : cleanUpFailedBackup;
    if (!(await cleanUp(services, job, snapshot, until))) return false;
  }
  if (job.kind === "create-snapshot" && snapshot?.state === "Destroyed") {
    if ((await removeLateSnapshot(services, snapshot, job.id)) !== "gone") return false;
  }
  if (job.kind === "restore-volume") {
    await tryAll(
      () => (job.state === "Succeeded" ? letGoOfReplaced(services, job) : discardRestore(services, job)),
      () => finishPlan(services, job, snapshot),
    );
  }
  await removeMapItems(services, job.id);
  await closeJob(services.database, job);
  return true;
}

/** Answers false when a copy on primary has to wait, or the sweep of what failed attempts uploaded has not come to its end. */
async function cleanUpSucceededBackup(
  services: Services,
  job: Job,
  snapshot: Snapshot,
  until: () => boolean,
): Promise<boolean> {
  let settled = false;
  let swept = !mayLeaveUploads(job);
  await tryAll(
    () => closeExportOf(services, snapshot),
    async () => {
      settled = await settleBackup(services, job, mergeWaitSeconds);
    },
    async () => {
      if (swept) return;
      const { store, domain } = await backupOf(services, snapshot, job.id);
      swept = (await sweepBackups(services, snapshot, { store, domain, until })).finished;
    },
  );
  return settled && swept;
}

/** Answers false when the sweep has not come to its end. */
async function cleanUpFailedBackup(
  services: Services,
  job: Job,
  snapshot: Snapshot,
  until: () => boolean,
): Promise<boolean> {
  let finished = false;
  await tryAll(
    async () => {
      if (snapshot.jobId === job.id) await closeExportOf(services, snapshot);
    },
    async () => {
      const backup = await backupOf(services, snapshot, job.id);
      await unpinJob(backup);
      finished = (await sweepBackups(services, snapshot, { ...backup, until })).finished;
    },
  );
  return finished;
}

/** After a restore that has succeeded: what it replaced goes, and the lists of its work. Then the job is closed. */
export async function closeRestore(services: Services, job: Job, snapshot: Snapshot | undefined): Promise<void> {
  await letGoOfReplaced(services, job);
  await finishPlan(services, job, snapshot);
  await removeMapItems(services, job.id);
  await closeJob(services.database, job);
}

async function finishPlan(services: Services, { id }: Pick<Job, "id">, snapshot: Snapshot | undefined): Promise<void> {
  if (snapshot) await finishRestorePlan(await backupOf(services, snapshot, id));
}

/** A worker of a creation that was given up may have frozen the volume after its snapshot was deleted. */
async function removeLateSnapshot(services: Services, snapshot: Snapshot, jobId: string): Promise<Removal> {
  const volume = await getVolume(services.database, snapshot.tenant, snapshot.volumeId);
  if (!volume) return "gone";
  const hypervisor = await services.hypervisor(snapshot.hypervisorTenant, snapshot.hypervisorId);
  const { externalId } = volume;
  const installPath = hypervisor.plannedInstallPath({ externalId, snapshotId: snapshot.id });
  return removeFrozen(services, hypervisor, { snapshot, installPath, jobId, waitSeconds: mergeWaitSeconds });
}

/** Unfinished bytes first, and what they replaced back; then the row of the volume that was to be. */
async function discardRestore(services: Services, job: Job): Promise<void> {
  if (!job.target) return;
  const hypervisor = await services.hypervisor(job.target.hypervisorTenant, job.target.hypervisorId);
  await hypervisor.discardVolume(newVolumeOf(job, 0));
  const volume = { tenant: job.tenant, id: job.target.volumeId };
  if (job.target.replaces === undefined) await deleteRestoringVolume(services.database, volume, job.id);
  else await endRestoreInPlace(services.database, volume, job.id);
}

/** After a restore in place that has succeeded: what the volume held goes, and its VM may be started. Nothing of another restore. */
async function letGoOfReplaced(services: Services, job: Job): Promise<void> {
  if (job.target?.replaces === undefined) return;
  const hypervisor = await services.hypervisor(job.target.hypervisorTenant, job.target.hypervisorId);
  await hypervisor.forgetReplaced(newVolumeOf(job, 0));
  await endRestoreInPlace(services.database, { tenant: job.tenant, id: job.target.volumeId }, job.id);
}

/** The volume that a restore job makes, or replaces. */
export function newVolumeOf(job: Job, sizeBytes: number): NewVolume {
  if (!job.target) throw new Error(`${job.id} restores nothing`);
  const { name, pool, replaces } = job.target;
  return {
    restoreId: job.id,
    name,
    sizeBytes,
    ...(pool !== undefined && { pool }),
    ...(replaces !== undefined && { replaces }),
  };
}

/** Where a snapshot's backup lies, and what opens it where the store is encrypted, for the job that works on it. */
export async function backupOf(services: Services, snapshot: Snapshot, jobId: string) {
  const keys = await services.keyService(snapshot.tenant, snapshot.storeId);
  return {
    store: await services.objectStore(snapshot.tenant, snapshot.storeId),
    ...(keys === undefined ? {} : { keys, mayBeUnencrypted: mayBeUnencrypted(snapshot) }),
    domain: dedupDomain(snapshot.tenant, snapshot.volumeId),
    snapshotId: snapshot.id,
    jobId,
  };
}

async function removeMapItems(services: Services, jobId: string): Promise<void> {
  await (await services.ownBucket()).deleteEveryVersion([mapItemsKey(jobId)]);
}

/**
 * Takes every step, whatever became of the one before: a hypervisor that is out of reach keeps nothing on the store, and the other way
 * round. Throws the first failure at the end.
 */
async function tryAll(...steps: readonly (() => Promise<void>)[]): Promise<void> {
  const failures: unknown[] = [];
  for (const step of steps) await step().catch((error: unknown) => failures.push(error));
  if (failures.length > 0) throw failures[0];
}
