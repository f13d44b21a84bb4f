/** The rows' way of a restore: a reader's lease, given back in the transaction that ends the job, and a volume under construction. */
import { type ErrorSummary, StateConflict } from "../domain/errors.ts";
import { type Volume, volumeIdFor } from "../domain/inventory.ts";
import { hasEnded, type Job, type RestoreTarget } from "../domain/job.ts";
import type { Snapshot } from "../domain/snapshot.ts";
import type { Vm } from "../domain/vm.ts";
import type { Database, TransactionItem } from "../tables/database.ts";
import { changeRunningJob, insertJob, moveJob } from "../tables/jobs.ts";
import { addReader, getSnapshot, removeReader } from "../tables/snapshots.ts";
import { requirePerhapsStoppedVm } from "../tables/vms.ts";
import {
  claimForRestore,
  dropRestoringVolume,
  getVolume,
  insertRestoringVolume,
  recordRestoredInPlace,
  releaseRestoredVolume,
} from "../tables/volumes.ts";
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

/**
 * The items that record the request of a restore in place: lease on the snapshot, the volume the job's own, on condition that its VMs are
 * stopped and not operated. An operation that would start one is on condition that its disks are not restored: whichever is first, the other
 * is refused.
 */
export function requestRestoreInPlace(
  database: Database,
  snapshot: Pick<Snapshot, "tenant" | "id" | "volumeId">,
  vms: readonly Vm[],
  job: Omit<Job, "open">,
  now: string,
): TransactionItem[] {
  return [
    addReader(database, snapshot, job.id),
    claimForRestore(database, { tenant: snapshot.tenant, id: snapshot.volumeId }, job.id, now),
    insertJob(database, job),
    ...vms.map((vm) => requirePerhapsStoppedVm(database, vm, now)),
  ];
}

/** The job is Running. */
export function beginRestore(
  database: Database,
  queued: Pick<Job, "tenant" | "id">,
  now: string,
): Promise<"written" | "replay"> {
  return beginJob(database, queued, "Planning", now);
}

/** A restored volume as its hypervisor shows it. */
export interface RestoredVolume {
  readonly externalId: string;
  readonly name: string;
  readonly sizeBytes: number;
  readonly allocatedBytes?: number | undefined;
  readonly unsupported?: string | undefined;
}

/**
 * The volume is complete and has its name. Where the hypervisor calls it otherwise than the request, as a path, the job and the volume's row
 * get the id that every discovery will give it. `lost`: what a salvage could not restore.
 */
export function restored(
  database: Database,
  running: Pick<Job, "tenant" | "id">,
  volume: RestoredVolume,
  { now, lost = [] }: { readonly now: string; readonly lost?: readonly string[] },
): Promise<"written" | "replay"> {
  return decideAndWrite(database, async () => {
    const job = await requireJob(database, running.tenant, running.id);
    if (hasEnded(job.state)) return "replay";
    const { target, writes } = await handOver(database, job, volume, now);
    const end = { phase: "Closing", target, updatedAt: now, ...(lost.length > 0 && { lost }) } as const;
    return [moveJob(database, job, "Succeeded", end), ...(await leaseBack(database, job)), ...writes];
  });
}

/**
 * The volume is complete and everybody's, while the job goes on with it: whatever becomes of the job, the volume stays. Throws StateConflict
 * when the job has ended.
 */
export function restoredForVm(
  database: Database,
  running: Pick<Job, "tenant" | "id">,
  volume: RestoredVolume,
  now: string,
): Promise<"written" | "replay"> {
  return decideAndWrite(database, async () => {
    const job = await requireJob(database, running.tenant, running.id);
    if (hasEnded(job.state)) throw new StateConflict(`${job.id} has ended: it ${job.state}`, job.id);
    const { target, writes } = await handOver(database, job, volume, now);
    return [changeRunningJob(database, job, { phase: "Attaching", target, updatedAt: now }), ...writes];
  });
}

/** The job's target with the volume's last id, and the writes that make its row everybody's; none where they were made before. */
async function handOver(database: Database, job: Job, volume: RestoredVolume, now: string) {
  if (!job.target) throw new Error(`${job.id} restores nothing`);
  const { tenant } = job;
  const id = volumeIdFor(job.target.hypervisorId, volume.externalId);
  const target: RestoreTarget = { ...job.target, volumeId: id };
  const foreseen = { tenant, id: job.target.volumeId };
  if (job.target.replaces !== undefined) {
    const { sizeBytes, allocatedBytes } = volume;
    return { target, writes: [recordRestoredInPlace(database, foreseen, job.id, { sizeBytes, allocatedBytes })] };
  }
  const row = await getVolume(database, tenant, foreseen.id);
  if (id === foreseen.id) {
    const isReleased = row !== undefined && row.restoringJobId === undefined;
    return {
      target,
      writes: isReleased ? [] : [releaseRestoredVolume(database, foreseen, job.id, volume.allocatedBytes)],
    };
  }
  const writes = [dropRestoringVolume(database, foreseen, job.id)];
  const discovered = await getVolume(database, tenant, id);
  if (discovered && !discovered.missing) return { target, writes };
  if (!row) throw new Error(`${foreseen.id}, which ${job.id} restores, has no row`);
  const { restoringJobId: _, ...free } = row;
  const found = { ...free, ...withoutUndefined(volume), id, discoveredAt: now };
  return { target, writes: [...writes, insertRestoringVolume(database, found)] };
}

/** What is undefined is no attribute of a row. */
function withoutUndefined({ externalId, name, sizeBytes, allocatedBytes, unsupported }: RestoredVolume) {
  return {
    externalId,
    name,
    sizeBytes,
    ...(allocatedBytes !== undefined && { allocatedBytes }),
    ...(unsupported !== undefined && { unsupported }),
  };
}

/** Ends the job and its lease. Unfinished bytes and the volume's row are cleaned up afterwards; until then the job stays open. */
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
      ...(await leaseBack(database, job)),
    ];
  });
}

/** Nothing where the snapshot's row is gone: its hypervisor or store was forgotten. */
async function leaseBack(
  database: Database,
  job: Pick<Job, "tenant" | "id" | "snapshotId">,
): Promise<TransactionItem[]> {
  const snapshot = { tenant: job.tenant, id: job.snapshotId };
  return (await getSnapshot(database, snapshot.tenant, snapshot.id)) ? [removeReader(database, snapshot, job.id)] : [];
}
