/** How a job ends when it does not end by itself: given up, cancelled, or found dead. The rows first; bytes are cleaned up after. */
import { type ErrorSummary, JobCancelled, StateConflict, summarizeError } from "../domain/errors.ts";
import { hasEnded, type Job } from "../domain/job.ts";
import type { Services } from "../services.ts";
import { getJob, requestCancel } from "../tables/jobs.ts";
import { backupFailed } from "../transactions/backup-snapshot.ts";
import { createFailed } from "../transactions/create-snapshot.ts";
import { deleteFailed } from "../transactions/delete-snapshot.ts";
import { restoreFailed } from "../transactions/restore-volume.ts";

/**
 * Ends the job's rows as failed or cancelled, and those of the snapshot that are still this job's. A job that has ended
 * already is left as it is.
 */
export async function endJob(
  services: Services,
  job: Job,
  ending: { error: ErrorSummary; cancelled: boolean },
): Promise<"written" | "replay"> {
  const { database } = services;
  const settings = await services.settings();
  const now = services.now();
  const keptUntil = new Date(now.getTime() + settings.errorGraceSeconds * 1000).toISOString();
  const at = now.toISOString();
  switch (job.kind) {
    case "create-snapshot":
      return createFailed(database, job, { ...ending, primaryGone: new Set(), keptUntil }, at);
    case "backup-snapshot":
      return backupFailed(database, job, { ...ending, keptUntil }, at);
    case "restore-volume":
      return restoreFailed(database, job, ending, at);
    case "delete-snapshot":
      return deleteFailed(database, job, ending, at);
  }
}

/**
 * Takes the job out of its queue, or stops its execution, and ends it with the same clean-up as a failure.
 * Throws StateConflict when it has ended, or cannot be cancelled.
 */
export async function cancelJob(services: Services, tenant: string, jobId: string): Promise<void> {
  const job = await getJob(services.database, tenant, jobId);
  if (!job) throw new StateConflict(`${jobId} is gone`, jobId);
  if (hasEnded(job.state)) throw new StateConflict(`${jobId} has ended already: it ${job.state}`, jobId);
  if (job.kind === "delete-snapshot")
    throw new StateConflict(`${jobId} deletes a snapshot: that cannot be taken back`, jobId);
  if (job.kind === "create-snapshot" && job.backupJobId !== undefined)
    return cancelJob(services, tenant, job.backupJobId);

  await requestCancel(services.database, job, services.now().toISOString());
  const error = summarizeError(new JobCancelled(`${jobId} was cancelled on request`));
  await services.executions.stop(job, { error: error.name, cause: error.message });
  await endJob(services, job, { error, cancelled: true });
  const ended = await getJob(services.database, tenant, jobId);
  if (ended && ended.state !== "Cancelled")
    throw new StateConflict(`${jobId} ended before it could be cancelled: it ${ended.state}`, jobId);
}
