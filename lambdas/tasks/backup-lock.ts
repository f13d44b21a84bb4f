/** Until when a backup is locked in its store. Pure. */
import type { ObjectLock } from "../domain/inventory.ts";
import type { Retention } from "../repository/object-store.ts";

/** A retention as it goes from state to state. */
export interface BackupLock {
  readonly mode: Retention["mode"];
  /** ISO 8601, whole seconds: stores keep no fractions. */
  readonly until: string;
}

const dayMs = 24 * 60 * 60 * 1000;
const modes: Readonly<Record<ObjectLock["mode"], Retention["mode"]>> = {
  governance: "GOVERNANCE",
  compliance: "COMPLIANCE",
};

/**
 * Undefined where nothing is to be locked. The days count from two times that are recorded, so that every attempt of a job comes to the
 * same date: when the root was published, or, where an earlier job did that, when this one was queued.
 */
export function lockOf(
  { mode, days }: ObjectLock,
  recorded: { readonly publishedAt: Date; readonly queuedAt: Date },
  now: Date,
): BackupLock | undefined {
  const from = Math.max(recorded.publishedAt.getTime(), recorded.queuedAt.getTime());
  const until = new Date(Math.ceil((from + days * dayMs) / 1000) * 1000);
  return until > now ? { mode: modes[mode], until: until.toISOString() } : undefined;
}

export function retentionOf({ mode, until }: BackupLock): Retention {
  return { mode, until: new Date(until) };
}
