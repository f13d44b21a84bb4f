/** The rows' way from a queued backup to BackedUp, Error, or back to the queue. */
import { type ErrorSummary, StateConflict } from "../domain/errors.ts";
import { hasEnded, type Job } from "../domain/job.ts";
import type { Snapshot } from "../domain/snapshot.ts";
import type { Database, TransactionItem } from "../tables/database.ts";
import { getJob, insertJob, moveJob } from "../tables/jobs.ts";
import { freeSlot, takeSlot } from "../tables/pools.ts";
import { moveSnapshot } from "../tables/snapshots.ts";
import { getStoreReference, moveStoreReference, requireStoreReference } from "../tables/store-references.ts";
import { beginBackingUp, endBackingUp } from "../tables/volumes.ts";
import { imageReference, primaryReference, requireJob, requireSnapshot } from "./create-snapshot.ts";
import { decideAndWrite, moveOrReplay } from "./decide-and-write.ts";

/**
 * A slot for the oldest queued job: job Running, snapshot BackingUp, one slot and one backup of the volume more. Throws WriteRefused when
 * no slot is free, or while an operation on a VM holds the volume.
 */
export function startBackup(
  database: Database,
  queued: Pick<Job, "tenant" | "id">,
  limit: number,
  now: string,
): Promise<"written" | "replay"> {
  return decideAndWrite(database, async () => {
    const job = await requireJob(database, queued.tenant, queued.id);
    if (job.state !== "Queued") return "replay";
    const snapshot = await requireSnapshot(database, job.tenant, job.snapshotId);
    const to = moveOrReplay(snapshot, "BackupStarted", { jobId: job.id, attempt: 1 });
    if (to === "replay") return "replay";
    return [
      takeSlot(database, poolOf(job), limit),
      moveJob(
        database,
        job,
        "Running",
        { phase: "Exporting", attempt: 1, startedAt: now, updatedAt: now },
        { from: ["Queued"] },
      ),
      moveSnapshot(database, snapshot, {
        to,
        jobId: job.id,
        attempt: 1,
        now,
        set: { maxAttempts: job.policy.maxAttempts },
      }),
      beginBackingUp(database, { tenant: snapshot.tenant, id: snapshot.volumeId }, now),
    ];
  });
}

/** What a published backup is, for the rows. */
export interface StoredBackup {
  readonly attempt: number;
  readonly installPath: string;
  readonly storedBytes: number;
  readonly logicalBytes: number;
  /** Where the store locks its objects. */
  readonly lockedUntil?: string;
}

/** The root is published: snapshot BackedUp, this job and the one that waited for it Succeeded, the slot free. */
export function backedUp(
  database: Database,
  running: Pick<Job, "tenant" | "id">,
  stored: StoredBackup,
  now: string,
): Promise<"written" | "replay"> {
  return decideAndWrite(database, async () => {
    const job = await requireJob(database, running.tenant, running.id);
    if (job.state === "Succeeded") return "replay";
    const snapshot = await requireSnapshot(database, job.tenant, job.snapshotId);
    const to = moveOrReplay(snapshot, "OperationSucceeded", { jobId: job.id, attempt: stored.attempt });
    if (to === "replay") return "replay";
    return [
      moveSnapshot(database, snapshot, {
        to,
        jobId: job.id,
        attempt: stored.attempt,
        now,
        set: {
          storedBytes: stored.storedBytes,
          backedUpAt: now,
          lockedUntil: stored.lockedUntil,
          error: undefined,
          primaryKeptUntil: undefined,
        },
      }),
      moveStoreReference(database, imageReference(snapshot), "Ready", {
        jobId: job.id,
        installPath: stored.installPath,
        sizeBytes: stored.logicalBytes,
        physicalBytes: stored.storedBytes,
        updatedAt: now,
      }),
      moveJob(database, job, "Succeeded", { phase: "Closing", updatedAt: now }),
      ...(await endOfParent(database, job, "Succeeded", undefined, now)),
      ...releaseCapacity(database, job, snapshot),
    ];
  });
}

export interface BackupFailure {
  readonly error: ErrorSummary;
  readonly cancelled: boolean;
  readonly keptUntil: string;
}

/** The attempts are used up, or it was cancelled: snapshot Error (or back on primary when it is to be kept), jobs ended, the slot free. */
export function backupFailed(
  database: Database,
  failed: Pick<Job, "tenant" | "id">,
  failure: BackupFailure,
  now: string,
): Promise<"written" | "replay"> {
  return decideAndWrite(database, async () => {
    const job = await requireJob(database, failed.tenant, failed.id);
    if (hasEnded(job.state)) return "replay";
    const snapshot = await requireSnapshot(database, job.tenant, job.snapshotId);
    const wasRunning = job.state === "Running";
    const kept = snapshot.onBackupFailure === "keep";
    const to = moveOrReplay(snapshot, kept ? "BackupFailedButKept" : "OperationFailed", {
      jobId: job.id,
      attempt: job.attempt,
    });
    if (to === "replay") throw new StateConflict(`${snapshot.id} has failed already, but ${job.id} has not`);
    const jobState = failure.cancelled ? "Cancelled" : "Failed";
    return [
      moveSnapshot(database, snapshot, {
        to,
        jobId: job.id,
        attempt: job.attempt,
        now,
        set: { error: failure.error, ...(kept ? {} : { primaryKeptUntil: failure.keptUntil }) },
      }),
      moveJob(
        database,
        job,
        jobState,
        { phase: "Closing", error: failure.error, updatedAt: now },
        { from: [job.state], close: !wasRunning },
      ),
      ...(await endOfParent(database, job, jobState, failure.error, now)),
      ...(await failImage(database, job, snapshot, failure.error, now)),
      ...(wasRunning ? releaseCapacity(database, job, snapshot) : []),
    ];
  });
}

/** The items that put a failed snapshot back into the queue, only while its bytes are still on primary. */
export function requestBackup(
  database: Database,
  snapshot: Snapshot,
  job: Omit<Job, "open">,
  now: string,
): TransactionItem[] {
  const to = moveOrReplay(snapshot, "BackupRequested", { jobId: job.id, attempt: 0 });
  if (to === "replay") return [];
  return [
    moveSnapshot(database, snapshot, {
      to,
      jobId: job.id,
      attempt: 0,
      now,
      set: { error: undefined, primaryKeptUntil: undefined, maxAttempts: job.policy.maxAttempts },
    }),
    requireStoreReference(database, primaryReference(snapshot), "Ready"),
    insertJob(database, job),
  ];
}

function poolOf(job: Job): string {
  if (job.pool === undefined) throw new StateConflict(`${job.id} belongs to no pool`);
  return job.pool;
}

function releaseCapacity(database: Database, job: Job, snapshot: Snapshot): TransactionItem[] {
  return [freeSlot(database, poolOf(job)), endBackingUp(database, { tenant: snapshot.tenant, id: snapshot.volumeId })];
}

/** What the attempts have left in the store is for garbage collection. */
async function failImage(
  database: Database,
  job: Job,
  snapshot: Snapshot,
  error: ErrorSummary,
  now: string,
): Promise<TransactionItem[]> {
  const image = await getStoreReference(database, imageReference(snapshot));
  if (image?.state !== "Creating" || image.jobId !== job.id) return [];
  return [moveStoreReference(database, image, "Failed", { jobId: job.id, error, updatedAt: now })];
}

/** The create job that waits for the backup ends as the backup does. */
export async function endOfParent(
  database: Database,
  job: Job,
  to: "Succeeded" | "Failed" | "Cancelled",
  error: ErrorSummary | undefined,
  now: string,
): Promise<TransactionItem[]> {
  if (job.parentJobId === undefined) return [];
  const parent = await getJob(database, job.tenant, job.parentJobId);
  if (!parent || hasEnded(parent.state)) return [];
  return [
    moveJob(database, parent, to, { phase: "Closing", ...(error ? { error } : {}), updatedAt: now }, { close: true }),
  ];
}
