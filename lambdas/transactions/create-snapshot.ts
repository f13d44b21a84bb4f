/** The rows' way from the request of a snapshot to CreatedOnPrimary. */
import { type ErrorSummary, StateConflict } from "../domain/errors.ts";
import { newId } from "../domain/ids.ts";
import { defaultStoreId } from "../domain/inventory.ts";
import { hasEnded, type Job, membersOf, newJob } from "../domain/job.ts";
import { backupPool } from "../domain/pool.ts";
import type { Consistency, SavedVm, Snapshot } from "../domain/snapshot.ts";
import type { Database, TransactionItem } from "../tables/database.ts";
import { getJob, insertJob, moveJob } from "../tables/jobs.ts";
import { getSnapshot, insertSnapshot, moveSnapshot } from "../tables/snapshots.ts";
import { moveStoreReference, removeStoreReference } from "../tables/store-references.ts";
import { requireStore } from "../tables/stores.ts";
import { requireUsableVolume } from "../tables/volumes.ts";
import { decideAndWrite, moveOrReplay } from "./decide-and-write.ts";

export interface RequestedSnapshot {
  readonly snapshot: Omit<Snapshot, "readers">;
  readonly job: Omit<Job, "open">;
}

/** The items that record the request: snapshots Allocated, jobs Queued, on condition that their volumes and stores are there. */
export function requestSnapshots(database: Database, requested: readonly RequestedSnapshot[]): TransactionItem[] {
  const stores = new Map(requested.map(({ snapshot: { tenant, storeId } }) => [storeId, tenant]));
  stores.delete(defaultStoreId);
  return [
    ...requested.flatMap(({ snapshot, job }) => [
      insertSnapshot(database, snapshot),
      insertJob(database, job),
      requireUsableVolume(database, { tenant: snapshot.tenant, id: snapshot.volumeId }),
    ]),
    ...[...stores].map(([storeId, tenant]) => requireStore(database, tenant, storeId)),
  ];
}

/**
 * Snapshots Creating, jobs Running, and the references to what is about to be created, for all members of the job's group.
 * `installPaths` are by snapshots' ids.
 */
export function beginCreate(
  database: Database,
  job: CreateJob,
  installPaths: ReadonlyMap<string, string>,
  now: string,
): Promise<"written" | "replay"> {
  return decideAndWrite(database, async () => {
    const members = await readMembers(database, job);
    const items = members.map(({ job, snapshot }) => {
      const to = moveOrReplay(snapshot, "CreateRequested", { jobId: job.id, attempt: 0 });
      if (to === "replay") return [];
      return [
        moveSnapshot(database, snapshot, { to, jobId: job.id, attempt: 0, now }),
        moveJob(database, job, "Running", { phase: "Taking", startedAt: now, updatedAt: now }),
        moveStoreReference(database, primaryReference(snapshot), "Creating", {
          jobId: job.id,
          installPath: requireOne(installPaths, snapshot.id),
          updatedAt: now,
        }),
      ];
    });
    return allOrReplay(items);
  });
}

export interface FrozenVolume {
  readonly snapshotId: string;
  readonly installPath: string;
  readonly sizeBytes: number;
  readonly physicalBytes: number;
  readonly consistency: Consistency;
  /** A definition is saved with the snapshot. */
  readonly vmDefinition?: SavedVm;
}

/**
 * The volumes are frozen: all snapshots of the group CreatedOnPrimary and their backups queued. The create jobs end here when the backup is
 * asynchronous; else each stays open until its backup job closes it.
 */
export function createdOnPrimary(
  database: Database,
  job: CreateJob,
  frozen: readonly FrozenVolume[],
  now: string,
): Promise<"written" | "replay"> {
  const frozenOf = new Map(frozen.map((volume) => [volume.snapshotId, volume]));
  return decideAndWrite(database, async () => {
    const members = await readMembers(database, job);
    const items = members.map(({ job, snapshot }) =>
      job.backupJobId === undefined ? queueBackup(database, job, snapshot, requireOne(frozenOf, snapshot.id), now) : [],
    );
    return allOrReplay(items);
  });
}

function queueBackup(
  database: Database,
  createJob: Job,
  snapshot: Snapshot,
  frozen: FrozenVolume,
  now: string,
): TransactionItem[] {
  const to = moveOrReplay(snapshot, "OperationSucceeded", { jobId: createJob.id, attempt: 0 });
  if (to === "replay") return [];
  const { consistency, installPath, sizeBytes, physicalBytes, vmDefinition } = frozen;
  const backupJob = queuedBackup(snapshot, createJob.policy, now, createJob.asyncBackup ? undefined : createJob.id);
  return [
    moveSnapshot(database, snapshot, {
      to,
      jobId: backupJob.id,
      by: createJob.id,
      attempt: 0,
      now,
      set: {
        consistency,
        logicalBytes: sizeBytes,
        physicalBytes,
        createdOnPrimaryAt: now,
        ...(vmDefinition && { vmDefinition }),
      },
    }),
    moveStoreReference(database, primaryReference(snapshot), "Ready", {
      jobId: createJob.id,
      installPath,
      sizeBytes,
      physicalBytes,
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
}

export interface CreationFailure {
  readonly error: ErrorSummary;
  /** Snapshots of which nothing is left on primary: their references go as well, and their jobs are closed. */
  readonly primaryGone: ReadonlySet<string>;
  readonly cancelled: boolean;
  readonly keptUntil: string;
}

/**
 * Creation failed, and with it that of all members of the group that are still its own: one that was deleted before the execution began is
 * left to its deletion. A job of whose snapshot something may be left on primary stays open until no late worker can make anything any more.
 */
export function createFailed(
  database: Database,
  failed: CreateJob,
  failure: CreationFailure,
  now: string,
): Promise<"written" | "replay"> {
  return decideAndWrite(database, async () => {
    const members = await readMembers(database, failed);
    const own = members.filter(({ job, snapshot }) => job.id === failed.id || isCreatedBy(job, snapshot));
    return allOrReplay(own.map(({ job, snapshot }) => failOne(database, job, snapshot, failure, now)));
  });
}

function failOne(
  database: Database,
  createJob: Job,
  snapshot: Snapshot,
  { error, primaryGone, cancelled, keptUntil }: CreationFailure,
  now: string,
): TransactionItem[] {
  const to = moveOrReplay(snapshot, "OperationFailed", { jobId: createJob.id, attempt: 0 });
  if (to === "replay") return [];
  const gone = primaryGone.has(snapshot.id);
  return [
    moveSnapshot(database, snapshot, {
      to,
      jobId: createJob.id,
      attempt: 0,
      now,
      set: { error, ...(gone ? { physicalBytes: 0 } : { primaryKeptUntil: keptUntil }) },
    }),
    moveJob(
      database,
      createJob,
      cancelled ? "Cancelled" : "Failed",
      { phase: "Closing", error, updatedAt: now },
      { close: gone },
    ),
    ...(gone ? [removeStoreReference(database, primaryReference(snapshot))] : []),
  ];
}

type CreateJob = Pick<Job, "tenant" | "id">;

/** A snapshot of a group and the job that creates it. */
export interface CreatedMember {
  readonly job: Job;
  readonly snapshot: Snapshot;
}

/** Whether the job has not ended and its snapshot is still waiting for it. */
export function isCreatedBy(job: Job, snapshot: Snapshot): boolean {
  return !hasEnded(job.state) && snapshot.jobId === job.id;
}

/** All that the job's execution creates: the members of its group, or only its own snapshot. Throws StateConflict when a row is gone. */
export async function readMembers(database: Database, { tenant, id }: CreateJob): Promise<CreatedMember[]> {
  const named = await requireJob(database, tenant, id);
  return Promise.all(
    membersOf(named).map(async ({ jobId, snapshotId }) => {
      const [job, snapshot] = await Promise.all([
        jobId === id ? named : requireJob(database, tenant, jobId),
        requireSnapshot(database, tenant, snapshotId),
      ]);
      return { job, snapshot };
    }),
  );
}

/** All rows of a group move in one transaction, so that either all have moved already or none. */
function allOrReplay(items: readonly TransactionItem[][]): TransactionItem[] | "replay" {
  const all = items.flat();
  return all.length === 0 ? "replay" : all;
}

function requireOne<Value>(bySnapshot: ReadonlyMap<string, Value>, snapshotId: string): Value {
  const value = bySnapshot.get(snapshotId);
  if (value === undefined) throw new Error(`nothing is known of ${snapshotId} on primary storage`);
  return value;
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
