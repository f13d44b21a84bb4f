/** The states of `statemachines/backup-snapshot.asl.json`, but for the copying of shards (copy-shards.ts). */

import { unionOf } from "../domain/byte-ranges.ts";
import { type ErrorSummary, ExportLost, HintMismatch, isRetryableName } from "../domain/errors.ts";
import { hasAttemptsLeft, hasEnded, type Job, type JobPhase } from "../domain/job.ts";
import { domainMayBeUnencrypted, type Snapshot } from "../domain/snapshot.ts";
import { backupOf, closeExportOf, mapItemsKey, settleBackup } from "../endings/clean-up.ts";
import { endJob } from "../endings/end-job.ts";
import type { ExportDescriptor, Extent, Hypervisor } from "../hypervisors/port.ts";
import { pinBase } from "../repository/pin.ts";
import { writePlan } from "../repository/planner.ts";
import { publishRoot } from "../repository/publish.ts";
import { type PublishedSnapshot, publishedAt, retainSnapshot } from "../repository/retain.ts";
import { verifyBackup } from "../repository/verify.ts";
import type { Services } from "../services.ts";
import { anchorFor, anchorRanges } from "../tables/anchors.ts";
import { getJob, updateRunningJob } from "../tables/jobs.ts";
import { recordShardFailure, setProgressTotal, shardFailure } from "../tables/progress.ts";
import { getSnapshot, recordEncrypted, recordHintMismatch, snapshotsOfVolume } from "../tables/snapshots.ts";
import { getStoreReference, writeStoreReference } from "../tables/store-references.ts";
import { getStoreOptions } from "../tables/stores.ts";
import { getVolume } from "../tables/volumes.ts";
import { backedUp } from "../transactions/backup-snapshot.ts";
import { imageReference, primaryReference, requireJob, requireSnapshot } from "../transactions/create-snapshot.ts";
import { type BackupLock, lockOf, retentionOf } from "./backup-lock.ts";
import { readingOf } from "./backup-reading.ts";
import { descriptionOf } from "./snapshot-description.ts";
import {
  type CaughtError,
  causeOf,
  mergeWaitSeconds,
  type StateFunctions,
  type TaskContext,
  type TaskInput,
} from "./state-function.ts";

interface AttemptInput extends TaskInput {
  readonly attempt: number;
}

export interface Plan {
  readonly planHash: string;
  readonly shardCount: number;
  readonly itemsKey: string;
  /** Whether only that is read which the hypervisor calls changed. */
  readonly hinted: boolean;
  /** The share of the rest that {@link copyBackupStates}' AuditHint reads, 0 to 100. */
  readonly auditPercent: number;
}

/** The newest ancestors that may serve as base; one is enough, the others stand by in case it is deleted meanwhile. */
const baseCandidates = 3;

async function Begin(services: Services, { job: { tenant, jobId, snapshotId }, attempt }: AttemptInput) {
  const job = await getJob(services.database, tenant, jobId);
  const snapshot = await getSnapshot(services.database, tenant, snapshotId);
  if (!job || hasEnded(job.state) || snapshot?.state !== "BackingUp" || snapshot.jobId !== jobId)
    return { proceed: false };
  return { proceed: await enter(services, tenant, jobId, "Exporting", attempt) };
}

async function OpenExport(
  services: Services,
  { job: { tenant, jobId, snapshotId } }: AttemptInput,
): Promise<ExportDescriptor> {
  const { database } = services;
  const snapshot = await requireSnapshot(database, tenant, snapshotId);
  const primary = await getStoreReference(database, primaryReference(snapshot));
  if (primary?.state !== "Ready") throw new ExportLost(`${snapshotId} is no longer on primary storage`);
  await writeStoreReference(database, imageReference(snapshot), "Creating", {
    jobId,
    installPath: rootOf(snapshot),
    updatedAt: services.now().toISOString(),
  });
  const hypervisor = await services.hypervisor(snapshot.hypervisorTenant, snapshot.hypervisorId);
  return hypervisor.openExport({ snapshotId, installPath: primary.installPath });
}

async function Plan(services: Services, input: AttemptInput & { export: ExportDescriptor }): Promise<Plan> {
  const { tenant, jobId, snapshotId, policy } = input.job;
  await enter(services, tenant, jobId, "Planning", input.attempt);
  const snapshot = await requireSnapshot(services.database, tenant, snapshotId);
  const target = await backupInto(services, snapshot, jobId);
  const { sizeBytes } = input.export;
  const candidates = policy.full ? [] : await possibleBases(services, snapshot);
  const { baseSnapshotId: base } = await pinBase(target, candidates, { sizeBytes });
  const hypervisor = await services.hypervisor(snapshot.hypervisorTenant, snapshot.hypervisorId);
  const changed = base && (await changedSince(services, { hypervisor, snapshot, base }, input.export));
  const extents = allExtents(hypervisor, input.export);
  const plan = await writePlan(target, { sizeBytes, extents, ...(changed && { changed }) });
  await setProgressTotal(services.database, jobId, plan.bytesTotal, services.now());
  const itemsKey = await writeMapItems(services, jobId, plan.shardCount);
  const { attempts } = await requireJob(services.database, tenant, jobId);
  const backup = readingOf({
    full: policy.full ?? false,
    base,
    tracking: hypervisor.capabilities.changeTracking,
    told: changed !== undefined,
    hinted: plan.hinted,
    mismatchIn: attempts.findLast(({ error }) => error.name === HintMismatch.name)?.attempt,
  });
  await enter(services, tenant, jobId, "Copying", input.attempt, { backup });
  const { hintAuditPercent } = await services.settings();
  const { planHash, shardCount, hinted } = plan;
  return { planHash, shardCount, itemsKey, hinted, auditPercent: hintAuditPercent };
}

async function Verify(services: Services, input: AttemptInput & { plan: Plan }, { until }: TaskContext) {
  const { tenant, jobId, snapshotId } = input.job;
  await enter(services, tenant, jobId, "Verifying", input.attempt);
  const target = await backupOf(services, await requireSnapshot(services.database, tenant, snapshotId), jobId);
  return verifyBackup(target, { planHash: input.plan.planHash, until, full: input.job.policy.verify === "full" });
}

async function PublishRoot(services: Services, input: AttemptInput & { plan: Plan }) {
  const { tenant, jobId, snapshotId } = input.job;
  await enter(services, tenant, jobId, "Publishing", input.attempt);
  const snapshot = await requireSnapshot(services.database, tenant, snapshotId);
  const description = await descriptionOf(services, snapshot);
  const target = await backupOf(services, snapshot, jobId);
  const stored = await publishRoot(target, { planHash: input.plan.planHash, description });
  const lock = await lockOn(services, snapshot, target);
  return { ...stored, ...(lock && { lock }) };
}

async function RetainObjects(
  services: Services,
  input: AttemptInput & { lock: BackupLock; from: number },
  { until }: TaskContext,
) {
  const { tenant, jobId, snapshotId } = input.job;
  await enter(services, tenant, jobId, "Publishing", input.attempt);
  const target = await backupOf(services, await requireSnapshot(services.database, tenant, snapshotId), jobId);
  return retainSnapshot(target, { ...retentionOf(input.lock), from: input.from, outOfTime: until });
}

async function Complete(
  services: Services,
  input: AttemptInput & { stored: { storedBytes: number; logicalBytes: number; lock?: BackupLock } },
) {
  const { tenant, jobId, snapshotId } = input.job;
  const snapshot = await requireSnapshot(services.database, tenant, snapshotId);
  await backedUp(
    services.database,
    { tenant, id: jobId },
    {
      storedBytes: input.stored.storedBytes,
      logicalBytes: input.stored.logicalBytes,
      ...(input.stored.lock && { lockedUntil: input.stored.lock.until }),
      attempt: input.attempt,
      installPath: rootOf(snapshot),
    },
    services.now().toISOString(),
  );
}

async function CloseExport(
  services: Services,
  { job: { tenant, snapshotId }, ...input }: TaskInput & { export: ExportDescriptor },
) {
  const snapshot = await requireSnapshot(services.database, tenant, snapshotId);
  const hypervisor = await services.hypervisor(snapshot.hypervisorTenant, snapshot.hypervisorId);
  await hypervisor.closeExport(input.export);
}

/** What has to wait, for a backup of the same volume, a long merge or late workers of a failed attempt, is left to garbage collection. */
async function SettlePrimary(services: Services, { job: { tenant, jobId } }: TaskInput) {
  return {
    settled: await settleBackup(services, await requireJob(services.database, tenant, jobId), mergeWaitSeconds),
  };
}

/** A map run's own error says nothing; the shard that failed has left the reason. */
async function RecordFailure(
  services: Services,
  input: AttemptInput & { error: CaughtError },
): Promise<{ next: "again" | "giveUp" | "ended"; error: ErrorSummary }> {
  const { tenant, jobId, snapshotId } = input.job;
  const { database, logger } = services;
  const error = (await shardFailure(database, jobId, input.attempt)) ?? causeOf(input.error);
  const job = await requireJob(database, tenant, jobId);
  if (hasEnded(job.state)) return { next: "ended", error };

  const snapshot = await requireSnapshot(database, tenant, snapshotId);
  await closeExportOf(services, snapshot).catch((failure) => {
    logger.warn("the export is left to the reconciler", { jobId, snapshotId, error: failure });
  });
  const at = services.now().toISOString();
  if (error.name === HintMismatch.name)
    await recordHintMismatch(database, snapshot, { at, jobId, attempt: input.attempt, message: error.message });
  const startedAt = job.attempts.at(-1)?.endedAt ?? job.startedAt ?? at;
  const earlier = job.attempts.filter(({ attempt }) => attempt !== input.attempt);
  const again = isRetryableName(error.name) && hasAttemptsLeft(input.attempt, job.policy);
  await updateRunningJob(database, job, {
    attempts: [...earlier, { attempt: input.attempt, startedAt, endedAt: at, error }],
    phase: again ? "WaitingRetry" : "Closing",
    updatedAt: at,
  });
  return { next: again ? "again" : "giveUp", error };
}

async function GiveUp(services: Services, { job: { tenant, jobId }, error }: AttemptInput & { error: ErrorSummary }) {
  const job = await requireJob(services.database, tenant, jobId);
  await endJob(services, job, { error, cancelled: false });
}

/** Called by a shard's own branch: what failed there is lost otherwise. */
export async function ReportShardFailure(
  services: Services,
  input: AttemptInput & { shard: number; error: CaughtError },
) {
  await recordShardFailure(
    services.database,
    input.job.jobId,
    input.attempt ?? 1,
    causeOf(input.error),
    services.now(),
  );
}

/** The list of shards for the Distributed Map, in the stack's own bucket: Step Functions cannot read other stores. */
export async function writeMapItems(services: Services, jobId: string, shardCount: number): Promise<string> {
  const key = mapItemsKey(jobId);
  const items = Array.from({ length: shardCount }, (_, shard) => ({ shard }));
  await (await services.ownBucket()).put(key, Buffer.from(JSON.stringify(items)));
  return key;
}

function enter(
  services: Services,
  tenant: string,
  jobId: string,
  phase: JobPhase,
  attempt: number,
  more: Pick<Job, "backup"> = {},
): Promise<boolean> {
  return updateRunningJob(
    services.database,
    { tenant, id: jobId },
    { ...more, phase, attempt, updatedAt: services.now().toISOString() },
  );
}

/** Where the backup's root is, in the words of the store reference. */
function rootOf(snapshot: Snapshot): string {
  return `roots/${snapshot.id}`;
}

/**
 * The target, with the decision whether its domain may be unencrypted. It is taken from rows and written down before anything is read
 * from the store, so that all later states of the job, and whoever reads the backup, know it without the store.
 */
async function backupInto(services: Services, snapshot: Snapshot, jobId: string) {
  const { database } = services;
  const target = await backupOf(services, snapshot, jobId);
  if (target.keys === undefined || snapshot.encrypted) return target;
  const ofVolume = await Array.fromAsync(snapshotsOfVolume(database, snapshot.tenant, snapshot.volumeId));
  const mayBeUnencrypted = domainMayBeUnencrypted(snapshot, ofVolume);
  if (!mayBeUnencrypted) await recordEncrypted(database, snapshot, jobId);
  return { ...target, mayBeUnencrypted };
}

/** What the published snapshot is to be locked with, as the store's option is now. */
async function lockOn(
  services: Services,
  snapshot: Snapshot,
  target: PublishedSnapshot & { readonly jobId: string },
): Promise<BackupLock | undefined> {
  const { database } = services;
  const { objectLock } = await getStoreOptions(database, snapshot.tenant, snapshot.storeId);
  if (!objectLock) return undefined;
  const job = await requireJob(database, snapshot.tenant, target.jobId);
  const recorded = { publishedAt: await publishedAt(target), queuedAt: new Date(job.queuedAt) };
  return lockOf(objectLock, recorded, services.now());
}

async function possibleBases(services: Services, snapshot: Snapshot): Promise<string[]> {
  const bases: string[] = [];
  for await (const other of snapshotsOfVolume(services.database, snapshot.tenant, snapshot.volumeId)) {
    if (other.id === snapshot.id || other.state !== "BackedUp" || other.storeId !== snapshot.storeId) continue;
    bases.push(other.id);
    if (bases.length === baseCandidates) break;
  }
  return bases;
}

/**
 * The hypervisor's word on what has changed since the base, which may be gone from primary by now: then since the volume's anchor, with what
 * is known of the time between the two.
 */
async function changedSince(
  services: Services,
  about: { hypervisor: Hypervisor; snapshot: Snapshot; base: string },
  descriptor: ExportDescriptor,
): Promise<AsyncIterable<Extent> | undefined> {
  const { hypervisor, snapshot, base } = about;
  const volume = hypervisor.changedExtents && (await getVolume(services.database, snapshot.tenant, snapshot.volumeId));
  if (!volume) return undefined;
  const primary = await getStoreReference(services.database, primaryReference({ ...snapshot, id: base }));
  const planned = hypervisor.plannedInstallPath({ externalId: volume.externalId, snapshotId: base });
  const since = { snapshotId: base, installPath: primary?.installPath ?? planned };
  const changed = await hypervisor.changedExtents?.(descriptor, since);
  if (changed) return changed;
  const anchor = await anchorFor(services.database, snapshot);
  if (anchor?.baseSnapshotId !== base) return undefined;
  const sinceAnchor = await hypervisor.changedExtents?.(descriptor, anchor);
  return sinceAnchor && unionOf(anchorRanges(anchor), sinceAnchor, descriptor.sizeBytes);
}

async function* allExtents(hypervisor: Hypervisor, descriptor: ExportDescriptor): AsyncGenerator<Extent> {
  if (descriptor.sizeBytes > 0) yield* hypervisor.extents(descriptor, { offset: 0, length: descriptor.sizeBytes });
}

export const backupSnapshotStates: StateFunctions = {
  Begin,
  OpenExport,
  Plan,
  Verify,
  PublishRoot,
  RetainObjects,
  Complete,
  CloseExport,
  SettlePrimary,
  RecordFailure,
  GiveUp,
  ReportShardFailure,
};
