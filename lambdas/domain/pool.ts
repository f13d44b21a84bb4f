/** A pool bounds how many backups run at once. A job holds its slot from dispatch to its end, retry waits included. Pure. */
export const backupPool = "backup";

export interface Pool {
  readonly id: string;
  readonly running: number;
}

/** How many more jobs may start now. A limit that was lowered below `running` takes no slot away from a running job. */
export function freeSlots(pool: Pool | undefined, limit: number): number {
  return Math.max(0, limit - (pool?.running ?? 0));
}
