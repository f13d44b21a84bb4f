/**
 * Holds each open job against its execution: starts what was lost, ends what has died, cleans up after what has ended.
 * Safe beside running executions: rows are read again after the execution was looked at, and every change goes through the
 * same transactions as theirs. A snapshot is never taken out of BackedUp here.
 */
import { ExecutionDied, isRetryable, JobCancelled, summarizeError } from "../domain/errors.ts";
import { hasEnded, type Job, jobKinds, mayLeaveUploads } from "../domain/job.ts";
import { isOutside } from "../domain/outside-faults.ts";
import type { Settings } from "../domain/settings.ts";
import type { Services } from "../services.ts";
import { closeJob, getJob, openJobs } from "../tables/jobs.ts";
import { endRestoreInPlace } from "../tables/volumes.ts";
import { cleanUpAfter } from "./clean-up.ts";
import { endJob } from "./end-job.ts";

/** What became of a round over all open jobs, in numbers of jobs. */
export interface Reconciled {
  /** Something was done. */
  readonly settled: number;
  /** Their clean-up waits for a hypervisor or a store that is out of reach or cannot be used. */
  readonly waiting: number;
  /** What went wrong is Snapferry's own. */
  readonly failed: number;
}

/** Every open job of every tenant. One that fails or has to wait is logged and does not hold up the others. */
export async function reconcileAll(services: Services, until: () => boolean): Promise<Reconciled> {
  const counts = { settled: 0, waiting: 0, failed: 0 };
  for (const kind of jobKinds) {
    for await (const job of openJobs(services.database, kind)) {
      if (until()) return counts;
      const about = { tenant: job.tenant, jobId: job.id };
      try {
        if (await reconcileJob(services, job, until)) counts.settled++;
      } catch (error) {
        if (isOutside(error)) {
          counts.waiting++;
          services.logger.warn("a job waits for its hypervisor or store", { ...about, error: error as Error });
        } else {
          counts.failed++;
          services.logger.error("a job could not be reconciled", { ...about, error: error as Error });
        }
      }
    }
  }
  return counts;
}

/** One job, unless it has spoken within `reconcile.after`. Answers whether anything was done. */
export async function reconcileJob(
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
 * How long after its end a job's clean-up is tried while a hypervisor or store stands in the way: a week when that may come back by
 * itself, a day when somebody has to mend it (or it is gone for good). Until then the hypervisor or store cannot be forgotten.
 */
const patienceSeconds = { retryable: 7 * 86_400, final: 86_400 } as const;

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
  if (mayLeaveUploads(job) && !quietFor(services, job, settings.lateWriterGraceSeconds)) return false;
  try {
    return await cleanUpAfter(services, job, until);
  } catch (error) {
    const patience = isRetryable(error) ? patienceSeconds.retryable : patienceSeconds.final;
    if (!isOutside(error) || !quietFor(services, job, patience)) throw error;
    return leaveBehind(services, job, error);
  }
}

/** The job is closed, and a volume that it replaced is let go as it is. What is left on primary storage stays in the books, and goes with its snapshot or its hypervisor. */
async function leaveBehind(services: Services, job: Job, error: unknown): Promise<true> {
  services.logger.warn("what a job has left behind could not be cleaned up", {
    tenant: job.tenant,
    jobId: job.id,
    error: error as Error,
  });
  if (job.target?.replaces !== undefined) {
    await endRestoreInPlace(services.database, { tenant: job.tenant, id: job.target.volumeId }, job.id);
  }
  await closeJob(services.database, job);
  return true;
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
