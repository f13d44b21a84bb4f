/** Which copies on primary storage outlive their backups. Pure. */
import type { Snapshot } from "./snapshot.ts";

/**
 * `reference`: where the hypervisor tracks changes, the newest one, which the next backup is told its changes from; else none.
 * `true`: all. `false`: none.
 */
export const primaryRetentions = ["reference", "false", "true"] as const;
export type PrimaryRetention = (typeof primaryRetentions)[number];

/** What decides of one copy on primary. */
export type CopyOnPrimary = Pick<Snapshot, "id" | "storeId" | "state">;

/**
 * The copies that go, oldest first. `ofVolume` are all that one volume has, newest first. Only backed up ones go. A backup is told its
 * changes from one in the same store, so that each store has a reference of its own.
 */
export function superfluousCopies<Copy extends CopyOnPrimary>(
  ofVolume: readonly Copy[],
  { retention, changeTracking }: { readonly retention: PrimaryRetention; readonly changeTracking: boolean },
): Copy[] {
  if (retention === "true") return [];
  const backedUp = ofVolume.filter(({ state }) => state === "BackedUp");
  const newest = new Map<string, string>();
  for (const { storeId, id } of backedUp) if (!newest.has(storeId)) newest.set(storeId, id);
  const isReference = ({ id, storeId }: Copy) =>
    retention === "reference" && changeTracking && newest.get(storeId) === id;
  return backedUp.filter((copy) => !isReference(copy)).reverse();
}
