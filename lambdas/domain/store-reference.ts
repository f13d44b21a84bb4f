/** Where a snapshot's bytes lie: one row for each (snapshot, role, store), written before the thing that it names is created. Pure. */
import type { ErrorSummary } from "./errors.ts";

export type StoreRole = "Primary" | "Image";

/** Destroyed is the absence of the row: it goes last, after the bytes. */
export const storeReferenceStates = ["Allocated", "Creating", "Ready", "Failed", "Destroying"] as const;
export type StoreReferenceState = (typeof storeReferenceStates)[number];

export const storeReferenceTransitions: Readonly<Record<StoreReferenceState, readonly StoreReferenceState[]>> = {
  Allocated: ["Creating", "Destroying"],
  Creating: ["Creating", "Ready", "Failed", "Destroying"],
  Ready: ["Ready", "Destroying"],
  Failed: ["Creating", "Destroying"],
  Destroying: ["Destroying"],
};

export interface StoreReference {
  readonly tenant: string;
  readonly snapshotId: string;
  readonly role: StoreRole;
  /** The store (Image) or the hypervisor (Primary) that holds the bytes. */
  readonly storeId: string;
  readonly state: StoreReferenceState;
  readonly jobId: string;
  /** Adapter's words on primary; the key of the root on a store. */
  readonly installPath: string;
  readonly sizeBytes?: number;
  readonly physicalBytes?: number;
  readonly error?: ErrorSummary;
  readonly updatedAt: string;
}

/** Deterministic, so that a retry finds the row and never adds one. */
export function storeReferenceKey(reference: Pick<StoreReference, "snapshotId" | "role" | "storeId">): string {
  return `${reference.snapshotId}#${reference.role}#${reference.storeId}`;
}

/** States from which `to` is allowed: the condition of the write that makes the move. */
export function storeReferenceStatesBefore(to: StoreReferenceState): StoreReferenceState[] {
  return storeReferenceStates.filter((state) => storeReferenceTransitions[state].includes(to));
}
