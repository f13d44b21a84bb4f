/** The life of a volume snapshot: its states, what moves it from one to the next, and what is refused meanwhile. Pure. */
import type { ErrorSummary } from "./errors.ts";
import { defaultStoreId } from "./inventory.ts";

/** What the frozen bytes are worth: of no single moment, of a volume that was not in use, as after a power cut, or flushed by the guest. */
export const consistencies = ["none", "offline", "crash", "filesystem"] as const;
export type Consistency = (typeof consistencies)[number];

export const snapshotStates = [
  "Allocated",
  "Creating",
  "CreatedOnPrimary",
  "BackingUp",
  "BackedUp",
  "Copying",
  "Error",
  "Destroying",
  "Destroyed",
] as const;
export type SnapshotState = (typeof snapshotStates)[number];

export type SnapshotEvent =
  | "CreateRequested"
  | "BackupRequested"
  | "BackupStarted"
  | "BackupFailedButKept"
  | "CopyRequested"
  | "DestroyRequested"
  | "OperationSucceeded"
  | "OperationFailed";

/** The only moves there are. What is not in this table is refused. */
export const snapshotTransitions: Readonly<
  Record<SnapshotState, Readonly<Partial<Record<SnapshotEvent, SnapshotState>>>>
> = {
  Allocated: { CreateRequested: "Creating", OperationFailed: "Error", DestroyRequested: "Destroying" },
  Creating: { OperationSucceeded: "CreatedOnPrimary", OperationFailed: "Error" },
  CreatedOnPrimary: {
    BackupRequested: "CreatedOnPrimary",
    BackupStarted: "BackingUp",
    BackupFailedButKept: "CreatedOnPrimary",
    OperationFailed: "Error",
    DestroyRequested: "Destroying",
  },
  BackingUp: { OperationSucceeded: "BackedUp", OperationFailed: "Error", BackupFailedButKept: "CreatedOnPrimary" },
  BackedUp: { CopyRequested: "Copying", DestroyRequested: "Destroying" },
  Copying: { OperationSucceeded: "BackedUp", OperationFailed: "BackedUp" },
  Error: { BackupRequested: "CreatedOnPrimary", DestroyRequested: "Destroying" },
  Destroying: { OperationSucceeded: "Destroyed", OperationFailed: "Destroying", DestroyRequested: "Destroying" },
  Destroyed: {},
};

/** The state that `event` leads to, or undefined when the table refuses it. */
export function nextSnapshotState(from: SnapshotState, event: SnapshotEvent): SnapshotState | undefined {
  return snapshotTransitions[from][event];
}

/** What a look at a sample of a backup's chunks, long after it was made, has found. */
export interface BackupCheck {
  /** ISO 8601. */
  readonly at: string;
  readonly checkedChunks: number;
  /** Bytes of the volume in those chunks. */
  readonly checkedBytes: number;
  readonly result: "intact" | "damaged";
  /** Sentences that name objects and ranges of the volume. Only when damaged. */
  readonly lost?: readonly string[];
}

/** The hypervisor called ranges unchanged that had changed. */
export interface FoundHintMismatch {
  /** ISO 8601. */
  readonly at: string;
  readonly jobId: string;
  readonly attempt: number;
  /** Names the ranges. */
  readonly message: string;
}

/** The VM whose definition, as it was when the snapshot was taken, is saved with it: a restore makes another VM of that. */
export interface SavedVm {
  readonly name: string;
  /** Which of its disks the volume was, `vda`. */
  readonly target: string;
}

/**
 * A definition has some 5 to 20 KiB. A larger one than this, in UTF-8, is not saved: a row of the database has 400 KiB at most.
 */
export const mostDefinitionBytes = 256 * 1024;

/** What happens to the snapshot when its backup has used up its attempts. */
export type OnBackupFailure = "delete" | "keep";

export interface Snapshot {
  readonly tenant: string;
  readonly id: string;
  readonly volumeId: string;
  readonly hypervisorId: string;
  /** The tenant that registered the hypervisor; it may serve volumes of other tenants. */
  readonly hypervisorTenant: string;
  readonly storeId: string;
  /** Of a snapshot that was taken of a VM: the VM, and the snapshots of the same moment. */
  readonly vmId?: string;
  readonly groupId?: string;
  readonly name?: string;
  readonly description?: string;
  readonly tags: Readonly<Record<string, string>>;
  readonly state: SnapshotState;
  /** Grows by one with every change of state; with the id it names the event of that change. */
  readonly updateCount: number;
  /** `jobId#state#attempt` of the change that led here: tells a replay (do nothing) from a conflict. */
  readonly lastChange: string;
  /** The job that works on the snapshot now, or worked on it last. */
  readonly jobId: string;
  readonly attempt: number;
  readonly maxAttempts: number;
  readonly onBackupFailure: OnBackupFailure;
  readonly consistency?: Consistency;
  /** The definition of a VM is saved with the snapshot. */
  readonly vmDefinition?: SavedVm;
  /** Size of the volume at the moment of the snapshot, bytes. */
  readonly logicalBytes?: number;
  /** Bytes that the frozen state takes on primary storage; 0 once it is removed there. */
  readonly physicalBytes?: number;
  /** Bytes that this snapshot added to the store, bytes. */
  readonly storedBytes?: number;
  readonly createdAt: string;
  readonly updatedAt: string;
  readonly createdOnPrimaryAt?: string;
  readonly backedUpAt?: string;
  /** Its backup was begun in an encrypted domain: what the store shows of it without encryption was put there by somebody else. */
  readonly encrypted?: true;
  /** Until when the store refuses to delete the backup's objects (Object Lock), as it was when the backup was published, or last imported. */
  readonly lockedUntil?: string;
  /** The last check of the backup that came to its end. */
  readonly lastCheck?: BackupCheck;
  /** The last one while this snapshot was backed up. */
  readonly hintMismatch?: FoundHintMismatch;
  readonly error?: ErrorSummary;
  /** Until when the primary copy of a failed snapshot is kept before garbage collection takes it. */
  readonly primaryKeptUntil?: string;
  /** Jobs that read this snapshot's backup (restores, copies). It is not deleted while there are any. */
  readonly readers: readonly string[];
}

/** `jobId#state#attempt`, see {@link Snapshot.lastChange}. */
export function changeId(jobId: string, state: SnapshotState, attempt: number): string {
  return `${jobId}#${state}#${attempt}`;
}

/** Until when the backup cannot be deleted; undefined when it can. `now` is ISO 8601 in UTC, as all times of rows. */
export function lockedUntil(snapshot: Pick<Snapshot, "lockedUntil">, now: string): string | undefined {
  return snapshot.lockedUntil !== undefined && snapshot.lockedUntil > now ? snapshot.lockedUntil : undefined;
}

/**
 * Whether a backup in a store that asks for encryption may be without. A registered store asks for it from its first object on; the
 * default one may have backups from before `encryption.default` was `client`.
 */
export function mayBeUnencrypted(snapshot: Pick<Snapshot, "storeId" | "encrypted">): boolean {
  return snapshot.storeId === defaultStoreId && !snapshot.encrypted;
}

/**
 * The same of the domain that a new backup goes to, from the volume's snapshots: only if there are backups in that store and none of them
 * is encrypted. A domain without any is new, so that it is encrypted.
 */
export function domainMayBeUnencrypted(
  snapshot: Pick<Snapshot, "id" | "storeId" | "encrypted">,
  ofVolume: readonly Pick<Snapshot, "id" | "storeId" | "state" | "backedUpAt" | "encrypted">[],
): boolean {
  const backups = ofVolume.filter(
    ({ id, storeId, state, backedUpAt }) =>
      id !== snapshot.id && storeId === snapshot.storeId && state !== "Destroyed" && backedUpAt !== undefined,
  );
  return mayBeUnencrypted(snapshot) && backups.length > 0 && backups.every(({ encrypted }) => !encrypted);
}

export type MoveDecision =
  | { readonly kind: "move"; readonly to: SnapshotState }
  | { readonly kind: "replay" }
  | { readonly kind: "refused"; readonly reason: string };

/** Events that only the job which owns the snapshot may bring; the others start a new job's work on it. */
const ownersEvents: ReadonlySet<SnapshotEvent> = new Set<SnapshotEvent>([
  "CreateRequested",
  "BackupStarted",
  "BackupFailedButKept",
  "OperationSucceeded",
  "OperationFailed",
]);

/**
 * Whether `event`, brought by a job's attempt, moves the snapshot. A change that this very attempt made already is a replay;
 * an event of a job that no longer owns the snapshot is refused, so that a stale one changes nothing.
 */
export function decideMove(
  snapshot: Pick<Snapshot, "id" | "state" | "lastChange" | "jobId" | "readers">,
  event: SnapshotEvent,
  by: { readonly jobId: string; readonly attempt: number },
): MoveDecision {
  const to = nextSnapshotState(snapshot.state, event);
  const reached = new Set(snapshotStates.map((state) => nextSnapshotState(state, event)));
  if (reached.has(snapshot.state) && snapshot.lastChange === changeId(by.jobId, snapshot.state, by.attempt))
    return { kind: "replay" };
  if (to === undefined) return { kind: "refused", reason: `${snapshot.id} is ${snapshot.state}` };
  if (ownersEvents.has(event) && snapshot.jobId !== by.jobId)
    return { kind: "refused", reason: `${snapshot.id} belongs to ${snapshot.jobId} now, not to ${by.jobId}` };
  if (event === "DestroyRequested" && snapshot.readers.length > 0)
    return { kind: "refused", reason: `${snapshot.id} is being read by ${snapshot.readers.join(", ")}` };
  return { kind: "move", to };
}
