/** The events that a snapshot's changes of state become. Pure. */
import type { Snapshot, SnapshotState } from "./snapshot.ts";

export type SnapshotEventType =
  | "snapshot.requested"
  | "snapshot.creating"
  | "snapshot.created-on-primary"
  | "snapshot.creation-failed"
  | "snapshot.backing-up"
  | "snapshot.backed-up"
  | "snapshot.backup-failed"
  | "snapshot.backup-requested"
  | "snapshot.copying"
  | "snapshot.destroying"
  | "snapshot.destroyed";

/** What somebody wants to be told: the snapshot exists; its backup has ended, well or badly. */
const worthANotice: ReadonlySet<SnapshotEventType> = new Set<SnapshotEventType>([
  "snapshot.created-on-primary",
  "snapshot.creation-failed",
  "snapshot.backed-up",
  "snapshot.backup-failed",
]);

export interface SnapshotEventDetail {
  /** `snapshotId#updateCount`: delivered at least once, so that is what to remember. */
  readonly eventId: string;
  readonly tenant: string;
  readonly snapshotId: string;
  readonly volumeId: string;
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
      return "snapshot.backed-up";
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

/** The event of a row's change, or undefined when no change of state was made (the same `updateCount`). */
export function snapshotEvent(before: Snapshot | undefined, after: Snapshot): SnapshotEventMessage | undefined {
  if (before?.updateCount === after.updateCount) return undefined;
  const type = typeOf(before?.state, after.state);
  const failed = type === "snapshot.backup-failed" || type === "snapshot.creation-failed";
  return {
    type,
    forPeople: worthANotice.has(type),
    detail: {
      eventId: `${after.id}#${after.updateCount}`,
      tenant: after.tenant,
      snapshotId: after.id,
      volumeId: after.volumeId,
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
    },
  };
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
