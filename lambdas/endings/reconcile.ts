/**
 * Holds each open job against its execution: starts what was lost, ends what has died, cleans up after what has ended.
 * Safe beside running executions: rows are read again after the execution was looked at, and every change goes through the
 * same transactions as theirs. A snapshot is never taken out of BackedUp here.
 */
import { ExecutionDied, JobCancelled, summarizeError } from "../domain/errors.ts";
import { hasEnded, type Job, jobKinds } from "../domain/job.ts";
import type { Settings } from "../domain/settings.ts";
import type { Services } from "../services.ts";
import { getJob, openJobs } from "../tables/jobs.ts";
import { cleanUpAfter } from "./clean-up.ts";
import { endJob } from "./end-job.ts";

/** Every open job of every tenant. Answers how many were acted on; one that fails is logged and does not hold up the others. */
export async function reconcileAll(
  services: Services,
  until: () => boolean,
): Promise<{ settled: number; failed: number }> {
  let settled = 0;
  let failed = 0;
  for (const kind of jobKinds) {
    for await (const job of openJobs(services.database, kind)) {
      if (until()) return { settled, failed };
      try {
        if (await reconcileJob(services, job, until)) settled++;
      } catch (error) {
        failed++;
        services.logger.error("a job could not be reconciled", {
          tenant: job.tenant,
          jobId: job.id,
          error: error as Error,
        });
      }
    }
  }
  return { settled, failed };
}

/** One job, unless it has spoken within `reconcile.after`. Answers whether anything was done. */
async function reconcileJob(
  services: Services,
  { tenant, id }: Pick<Job, "tenant" | "id">,
  until: () => boolean,
): Promise<boolean> {
  const job = await getJob(services.database, tenant, id);
  if (!job?.open) return false;
  const settings = await services.settings();
  if (!quietFor(services, job, settings.reconcileAfterSeconds)) return false;
  return hasEnded(job.state) ? cleanUpEnded(services, job, settings, until) : settleUnfinished(services, job);
}

/**
 * A job whose execution is said to have ended: settles its rows at once, without patience. What it leaves behind is for the
 * next round of garbage collection, which may touch stores and hypervisors. Answers whether anything was done.
 */
export async function settleJob(services: Services, tenant: string, jobId: string): Promise<boolean> {
  const job = await getJob(services.database, tenant, jobId);
  return job !== undefined && !hasEnded(job.state) && settleUnfinished(services, job);
}

async function cleanUpEnded(services: Services, job: Job, settings: Settings, until: () => boolean): Promise<boolean> {
  if ((await services.executions.status(job)) === "RUNNING") return false;
  if (job.state !== "Succeeded" && !quietFor(services, job, settings.lateWriterGraceSeconds)) return false;
  return cleanUpAfter(services, job, until);
}

async function settleUnfinished(services: Services, job: Job): Promise<boolean> {
  if (job.pool !== undefined && job.state === "Queued") return false;
  if (job.backupJobId !== undefined) return followBackup(services, job, job.backupJobId);
  const status = await services.executions.status(job);
  if (status === "RUNNING") return false;
  if (status === "UNKNOWN") {
    services.logger.warn("an execution was lost before it started", { tenant: job.tenant, jobId: job.id });
    await services.executions.start(job);
    return true;
  }
  const now = await getJob(services.database, job.tenant, job.id);
  if (!now || hasEnded(now.state) || now.backupJobId !== undefined) return false;
  return endDead(services, now);
}

/** A create job that waits for its backup has no execution of its own any more; the backup's end is its end. */
async function followBackup(services: Services, job: Job, backupJobId: string): Promise<boolean> {
  const backup = await getJob(services.database, job.tenant, backupJobId);
  if (backup && !hasEnded(backup.state)) return false;
  const error = backup?.error ?? summarizeError(new ExecutionDied(`${backupJobId} is gone`));
  return (await endJob(services, job, { error, cancelled: backup?.state === "Cancelled" })) === "written";
}

async function endDead(services: Services, job: Job): Promise<boolean> {
  const cancelled = job.cancelRequestedAt !== undefined;
  const error = cancelled
    ? new JobCancelled(`${job.id} was cancelled on request`)
    : new ExecutionDied(`the execution of ${job.id} ended in phase ${job.phase} without an answer`);
  return (await endJob(services, job, { error: summarizeError(error), cancelled })) === "written";
}

function quietFor(services: Services, job: Job, seconds: number): boolean {
  return services.now().getTime() - Date.parse(job.updatedAt) >= seconds * 1000;
}
