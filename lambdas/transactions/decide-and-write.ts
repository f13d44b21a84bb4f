/** The loop around every change of several rows: read, decide by the rules, write all or nothing, and once more if somebody was faster. */
import { StateConflict } from "../domain/errors.ts";
import { decideMove, type Snapshot, type SnapshotEvent, type SnapshotState } from "../domain/snapshot.ts";
import { type Database, type TransactionItem, transact, WriteRefused } from "../tables/database.ts";

const rounds = 6;

/**
 * Calls `decide` for the writes until they go through. `decide` reads the rows anew each time, throws StateConflict when the
 * rules refuse, and answers "replay" when the change was made by an earlier run.
 */
export async function decideAndWrite(
  database: Database,
  decide: () => Promise<readonly TransactionItem[] | "replay">,
): Promise<"written" | "replay"> {
  for (let round = 1; ; round++) {
    const items = await decide();
    if (items === "replay") return "replay";
    try {
      await transact(database, items);
      return "written";
    } catch (error) {
      if (!(error instanceof WriteRefused) || round === rounds) throw error;
    }
  }
}

/** The state that the event leads to, or "replay". Throws StateConflict with the reason when the rules refuse. */
export function moveOrReplay(
  snapshot: Snapshot,
  event: SnapshotEvent,
  by: { jobId: string; attempt: number },
): SnapshotState | "replay" {
  const decision = decideMove(snapshot, event, by);
  if (decision.kind === "refused") throw new StateConflict(decision.reason, snapshot.jobId);
  return decision.kind === "replay" ? "replay" : decision.to;
}
