import { StateConflict } from "../domain/errors.ts";
import type { Job } from "../domain/job.ts";
import { backupPool, freeSlots } from "../domain/pool.ts";
import type { Services } from "../services.ts";
import { WriteRefused } from "../tables/database.ts";
import { getJob, queuedJobs } from "../tables/jobs.ts";
import { getPool } from "../tables/pools.ts";
import { startBackup } from "../transactions/backup-snapshot.ts";

/** Starts queued backups, oldest first, while the pool has free slots. Two dispatchers at once start each job once. */
export async function dispatchBackups(services: Services): Promise<{ started: string[] }> {
  const { poolSize } = await services.settings();
  const started: string[] = [];
  for await (const job of queuedJobs(services.database, backupPool)) {
    if (freeSlots(await getPool(services.database, backupPool), poolSize) === 0) break;
    if (await start(services, job, poolSize)) started.push(job.id);
  }
  return { started };
}

async function start(services: Services, job: Job, poolSize: number): Promise<boolean> {
  const { logger, database, executions } = services;
  const about = { tenant: job.tenant, jobId: job.id, snapshotId: job.snapshotId };
  try {
    if ((await startBackup(database, job, poolSize, services.now().toISOString())) === "replay") return false;
  } catch (error) {
    // The last slot went to another dispatcher, or the snapshot is no longer to be backed up: the queue goes on without it.
    if (!(error instanceof WriteRefused || error instanceof StateConflict)) throw error;
    logger.info("a queued backup was not started", { ...about, reason: error.message });
    return false;
  }
  const running = await getJob(database, job.tenant, job.id);
  if (running) {
    await executions.start(running).catch((error: unknown) => {
      logger.error("the execution was not started; the reconciler starts it", { ...about, error: error as Error });
    });
  }
  logger.info("backup dispatched", about);
  return true;
}
