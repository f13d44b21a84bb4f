/** The events that a snapshot's changes of state become, and what was found out about its backup. Pure. */
import { HintMismatch } from "./errors.ts";
import type { Snapshot, SnapshotState } from "./snapshot.ts";

export type SnapshotEventType =
  | "snapshot.requested"
  | "snapshot.creating"
  | "snapshot.created-on-primary"
  | "snapshot.creation-failed"
  | "snapshot.backing-up"
  | "snapshot.backed-up"
  | "snapshot.imported"
  | "snapshot.backup-failed"
  | "snapshot.backup-requested"
  | "snapshot.copying"
  | "snapshot.destroying"
  | "snapshot.destroyed"
  | "snapshot.backup-damaged"
  | "snapshot.hint-mismatch";

/** What somebody wants to be told: the snapshot exists; its backup has ended, well or badly; bytes are not what they should be. */
const worthANotice: ReadonlySet<SnapshotEventType> = new Set<SnapshotEventType>([
  "snapshot.created-on-primary",
  "snapshot.creation-failed",
  "snapshot.backed-up",
  "snapshot.backup-failed",
  "snapshot.backup-damaged",
  "snapshot.hint-mismatch",
]);

export interface SnapshotEventDetail {
  /**
   * `snapshotId#updateCount`, or `snapshotId#check#at` and `snapshotId#hint#at` of what was found out: delivered at least once, so that
   * is what to remember.
   */
  readonly eventId: string;
  readonly tenant: string;
  readonly snapshotId: string;
  readonly volumeId: string;
  /** Of a snapshot that was taken of a VM. */
  readonly vmId?: string;
  readonly groupId?: string;
  readonly jobId: string;
  readonly from?: SnapshotState;
  readonly to: SnapshotState;
  readonly attempt: number;
  readonly maxAttempts: number;
  readonly at: string;
  readonly error?: { readonly name: string; readonly message: string };
  readonly primaryKeptUntil?: string;
  readonly logicalBytes?: number;
  readonly storedBytes?: number;
  /** Of a damaged backup: sentences that name objects and ranges of the volume. */
  readonly lost?: readonly string[];
}

export interface SnapshotEventMessage {
  readonly type: SnapshotEventType;
  readonly detail: SnapshotEventDetail;
  readonly forPeople: boolean;
}

function typeOf(from: SnapshotState | undefined, to: SnapshotState): SnapshotEventType {
  switch (to) {
    case "Allocated":
      return "snapshot.requested";
    case "Creating":
      return "snapshot.creating";
    case "CreatedOnPrimary":
      if (from === "BackingUp") return "snapshot.backup-failed";
      return from === "Creating" ? "snapshot.created-on-primary" : "snapshot.backup-requested";
    case "BackingUp":
      return "snapshot.backing-up";
    case "BackedUp":
      return from === undefined ? "snapshot.imported" : "snapshot.backed-up";
    case "Copying":
      return "snapshot.copying";
    case "Error":
      return from === "Allocated" || from === "Creating" ? "snapshot.creation-failed" : "snapshot.backup-failed";
    case "Destroying":
      return "snapshot.destroying";
    case "Destroyed":
      return "snapshot.destroyed";
  }
}

/** The event of a row's change, or undefined when it neither changed the state nor tells of something found out. */
export function snapshotEvent(before: Snapshot | undefined, after: Snapshot): SnapshotEventMessage | undefined {
  return before?.updateCount === after.updateCount ? findingEvent(before, after) : moveEvent(before, after);
}

function message(type: SnapshotEventType, detail: SnapshotEventDetail): SnapshotEventMessage {
  return { type, forPeople: worthANotice.has(type), detail };
}

function moveEvent(before: Snapshot | undefined, after: Snapshot): SnapshotEventMessage {
  const type = typeOf(before?.state, after.state);
  const failed = type === "snapshot.backup-failed" || type === "snapshot.creation-failed";
  return message(type, {
    eventId: `${after.id}#${after.updateCount}`,
    tenant: after.tenant,
    snapshotId: after.id,
    volumeId: after.volumeId,
    ...groupOf(after),
    jobId: jobOfChange(after),
    ...(before ? { from: before.state } : {}),
    to: after.state,
    attempt: after.attempt,
    maxAttempts: after.maxAttempts,
    at: after.updatedAt,
    ...(failed && after.error ? { error: after.error } : {}),
    ...(failed && after.primaryKeptUntil ? { primaryKeptUntil: after.primaryKeptUntil } : {}),
    ...(after.logicalBytes === undefined ? {} : { logicalBytes: after.logicalBytes }),
    ...(after.state === "BackedUp" && after.storedBytes !== undefined ? { storedBytes: after.storedBytes } : {}),
  });
}

function groupOf({ vmId, groupId }: Snapshot): Pick<SnapshotEventDetail, "vmId" | "groupId"> {
  return { ...(vmId === undefined ? {} : { vmId }), ...(groupId === undefined ? {} : { groupId }) };
}

/** The state stays: `from` and `to` are the same. */
function findingEvent(before: Snapshot, after: Snapshot): SnapshotEventMessage | undefined {
  const { lastCheck, hintMismatch } = after;
  const unchanged = {
    tenant: after.tenant,
    snapshotId: after.id,
    volumeId: after.volumeId,
    ...groupOf(after),
    from: after.state,
    to: after.state,
    maxAttempts: after.maxAttempts,
  };
  if (lastCheck?.result === "damaged" && lastCheck.at !== before.lastCheck?.at)
    return message("snapshot.backup-damaged", {
      ...unchanged,
      eventId: `${after.id}#check#${lastCheck.at}`,
      jobId: after.jobId,
      attempt: after.attempt,
      at: lastCheck.at,
      lost: lastCheck.lost ?? [],
    });
  if (hintMismatch && hintMismatch.at !== before.hintMismatch?.at)
    return message("snapshot.hint-mismatch", {
      ...unchanged,
      eventId: `${after.id}#hint#${hintMismatch.at}`,
      jobId: hintMismatch.jobId,
      attempt: hintMismatch.attempt,
      at: hintMismatch.at,
      error: { name: HintMismatch.name, message: hintMismatch.message },
    });
  return undefined;
}

/** The job that made the change; the row's own `jobId` may be the next one already. */
function jobOfChange(snapshot: Snapshot): string {
  return snapshot.lastChange.split("#")[0] ?? snapshot.jobId;
}

/** One sentence for a mailbox. */
export function sentence({ type, detail }: SnapshotEventMessage): string {
  const what = `${detail.snapshotId} of volume ${detail.volumeId}`;
  const why = detail.error ? `: ${detail.error.name}: ${detail.error.message}` : "";
  switch (type) {
    case "snapshot.created-on-primary":
      return `Snapshot ${what} exists on primary storage. Its backup follows.`;
    case "snapshot.backed-up":
      return `Snapshot ${what} is backed up and verified.`;
    case "snapshot.backup-damaged":
      return `The backup of snapshot ${what} is damaged. ${(detail.lost ?? []).join(" ")}`;
    case "snapshot.hint-mismatch":
      return `The hypervisor called parts of volume ${detail.volumeId} unchanged that had changed${why}. The backup of ${detail.snapshotId} reads all of it; earlier ones since the last full backup may be wrong.`;
    case "snapshot.creation-failed":
      return `Snapshot ${what} could not be created${why}`;
    case "snapshot.backup-failed": {
      const kept = detail.primaryKeptUntil
        ? ` The copy on primary storage is kept until ${detail.primaryKeptUntil}.`
        : "";
      return `The backup of snapshot ${what} failed at attempt ${detail.attempt} of ${detail.maxAttempts}${why}.${kept}`;
    }
    default:
      return `Snapshot ${what} is ${detail.to}.`;
  }
}
