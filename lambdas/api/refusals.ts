/** Why something cannot be done with a snapshot or a volume now, in words: what stands in the way and what to do about it. */
import { type Volume, volumeStatus } from "../domain/inventory.ts";
import type { Job } from "../domain/job.ts";
import { volumeOperationRules } from "../domain/operations.ts";
import { onlyOnPrimary, protectionOf } from "../domain/protection.ts";
import { lockedUntil, nextSnapshotState, type Snapshot, type SnapshotState } from "../domain/snapshot.ts";
import type { Vm } from "../domain/vm.ts";
import type { Progress } from "../tables/progress.ts";
import { Problem, type ProblemKind } from "./problem.ts";
import { pathOf } from "./representations.ts";

/** The one state in which a snapshot's backup can be read: the state that a reader's lease asks for. */
export const readableState = "BackedUp";

export type SnapshotAction = "delete" | "restore" | "backup";

/** What is known of the snapshot's latest job. */
export interface Situation {
  readonly snapshot: Snapshot;
  readonly job: Job | undefined;
  readonly jobEnded: boolean;
  readonly progress: Progress | undefined;
  /** ISO 8601 in UTC. */
  readonly now: string;
}

interface Refusal {
  readonly kind: ProblemKind;
  readonly detail: string;
  readonly jobs?: readonly string[];
  readonly lockedUntil?: string;
}

/** The problem that says why `action` is refused in this situation. */
export function refusalOf(action: SnapshotAction, situation: Situation): Problem {
  const { snapshot, now } = situation;
  const deletable = nextSnapshotState(snapshot.state, "DestroyRequested") && snapshot.readers.length === 0;
  if (action === "delete" && deletable && lockedUntil(snapshot, now) === undefined)
    return new Problem("conflict", `${snapshot.id} changed meanwhile; try again.`);
  const { kind, detail, ...members } = refusals[snapshot.state](situation, action);
  return new Problem(kind, detail, { members: { snapshotId: snapshot.id, ...members } });
}

const refusals: Readonly<Record<SnapshotState, (situation: Situation, action: SnapshotAction) => Refusal>> = {
  Allocated: beingCreated,
  Creating: beingCreated,
  CreatedOnPrimary: ({ snapshot, job, jobEnded }, action) => {
    if (!jobEnded)
      return {
        kind: action === "backup" ? "backup-is-queued" : "snapshot-is-not-backed-up",
        detail: `${snapshot.id} is on primary storage and its backup ${snapshot.jobId} is queued. ${wait(snapshot.jobId)}`,
        jobs: [snapshot.jobId],
      };
    const outcome = job === undefined ? "has ended" : `has ended: it ${job.state}`;
    return {
      kind: "snapshot-is-not-backed-up",
      detail: `${snapshot.id} is on primary storage only: its job ${snapshot.jobId} ${outcome}. ${backUpAgain(snapshot)}`,
    };
  },
  BackingUp: ({ snapshot, progress }) => ({
    kind: "snapshot-is-backing-up",
    detail: `${snapshot.id} is being backed up by ${snapshot.jobId} (${percentage(progress)}attempt ${snapshot.attempt} of ${snapshot.maxAttempts}). ${waitOrCancel(snapshot.jobId)}`,
    jobs: [snapshot.jobId],
  }),
  BackedUp: ({ snapshot, now }, action) => {
    const [reader] = snapshot.readers;
    if (action === "delete" && reader !== undefined)
      return {
        kind: "snapshot-is-being-read",
        detail: `${snapshot.id} is being read by ${snapshot.readers.join(", ")}. ${waitOrCancel(reader)}`,
        jobs: snapshot.readers,
      };
    const locked = lockedUntil(snapshot, now);
    if (action === "delete" && locked !== undefined)
      return {
        kind: "snapshot-is-locked",
        detail: `${snapshot.id} is locked by its store until ${locked}. Delete it after that.`,
        lockedUntil: locked,
      };
    return {
      kind: "snapshot-is-backed-up",
      detail: `${snapshot.id} is backed up already, since ${snapshot.backedUpAt}.`,
    };
  },
  Copying: ({ snapshot }) => ({
    kind: "snapshot-is-being-copied",
    detail: `${snapshot.id} is being copied by ${snapshot.jobId}. ${wait(snapshot.jobId)}`,
    jobs: [snapshot.jobId],
  }),
  Error: ({ snapshot }, action) => {
    const reason = snapshot.error ? ` (${snapshot.error.name}: ${snapshot.error.message})` : "";
    if (action === "backup")
      return {
        kind: "primary-copy-is-gone",
        detail: `${snapshot.id} is in Error${reason} and has no finished copy on primary storage to back up from. Delete it (DELETE ${pathOf("snapshots", snapshot.id)}) and take another.`,
      };
    return {
      kind: "snapshot-is-not-backed-up",
      detail: `${snapshot.id} is in Error${reason}: it has no backup. ${backUpAgain(snapshot)}`,
    };
  },
  Destroying: ({ snapshot }) => ({
    kind: "snapshot-is-being-deleted",
    detail: `${snapshot.id} is being deleted by ${snapshot.jobId}.`,
    jobs: [snapshot.jobId],
  }),
  Destroyed: ({ snapshot }, action) => ({
    kind: action === "delete" ? "snapshot-is-destroyed" : "snapshot-is-not-backed-up",
    detail: `${snapshot.id} was deleted at ${snapshot.updatedAt}: nothing is left of it.`,
  }),
};

function beingCreated({ snapshot }: Situation): Refusal {
  return {
    kind: "snapshot-is-being-created",
    detail: `${snapshot.id} is being created by ${snapshot.jobId}. ${waitOrCancel(snapshot.jobId)}`,
    jobs: [snapshot.jobId],
  };
}

/** Why the volume cannot become a VM's disk now; undefined when it can. Whether it can be backed up does not matter: no VM has it yet. */
export function diskRefusal(volume: Volume): Problem | undefined {
  const members = { volumeId: volume.id };
  const status = volumeStatus(volume);
  if (status === "restoring") {
    const jobId = volume.restoringJobId ?? "";
    return new Problem("volume-is-restoring", `${volume.id} is being restored by ${jobId}. ${waitOrCancel(jobId)}`, {
      members: { ...members, jobs: [jobId] },
    });
  }
  if (status === "missing")
    return new Problem(
      "volume-is-missing",
      `${volume.id} (${volume.name}) was not on its hypervisor at the last discovery. If it is back, discover again (POST ${pathOf("hypervisors", volume.hypervisorId)}/discover).`,
      { members },
    );
  return undefined;
}

/** Why no snapshot of the volume can be taken now; undefined when one can. */
export function volumeRefusal(volume: Volume): Problem | undefined {
  const gone = diskRefusal(volume);
  if (gone) return gone;
  const members = { volumeId: volume.id };
  if (protectionOf(volume) !== "protected")
    return new Problem(
      "volume-is-unprotected",
      `${volume.id} (${volume.name}) is taken out of protection: no snapshot of it is taken. Protect it again first (POST ${pathOf("volumes", volume.id)}/protect).`,
      { members },
    );
  if (volume.unsupported !== undefined)
    return new Problem(
      "volume-is-unsupported",
      `${volume.id} (${volume.name}) cannot be backed up: ${volume.unsupported}.`,
      {
        members,
      },
    );
  if (volume.backingUp > 0 && volumeOperationRules.snapshot !== true)
    return new Problem("conflict", `${volume.id} is being backed up, and ${volumeOperationRules.snapshot}.`, {
      members,
    });
  return undefined;
}

/** Why the volume's copies on primary cannot all go; undefined when they can. `copies` are its snapshots that have one. */
export function unsavedRefusal(volume: Volume, copies: readonly Snapshot[]): Problem | undefined {
  const unsaved = onlyOnPrimary(copies).map(({ id, state }) => ({ id, state }));
  if (unsaved.length === 0) return undefined;
  const named = unsaved.map(({ id, state }) => `${id} (${state})`).join(", ");
  return new Problem(
    "snapshot-is-not-backed-up",
    `${volume.id} has snapshots on primary storage that have no backup: ${named}. Wait for their backups, or delete them.`,
    { members: { volumeId: volume.id, snapshots: unsaved.map(({ id }) => id) } },
  );
}

/** Why nothing can be done with the VM now; undefined when something can. */
export function vmRefusal(vm: Vm): Problem | undefined {
  if (!vm.missing) return undefined;
  return new Problem(
    "vm-is-missing",
    `${vm.id} (${vm.name}) was not on its hypervisor at the last discovery. If it is back, discover again (POST ${pathOf("hypervisors", vm.hypervisorId)}/discover).`,
    { members: { vmId: vm.id } },
  );
}

/** A job that has ended does not end again. */
export function jobHasEnded(job: Job): Problem {
  return new Problem(
    "job-has-ended",
    `${job.id} has ended already: it ${job.state} at ${job.finishedAt ?? job.updatedAt}.`,
    {
      members: { jobId: job.id, state: job.state },
    },
  );
}

function wait(jobId: string): string {
  return `Wait for it (GET ${pathOf("jobs", jobId)}).`;
}

export function waitOrCancel(jobId: string): string {
  return `Wait for it (GET ${pathOf("jobs", jobId)}) or cancel it first (POST ${pathOf("jobs", jobId)}/cancel).`;
}

function backUpAgain(snapshot: Snapshot): string {
  return `Back it up again (POST ${pathOf("snapshots", snapshot.id)}/backup).`;
}

function percentage(progress: Progress | undefined): string {
  if (!progress || progress.bytesTotal === 0) return "";
  return `${Math.floor((100 * progress.bytesDone) / progress.bytesTotal)} %, `;
}
