/** Jobs that the API makes: their policy, their start, the answer that names them. */
import type { BackupPolicy, Job } from "../domain/job.ts";
import type { Snapshot } from "../domain/snapshot.ts";
import type { Services } from "../services.ts";
import { getJob } from "../tables/jobs.ts";
import { getSnapshot } from "../tables/snapshots.ts";
import type { ApiResponse, Caller } from "./http.ts";
import { showJob, showSnapshot } from "./lookups.ts";
import { pathOf } from "./representations.ts";
import type { JobRepresentation, SnapshotRepresentation } from "./response-schemas.ts";

/** What a request may ask of a snapshot and its backup. */
export type AskedOfBackup = Pick<BackupPolicy, "verify" | "full" | "quiesce">;

/** The settings as they are now, and what is asked: copied, so that a later change never bends the job. */
export async function frozenPolicy(
  services: Pick<Services, "settings">,
  { verify, full, quiesce }: AskedOfBackup = {},
): Promise<{ policy: BackupPolicy; onBackupFailure: Snapshot["onBackupFailure"] }> {
  const { maxAttempts, retryIntervalSeconds, onBackupFailure } = await services.settings();
  const asked = {
    ...(verify === undefined ? {} : { verify }),
    ...(full === undefined ? {} : { full }),
    ...(quiesce === undefined ? {} : { quiesce }),
  };
  return { policy: { maxAttempts, retryIntervalSeconds, ...asked }, onBackupFailure };
}

/** A start that fails is made up for by garbage collection, which starts every queued job that has no execution. */
export async function startOrLeave(services: Services, job: Job): Promise<void> {
  try {
    await services.executions.start(job);
  } catch (error) {
    services.logger.warn("execution not started; garbage collection will start it", {
      tenant: job.tenant,
      jobId: job.id,
      snapshotId: job.snapshotId,
      error: error instanceof Error ? error : String(error),
    });
  }
}

/** 202 with the job's path; and, for whoever waits, the same anew. */
export function accepted(
  services: Services,
  caller: Caller,
  body: { readonly job: JobRepresentation; readonly snapshot: SnapshotRepresentation },
): ApiResponse {
  const { job, snapshot } = body;
  return {
    status: 202,
    headers: { Location: pathOf("jobs", job.id) },
    body,
    pending: {
      jobId: job.id,
      answer: async () => {
        const [jobNow, snapshotNow] = await Promise.all([
          getJob(services.database, caller.tenant, job.id),
          getSnapshot(services.database, caller.tenant, snapshot.id),
        ]);
        return {
          status: 202,
          headers: { Location: pathOf("jobs", job.id) },
          body: {
            ...body,
            job: jobNow ? await showJob(services, jobNow) : job,
            snapshot: snapshotNow ? await showSnapshot(services, snapshotNow) : snapshot,
          },
        };
      },
    },
  };
}
