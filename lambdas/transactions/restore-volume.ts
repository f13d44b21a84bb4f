/** The rows' way of a restore: a reader's lease and a volume under construction, both gone or done at the end. */
import type { ErrorSummary } from "../domain/errors.ts";
import type { Volume } from "../domain/inventory.ts";
import { hasEnded, type Job } from "../domain/job.ts";
import type { Snapshot } from "../domain/snapshot.ts";
import type { Database, TransactionItem } from "../tables/database.ts";
import { insertJob, moveJob } from "../tables/jobs.ts";
import { addReader } from "../tables/snapshots.ts";
import { insertRestoringVolume, releaseRestoredVolume } from "../tables/volumes.ts";
import { beginJob, requireJob } from "./create-snapshot.ts";
import { decideAndWrite } from "./decide-and-write.ts";

/** The items that record the request: lease on the snapshot (only while it is BackedUp), job Queued, row of the new volume. */
export function requestRestore(
  database: Database,
  snapshot: Pick<Snapshot, "tenant" | "id">,
  volume: Volume,
  job: Omit<Job, "open">,
): TransactionItem[] {
  return [addReader(database, snapshot, job.id), insertRestoringVolume(database, volume), insertJob(database, job)];
}

/** The job is Running. */
export function beginRestore(
  database: Database,
  queued: Pick<Job, "tenant" | "id">,
  now: string,
): Promise<"written" | "replay"> {
  return beginJob(database, queued, "Planning", now);
}

/** The volume is complete and has its name. */
export function restored(
  database: Database,
  running: Pick<Job, "tenant" | "id">,
  volume: { id: string; allocatedBytes: number | undefined },
  now: string,
): Promise<"written" | "replay"> {
  return decideAndWrite(database, async () => {
    const job = await requireJob(database, running.tenant, running.id);
    if (hasEnded(job.state)) return "replay";
    return [
      moveJob(database, job, "Succeeded", { phase: "Closing", updatedAt: now }),
      releaseRestoredVolume(database, { tenant: job.tenant, id: volume.id }, job.id, volume.allocatedBytes),
    ];
  });
}

/** Ends the job. Lease, unfinished bytes and the volume's row are cleaned up afterwards; until then the job stays open. */
export function restoreFailed(
  database: Database,
  failed: Pick<Job, "tenant" | "id">,
  failure: { error: ErrorSummary; cancelled: boolean },
  now: string,
): Promise<"written" | "replay"> {
  return decideAndWrite(database, async () => {
    const job = await requireJob(database, failed.tenant, failed.id);
    if (hasEnded(job.state)) return "replay";
    return [
      moveJob(database, job, failure.cancelled ? "Cancelled" : "Failed", {
        phase: "Closing",
        error: failure.error,
        updatedAt: now,
      }),
    ];
  });
}
