/**
 * What the hint of change tracking is worth. A plan that follows it leaves most of the volume unread; once that proves wrong, or the
 * base turns out to lack what the plan relies on, the plan is dropped and the job reads everything.
 */
import { VerificationFailed } from "../domain/errors.ts";
import { jobKeys } from "./layout.ts";
import type { Root } from "./manifest.ts";
import { type BackupTarget, readPinnedBase } from "./pin.ts";
import type { VolumeShape } from "./shard-table.ts";

/** Whether the job must read everything. */
export async function hintIsRuledOut(target: BackupTarget): Promise<boolean> {
  return (await target.store.head(jobKeys(target.domain, target.jobId).unhinted)) !== undefined;
}

/**
 * Puts the mark: from now on nobody opens the job's hinted plan, and the next attempt drops it and makes another one without the hint.
 * Nothing is deleted here: workers that copy need no right to delete.
 */
export async function ruleOutHint(target: BackupTarget, reason: string): Promise<void> {
  await target.store.put(jobKeys(target.domain, target.jobId).unhinted, Buffer.from(reason));
}

/** Deletes the plan and what was made by it. The plan goes last: whoever dies before that leaves it beside the mark, to be dropped again. */
export async function dropPlan(target: BackupTarget): Promise<void> {
  const keys = jobKeys(target.domain, target.jobId);
  await Promise.all([
    target.store.deleteEveryVersion([keys.selection, keys.verified]),
    target.store.deleteEveryVersionBelow(keys.checkpointsOfAll),
    target.store.deleteEveryVersionBelow(keys.resultsOfAll),
  ]);
  await target.store.deleteEveryVersion([keys.plan]);
}

/**
 * What a hinted plan takes over all that it leaves unread from; without it that would be zeros. Throws VerificationFailed, with the hint ruled out, when
 * the domain's sizes or its key are no longer those of the base.
 */
export async function baseOfHint(target: BackupTarget, shape: VolumeShape): Promise<Root> {
  const { base } = await readPinnedBase(target, shape);
  if (base) return base;
  const reason = `The base of the job ${target.jobId} is not of the domain any more`;
  await ruleOutHint(target, reason);
  throw new VerificationFailed(`${reason}. The next attempt reads the whole volume.`);
}
