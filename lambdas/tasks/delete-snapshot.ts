/** The states of `statemachines/delete-snapshot.asl.json`. */
import { hasEnded } from "../domain/job.ts";
import type { Snapshot } from "../domain/snapshot.ts";
import { backupOf } from "../endings/clean-up.ts";
import { endJob } from "../endings/end-job.ts";
import { type KeepOptions, keepAnchor, rebaseAnchor } from "../endings/keep-anchor.ts";
import { type Removal, removePrimary } from "../endings/remove-primary.ts";
import { sweepBackups } from "../endings/sweep-backups.ts";
import { deleteBackup } from "../repository/sweep.ts";
import type { Services } from "../services.ts";
import { getJob, updateRunningJob } from "../tables/jobs.ts";
import { getSnapshot } from "../tables/snapshots.ts";
import { getStoreReference, writeStoreReference } from "../tables/store-references.ts";
import { imageReference, requireJob, requireSnapshot } from "../transactions/create-snapshot.ts";
import { beginDelete, destroyed } from "../transactions/delete-snapshot.ts";
import {
  type CaughtError,
  causeOf,
  mergeWaitSeconds,
  type StateFunctions,
  type TaskContext,
  type TaskInput,
} from "./state-function.ts";

async function Begin(services: Services, { job: { tenant, jobId, snapshotId } }: TaskInput) {
  const job = await getJob(services.database, tenant, jobId);
  const snapshot = await getSnapshot(services.database, tenant, snapshotId);
  if (!job || hasEnded(job.state) || snapshot?.state !== "Destroying" || snapshot.jobId !== jobId)
    return { proceed: false };
  await beginDelete(services.database, job, services.now().toISOString());
  return { proceed: true };
}

/** Not finished: it is asked again after a while. */
async function DeletePrimary(
  services: Services,
  { job: { tenant, jobId, snapshotId } }: TaskInput,
  { until }: TaskContext,
) {
  const { database } = services;
  const snapshot = await requireSnapshot(database, tenant, snapshotId);
  const options = { jobId, waitSeconds: mergeWaitSeconds, until };
  const removal = await removeCopies(services, snapshot, options);
  const phase = removal === "in-use" ? "WaitingForExport" : "Deleting";
  await updateRunningJob(database, { tenant, id: jobId }, { phase, updatedAt: services.now().toISOString() });
  return { finished: removal === "gone" };
}

/** The snapshot's own, and what is kept for its sake. */
async function removeCopies(services: Services, snapshot: Snapshot, options: KeepOptions): Promise<Removal> {
  const rebased = await rebaseAnchor(services, snapshot, options);
  if (rebased !== "gone") return rebased;
  return (await keepAnchor(services, snapshot, options)) ?? removePrimary(services, snapshot, options);
}

/** Not finished: it is called again with the `position` that the sweep has come to. */
async function DeleteBackup(
  services: Services,
  { job: { tenant, jobId, snapshotId }, from }: TaskInput & { from?: string | null },
  { until }: TaskContext,
): Promise<{ finished: boolean; position: string }> {
  const { database } = services;
  const snapshot = await requireSnapshot(database, tenant, snapshotId);
  const reference = await getStoreReference(database, imageReference(snapshot));
  if (!reference) return { finished: true, position: "" };
  const updatedAt = services.now().toISOString();
  await updateRunningJob(database, { tenant, id: jobId }, { updatedAt });
  await writeStoreReference(database, reference, "Destroying", { jobId, updatedAt });
  const backup = await backupOf(services, snapshot, jobId);
  await deleteBackup(backup);
  return sweepBackups(services, snapshot, { ...backup, until, from: from ?? "" });
}

async function Complete(services: Services, { job: { tenant, jobId } }: TaskInput) {
  await destroyed(services.database, { tenant, id: jobId }, services.now().toISOString());
}

async function Fail(services: Services, { job: { tenant, jobId }, error }: TaskInput & { error: CaughtError }) {
  const job = await requireJob(services.database, tenant, jobId);
  await endJob(services, job, { error: causeOf(error), cancelled: false });
}

export const deleteSnapshotStates: StateFunctions = { Begin, DeletePrimary, DeleteBackup, Complete, Fail };
