/** How a backup comes by its bytes, in the words that its job keeps. Pure. */
import type { BackupReading } from "../domain/job.ts";

export interface PlannedReading {
  /** Asked for by the caller. */
  readonly full: boolean;
  /** The snapshot that was pinned. */
  readonly base: string | undefined;
  /** Whether the hypervisor keeps track of changes at all. */
  readonly tracking: boolean;
  /** Whether the hypervisor told what has changed since the base. */
  readonly told: boolean;
  /** Whether only that is read. */
  readonly hinted: boolean;
  /** The attempt of this job, from 1 on, that found the hypervisor's word wrong. */
  readonly mismatchIn: number | undefined;
}

export function readingOf({ base, hinted, ...planned }: PlannedReading): BackupReading {
  if (base === undefined) {
    const reason = planned.full
      ? "a full backup was asked for"
      : "there is no earlier backup in this store to build on";
    return { kind: "full", reading: "everything", reason };
  }
  if (hinted) return { kind: "incremental", base, reading: "changed" };
  return { kind: "incremental", base, reading: "everything", reason: whyEverything({ base, ...planned }) };
}

function whyEverything(planned: Omit<PlannedReading, "hinted"> & { base: string }): string {
  if (planned.mismatchIn !== undefined)
    return `attempt ${planned.mismatchIn} found changes that the hypervisor had not told`;
  if (!planned.tracking) return "the hypervisor does not keep track of changes";
  if (!planned.told) return `the hypervisor cannot tell what has changed since ${planned.base}`;
  return `${planned.base} cannot be used without reading the volume`;
}
