/** The rows' way from the request of a snapshot to CreatedOnPrimary. */
import { type ErrorSummary, StateConflict } from "../domain/errors.ts";
import { newId } from "../domain/ids.ts";
import { defaultStoreId } from "../domain/inventory.ts";
import { type Job, newJob } from "../domain/job.ts";
import { backupPool } from "../domain/pool.ts";
import type { Consistency, Snapshot } from "../domain/snapshot.ts";
import type { Database, TransactionItem } from "../tables/database.ts";
import { getJob, insertJob, moveJob } from "../tables/jobs.ts";
import { getSnapshot, insertSnapshot, moveSnapshot } from "../tables/snapshots.ts";
import { moveStoreReference, removeStoreReference } from "../tables/store-references.ts";
import { requireStore } from "../tables/stores.ts";
import { requireUsableVolume } from "../tables/volumes.ts";
import { decideAndWrite, moveOrReplay } from "./decide-and-write.ts";

/** The items that record the request: snapshot Allocated, job Queued, on condition that volume and store are there. */
export function requestSnapshot(
  database: Database,
  snapshot: Omit<Snapshot, "readers">,
  job: Omit<Job, "open">,
): TransactionItem[] {
  return [
    insertSnapshot(database, snapshot),
    insertJob(database, job),
    requireUsableVolume(database, { tenant: snapshot.tenant, id: snapshot.volumeId }),
    ...(snapshot.storeId === defaultStoreId ? [] : [requireStore(database, snapshot.tenant, snapshot.storeId)]),
  ];
}

/** Snapshot Creating, job Running, and the reference to what is about to be created. */
export function beginCreate(
  database: Database,
  job: Pick<Job, "tenant" | "id" | "snapshotId">,
  installPath: string,
  now: string,
): Promise<"written" | "replay"> {
  return decideAndWrite(database, async () => {
    const snapshot = await requireSnapshot(database, job.tenant, job.snapshotId);
    const to = moveOrReplay(snapshot, "CreateRequested", { jobId: job.id, attempt: 0 });
    if (to === "replay") return "replay";
    return [
      moveSnapshot(database, snapshot, { to, jobId: job.id, attempt: 0, now }),
      moveJob(database, job, "Running", { phase: "Taking", startedAt: now, updatedAt: now }),
      moveStoreReference(database, primaryReference(snapshot), "Creating", {
        jobId: job.id,
        installPath,
        updatedAt: now,
      }),
    ];
  });
}

export interface FrozenVolume {
  readonly installPath: string;
  readonly sizeBytes: number;
  readonly physicalBytes: number;
  readonly consistency: Consistency;
}

/**
 * The volume is frozen: snapshot CreatedOnPrimary and its backup queued. The create job ends here when the backup is
 * asynchronous; else it stays open until the backup job closes it.
 */
export function createdOnPrimary(
  database: Database,
  job: Pick<Job, "tenant" | "id">,
  frozen: FrozenVolume,
  now: string,
): Promise<"written" | "replay"> {
  return decideAndWrite(database, async () => {
    const createJob = await requireJob(database, job.tenant, job.id);
    if (createJob.backupJobId !== undefined) return "replay";
    const snapshot = await requireSnapshot(database, job.tenant, createJob.snapshotId);
    const to = moveOrReplay(snapshot, "OperationSucceeded", { jobId: job.id, attempt: 0 });
    if (to === "replay") return "replay";
    const backupJob = queuedBackup(snapshot, createJob.policy, now, createJob.asyncBackup ? undefined : createJob.id);
    return [
      moveSnapshot(database, snapshot, {
        to,
        jobId: backupJob.id,
        by: job.id,
        attempt: 0,
        now,
        set: {
          consistency: frozen.consistency,
          logicalBytes: frozen.sizeBytes,
          physicalBytes: frozen.physicalBytes,
          createdOnPrimaryAt: now,
        },
      }),
      moveStoreReference(database, primaryReference(snapshot), "Ready", {
        jobId: job.id,
        installPath: frozen.installPath,
        sizeBytes: frozen.sizeBytes,
        physicalBytes: frozen.physicalBytes,
        updatedAt: now,
      }),
      insertJob(database, backupJob),
      createJob.asyncBackup
        ? moveJob(
            database,
            createJob,
            "Succeeded",
            { phase: "Closing", backupJobId: backupJob.id, updatedAt: now },
            { close: true },
          )
        : awaitBackup(database, createJob, backupJob.id, now),
    ];
  });
}

/**
 * Creation failed. `primaryGone` says whether nothing is left on primary: then its reference goes as well, and the job is
 * closed; else it stays open until no late worker can make anything any more.
 */
export function createFailed(
  database: Database,
  job: Pick<Job, "tenant" | "id">,
  error: ErrorSummary,
  options: { primaryGone: boolean; cancelled: boolean; keptUntil: string },
  now: string,
): Promise<"written" | "replay"> {
  return decideAndWrite(database, async () => {
    const createJob = await requireJob(database, job.tenant, job.id);
    const snapshot = await requireSnapshot(database, job.tenant, createJob.snapshotId);
    const to = moveOrReplay(snapshot, "OperationFailed", { jobId: job.id, attempt: 0 });
    if (to === "replay") return "replay";
    return [
      moveSnapshot(database, snapshot, {
        to,
        jobId: job.id,
        attempt: 0,
        now,
        set: { error, ...(options.primaryGone ? { physicalBytes: 0 } : { primaryKeptUntil: options.keptUntil }) },
      }),
      moveJob(
        database,
        createJob,
        options.cancelled ? "Cancelled" : "Failed",
        { phase: "Closing", error, updatedAt: now },
        { close: options.primaryGone },
      ),
      ...(options.primaryGone ? [removeStoreReference(database, primaryReference(snapshot))] : []),
    ];
  });
}

/** The job that backs this snapshot up, waiting for a slot. */
export function queuedBackup(
  snapshot: Pick<Snapshot, "tenant" | "id" | "volumeId">,
  policy: Job["policy"],
  now: string,
  parentJobId: string | undefined,
  id: string = newId("job"),
): Omit<Job, "open"> {
  const parent = parentJobId === undefined ? {} : { parentJobId };
  return { ...newJob(id, "backup-snapshot", snapshot, policy, now), ...parent, pool: backupPool };
}

export function primaryReference(snapshot: Pick<Snapshot, "tenant" | "id" | "hypervisorId">) {
  return { tenant: snapshot.tenant, snapshotId: snapshot.id, role: "Primary", storeId: snapshot.hypervisorId } as const;
}

export function imageReference(snapshot: Pick<Snapshot, "tenant" | "id" | "storeId">) {
  return { tenant: snapshot.tenant, snapshotId: snapshot.id, role: "Image", storeId: snapshot.storeId } as const;
}

/** The row, or StateConflict when it is gone. */
export async function requireSnapshot(database: Database, tenant: string, id: string): Promise<Snapshot> {
  const snapshot = await getSnapshot(database, tenant, id);
  if (!snapshot) throw new StateConflict(`${id} is gone`);
  return snapshot;
}

/** The row, or StateConflict when it is gone. */
export async function requireJob(database: Database, tenant: string, id: string): Promise<Job> {
  const job = await getJob(database, tenant, id);
  if (!job) throw new StateConflict(`${id} is gone`);
  return job;
}

/** A queued job that no pool holds back starts; one that runs already is a replay. */
export function beginJob(
  database: Database,
  queued: Pick<Job, "tenant" | "id">,
  phase: Job["phase"],
  now: string,
): Promise<"written" | "replay"> {
  return decideAndWrite(database, async () => {
    const job = await requireJob(database, queued.tenant, queued.id);
    if (job.state !== "Queued") return "replay";
    return [moveJob(database, job, "Running", { phase, startedAt: now, updatedAt: now }, { from: ["Queued"] })];
  });
}

function awaitBackup(database: Database, job: Job, backupJobId: string, now: string): TransactionItem {
  return {
    Update: {
      TableName: database.tables.jobs,
      Key: { tenant: job.tenant, id: job.id },
      UpdateExpression: "SET backupJobId = :backup, phase = :phase, updatedAt = :now",
      ConditionExpression: "#state = :running",
      ExpressionAttributeNames: { "#state": "state" },
      ExpressionAttributeValues: { ":backup": backupJobId, ":phase": "Queued", ":now": now, ":running": "Running" },
    },
  };
}
