/** Jobs: one for each piece of work that a caller can watch, wait for and cancel. Pure. */
import type { ErrorSummary } from "./errors.ts";

export const jobKinds = ["create-snapshot", "backup-snapshot", "restore-volume", "delete-snapshot"] as const;
export type JobKind = (typeof jobKinds)[number];

export const jobStates = ["Queued", "Running", "Succeeded", "Failed", "Cancelled"] as const;
export type JobState = (typeof jobStates)[number];

/** Where a job is, so that a stuck one says where it is stuck. */
export const jobPhases = [
  "Queued",
  "Taking",
  "Exporting",
  "Planning",
  "Copying",
  "Verifying",
  "Publishing",
  "Attaching",
  "WaitingRetry",
  "WaitingForExport",
  "Deleting",
  "Closing",
] as const;
export type JobPhase = (typeof jobPhases)[number];

/** The moves of a job's state. A job that has ended never moves again. */
export const jobTransitions: Readonly<Record<JobState, readonly JobState[]>> = {
  Queued: ["Running", "Succeeded", "Failed", "Cancelled"],
  Running: ["Succeeded", "Failed", "Cancelled"],
  Succeeded: [],
  Failed: [],
  Cancelled: [],
};

export function hasEnded(state: JobState): boolean {
  return jobTransitions[state].length === 0;
}

export interface JobAttempt {
  readonly attempt: number;
  readonly startedAt: string;
  readonly endedAt: string;
  readonly error: ErrorSummary;
}

export interface RestoreTarget {
  readonly hypervisorId: string;
  readonly hypervisorTenant: string;
  readonly name: string;
  /** The hypervisor's storage pool. Absent: its default, or it has none. */
  readonly pool?: string;
  readonly volumeId: string;
  /** The VM that gets the volume as a disk; one that is made for it has no id before. */
  readonly vmId?: string;
  /** The VM that is made for the volume. */
  readonly newVm?: { readonly name: string };
  /** Of a restore in place: the hypervisor's own id of that volume. */
  readonly replaces?: string;
}

/** The externalId that is foreseen for a volume before its hypervisor has said how it calls it. */
export function foreseenExternalId({ name, pool }: Pick<RestoreTarget, "name" | "pool">): string {
  return pool === undefined ? name : `${pool}/${name}`;
}

/** Whether the volume becomes a VM's disk when it is complete. */
export function isForVm({ vmId, newVm }: RestoreTarget): boolean {
  return vmId !== undefined || newVm !== undefined;
}

/** How a backup is checked before it is published: by the checksums that the store keeps, or by reading every byte back. */
export const backupVerifications = ["checksum", "full"] as const;
export type BackupVerification = (typeof backupVerifications)[number];

export const quiesceModes = [false, true, "preferred"] as const;

/** Copied from the settings and the request when the job is made: a later change never bends a running job. */
export interface BackupPolicy {
  readonly maxAttempts: number;
  readonly retryIntervalSeconds: number;
  /** Absent: `checksum`. */
  readonly verify?: BackupVerification;
  /** The whole volume is read and nothing of earlier backups is used again. Absent: false. */
  readonly full?: boolean;
  /** Whether file systems are flushed and held while the volume is frozen; `preferred`: where they can be. Absent: false. */
  readonly quiesce?: (typeof quiesceModes)[number];
}

/**
 * Snapshots of one moment. They are created by one execution, all or none; each is backed up by itself. The execution is named after the
 * job of the first.
 */
export interface SnapshotGroup {
  readonly id: string;
  readonly members: readonly GroupMember[];
}

export interface GroupMember {
  readonly jobId: string;
  readonly snapshotId: string;
}

/** How a backup came by its bytes. Written when it is planned; the last attempt's counts. */
export interface BackupReading {
  /** `incremental`: chunks of `base` are used again. */
  readonly kind: "full" | "incremental";
  /** The snapshot whose backup it builds on. */
  readonly base?: string;
  /** Whether all allocated bytes were read, or those only that change tracking calls changed since `base`. */
  readonly reading: "changed" | "everything";
  /** Why it is full, or why everything was read, in words. */
  readonly reason?: string;
}

export interface Job {
  readonly tenant: string;
  readonly id: string;
  readonly kind: JobKind;
  readonly state: JobState;
  readonly phase: JobPhase;
  readonly snapshotId: string;
  readonly volumeId: string;
  /** A create job whose snapshot is one of several. */
  readonly group?: SnapshotGroup;
  /** 0 before the first attempt. */
  readonly attempt: number;
  readonly policy: BackupPolicy;
  readonly attempts: readonly JobAttempt[];
  /** A create job that ends with the backup: the backup job that closes it. */
  readonly backupJobId?: string;
  /** A backup job: the create job that it closes, when that one waits for the backup. */
  readonly parentJobId?: string;
  readonly asyncBackup?: boolean;
  readonly target?: RestoreTarget;
  /** A restore that keeps all that is left of a damaged backup. */
  readonly salvage?: boolean;
  /** What such a restore has found lost, in sentences: zeros in the volume. */
  readonly lost?: readonly string[];
  /** Of a backup, from its first plan on. */
  readonly backup?: BackupReading;
  /** The pool whose slot the job waits for or holds. */
  readonly pool?: string;
  readonly error?: ErrorSummary;
  readonly cancelRequestedAt?: string;
  readonly createdAt: string;
  readonly updatedAt: string;
  readonly queuedAt: string;
  readonly startedAt?: string;
  readonly finishedAt?: string;
  /** True until nothing of the job is left to clean up; an ended job may still be open. */
  readonly open: boolean;
}

/** A job as it is recorded first. It starts at once, unless a pool is put to it. */
export function newJob(
  id: string,
  kind: JobKind,
  snapshot: { readonly tenant: string; readonly id: string; readonly volumeId: string },
  policy: BackupPolicy,
  now: string,
): Omit<Job, "open"> {
  return {
    tenant: snapshot.tenant,
    id,
    kind,
    state: "Queued",
    phase: "Queued",
    snapshotId: snapshot.id,
    volumeId: snapshot.volumeId,
    attempt: 0,
    policy,
    attempts: [],
    createdAt: now,
    updatedAt: now,
    queuedAt: now,
  };
}

/** What a state machine is started with: ids and the frozen policy, nothing that can be looked up, nothing secret. */
export interface ExecutionInput {
  readonly tenant: string;
  readonly jobId: string;
  readonly snapshotId: string;
  readonly policy: BackupPolicy;
}

/** The snapshots that the job's execution works on, each with its job. */
export function membersOf(job: Pick<Job, "id" | "snapshotId" | "group">): readonly GroupMember[] {
  return job.group?.members ?? [{ jobId: job.id, snapshotId: job.snapshotId }];
}

/** What the job's execution is named after: the job itself, or the first of its group. */
export function executionName(job: Pick<Job, "id" | "group">): string {
  return job.group?.members[0]?.jobId ?? job.id;
}

/**
 * Derived from the row alone, so that starting it twice gives the same input and Step Functions answers with the first execution. The jobs
 * of a group have one execution, and so one input.
 */
export function executionInput(job: Job): ExecutionInput {
  const [first] = membersOf(job);
  return { tenant: job.tenant, jobId: job.id, snapshotId: job.snapshotId, ...first, policy: job.policy };
}

/**
 * Whether uploads may lie in the store that nothing refers to. A job that succeeded at the first attempt has none; an attempt that failed has
 * uploaded what its last checkpoint does not name, or all that a dropped plan led to.
 */
export function mayLeaveUploads({ state, attempts }: Pick<Job, "state" | "attempts">): boolean {
  return state !== "Succeeded" || attempts.length > 0;
}

/** Whether a failed attempt is followed by another. `attempt` counts from 1. */
export function hasAttemptsLeft(attempt: number, policy: BackupPolicy): boolean {
  return attempt < policy.maxAttempts;
}
