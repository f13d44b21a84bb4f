/** The rows' way from DestroyRequested to Destroyed. */
import { type ErrorSummary, JobCancelled, StateConflict, summarizeError } from "../domain/errors.ts";
import { hasEnded, type Job } from "../domain/job.ts";
import { lockedUntil, type Snapshot } from "../domain/snapshot.ts";
import type { Database, TransactionItem } from "../tables/database.ts";
import { getJob, insertJob, moveJob } from "../tables/jobs.ts";
import { moveSnapshot } from "../tables/snapshots.ts";
import { removeStoreReference, storeReferencesOf } from "../tables/store-references.ts";
import { removeVmDefinition } from "../tables/vm-definitions.ts";
import { endOfParent } from "./backup-snapshot.ts";
import { beginJob, requireJob, requireSnapshot } from "./create-snapshot.ts";
import { decideAndWrite, moveOrReplay } from "./decide-and-write.ts";

/**
 * The items that record the request: snapshot Destroying, delete job Queued, and a backup that still waits in the queue
 * Cancelled. Throws StateConflict when the rules refuse, or the store still keeps the backup locked.
 */
export async function requestDelete(
  database: Database,
  snapshot: Snapshot,
  job: Omit<Job, "open">,
  now: string,
): Promise<TransactionItem[]> {
  const to = moveOrReplay(snapshot, "DestroyRequested", { jobId: job.id, attempt: 0 });
  if (to === "replay") return [];
  const locked = lockedUntil(snapshot, now);
  if (locked !== undefined) throw new StateConflict(`${snapshot.id} is locked until ${locked}`);
  return [
    moveSnapshot(database, snapshot, { to, jobId: job.id, attempt: 0, now }),
    insertJob(database, job),
    ...(await cancelWaiting(database, snapshot, now)),
  ];
}

/** The job is Running. */
export function beginDelete(
  database: Database,
  queued: Pick<Job, "tenant" | "id">,
  now: string,
): Promise<"written" | "replay"> {
  return beginJob(database, queued, "Deleting", now);
}

/** All bytes are gone: the references go, the snapshot is Destroyed. Its row stays for a while with the last error. */
export function destroyed(
  database: Database,
  running: Pick<Job, "tenant" | "id">,
  now: string,
): Promise<"written" | "replay"> {
  return decideAndWrite(database, async () => {
    const job = await requireJob(database, running.tenant, running.id);
    const snapshot = await requireSnapshot(database, job.tenant, job.snapshotId);
    const to = moveOrReplay(snapshot, "OperationSucceeded", { jobId: job.id, attempt: 0 });
    if (to === "replay") return "replay";
    const references = await storeReferencesOf(database, snapshot.tenant, snapshot.id);
    return [
      moveSnapshot(database, snapshot, {
        to,
        jobId: job.id,
        attempt: 0,
        now,
        set: { physicalBytes: 0, storedBytes: 0, primaryKeptUntil: undefined, vmDefinition: undefined },
      }),
      moveJob(database, job, "Succeeded", { phase: "Closing", updatedAt: now }, { close: true }),
      ...references.map((reference) => removeStoreReference(database, reference)),
      removeVmDefinition(database, snapshot),
    ];
  });
}

/** The snapshot stays Destroying; garbage collection asks again. */
export function deleteFailed(
  database: Database,
  failed: Pick<Job, "tenant" | "id">,
  failure: { error: ErrorSummary; cancelled: boolean },
  now: string,
): Promise<"written" | "replay"> {
  return decideAndWrite(database, async () => {
    const job = await requireJob(database, failed.tenant, failed.id);
    if (hasEnded(job.state)) return "replay";
    return [
      moveJob(
        database,
        job,
        failure.cancelled ? "Cancelled" : "Failed",
        { phase: "Closing", error: failure.error, updatedAt: now },
        { close: true },
      ),
    ];
  });
}

/** A job of this snapshot that has not started yet (its creation or its queued backup) is cancelled along. */
async function cancelWaiting(database: Database, snapshot: Snapshot, now: string): Promise<TransactionItem[]> {
  const waiting = await getJob(database, snapshot.tenant, snapshot.jobId);
  if (waiting?.state !== "Queued") return [];
  const error = summarizeError(new JobCancelled(`${snapshot.id} was deleted`));
  return [
    moveJob(
      database,
      waiting,
      "Cancelled",
      { phase: "Closing", error, updatedAt: now },
      { from: ["Queued"], close: true },
    ),
    ...(await endOfParent(database, waiting, "Cancelled", error, now)),
  ];
}
