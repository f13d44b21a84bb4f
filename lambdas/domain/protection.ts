/**
 * Whether a volume is protected. One that is taken out of protection gets no more snapshots, and what its snapshots have on primary storage
 * goes; their backups stay. Pure.
 */
import type { Volume } from "./inventory.ts";
import type { Snapshot, SnapshotState } from "./snapshot.ts";

/** `ending`: copies on primary are being taken away. `ended`: nothing of Snapferry is left on the hypervisor. */
export const protections = ["protected", "ending", "ended"] as const;
export type Protection = (typeof protections)[number];

export function protectionOf({ protection }: Pick<Volume, "protection">): Protection {
  return protection ?? "protected";
}

/** Their copies on primary may go: the bytes are in a store, or nobody wants them any more. */
const dispensable: ReadonlySet<SnapshotState> = new Set(["BackedUp", "Copying", "Destroying", "Destroyed"]);

/** Snapshots whose copies on primary are the only ones that there are, or are about to be. */
export function onlyOnPrimary<Copy extends Pick<Snapshot, "state">>(copies: readonly Copy[]): Copy[] {
  return copies.filter(({ state }) => !dispensable.has(state));
}
