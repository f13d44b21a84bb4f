/** The states of `statemachines/check-backups.asl.json`: a look at a sample of every backup's chunks, long after it was made. */
import { RepositoryDamaged } from "../domain/errors.ts";
import { isOutside } from "../domain/outside-faults.ts";
import type { BackupCheck } from "../domain/snapshot.ts";
import { backupOf } from "../endings/clean-up.ts";
import { sampleCheck } from "../repository/sample-check.ts";
import type { Services } from "../services.ts";
import { checksDue, claimCheck, getSnapshot, recordCheck } from "../tables/snapshots.ts";
import type { StateFunctions, TaskContext } from "./state-function.ts";

/** How far the check of one snapshot has come. */
interface CheckProgress {
  /** Page to go on from. */
  readonly from: number;
  readonly checkedChunks: number;
  readonly checkedBytes: number;
  /** Sentences, one for each call that found something. */
  readonly lost: readonly string[];
}

/** A check that a call had no time to finish: the next one goes on with it. */
interface Unfinished extends CheckProgress {
  readonly tenant: string;
  readonly id: string;
}

const notBegun: CheckProgress = { from: 0, checkedChunks: 0, checkedBytes: 0, lost: [] };

interface CheckInput {
  /** When the run began, ISO 8601: snapshots that were looked at since are left alone. It also chooses the sample. */
  readonly startedAt: string;
  readonly unfinished?: Unfinished | null;
}

interface CheckOutput {
  readonly finished: boolean;
  readonly unfinished: Unfinished | null;
  readonly failed: number;
}

/** Each names up to ten objects and ranges: some 10 KiB in a snapshot's row and its event. */
const keptSentences = 10;

/**
 * Goes through the snapshots that are BackedUp, the longest unseen first, until there is no time left. A deletion is not held up: what a
 * check finds of a snapshot that is being deleted means nothing. One that cannot be checked is logged and waits for the next run.
 */
async function CheckBackups(services: Services, input: CheckInput, { until }: TaskContext): Promise<CheckOutput> {
  const { verifySamplePercent: percent } = await services.settings();
  let failed = 0;
  const look = async (tenant: string, id: string, progress: CheckProgress): Promise<Unfinished | undefined> => {
    try {
      return await checkBackup(services, { tenant, id, ...progress }, { percent, seed: input.startedAt, until });
    } catch (error) {
      if (!isOutside(error)) failed++;
      services.logger.warn("a backup could not be checked", { tenant, snapshotId: id, error: error as Error });
      return undefined;
    }
  };
  if (percent === 0) return { finished: true, unfinished: null, failed };
  if (input.unfinished) {
    const unfinished = await look(input.unfinished.tenant, input.unfinished.id, input.unfinished);
    if (unfinished) return { finished: false, unfinished, failed };
  }
  for await (const due of checksDue(services.database, input.startedAt)) {
    if (until()) return { finished: false, unfinished: null, failed };
    if (!(await claimCheck(services.database, due, services.now().toISOString()))) continue;
    const unfinished = await look(due.tenant, due.id, notBegun);
    if (unfinished) return { finished: false, unfinished, failed };
  }
  return { finished: true, unfinished: null, failed };
}

/** Answers where to go on, or undefined when the check has come to its end. */
async function checkBackup(
  services: Services,
  { tenant, id, ...progress }: Unfinished,
  options: { percent: number; seed: string; until: () => boolean },
): Promise<Unfinished | undefined> {
  const snapshot = await getSnapshot(services.database, tenant, id);
  if (snapshot?.state !== "BackedUp") return undefined;
  const { next, ...now } = await lookAt(await backupOf(services, snapshot, snapshot.jobId), progress, options);
  if (next !== undefined) return { tenant, id, from: next, ...now };
  const { checkedChunks, checkedBytes, lost } = now;
  const at = services.now().toISOString();
  const damage: Pick<BackupCheck, "result" | "lost"> =
    lost.length > 0 ? { result: "damaged", lost } : { result: "intact" };
  if (
    (await recordCheck(services.database, snapshot, { at, checkedChunks, checkedBytes, ...damage })) &&
    lost.length > 0
  )
    services.logger.error("a backup is damaged", { tenant, snapshotId: id, lost });
  return undefined;
}

/** A missing or damaged root ends the check: nothing below it can be found. */
async function lookAt(
  source: Awaited<ReturnType<typeof backupOf>>,
  { from, checkedChunks, checkedBytes, lost }: CheckProgress,
  options: { percent: number; seed: string; until: () => boolean },
): Promise<Omit<CheckProgress, "from"> & { next: number | undefined }> {
  try {
    const found = await sampleCheck(source, { ...options, from });
    return {
      next: found.next,
      checkedChunks: checkedChunks + found.checkedChunks,
      checkedBytes: checkedBytes + found.checkedBytes,
      lost: (found.damage === undefined ? lost : [...lost, found.damage]).slice(0, keptSentences),
    };
  } catch (error) {
    if (!(error instanceof RepositoryDamaged)) throw error;
    return { next: undefined, checkedChunks, checkedBytes, lost: [...lost, error.message].slice(0, keptSentences) };
  }
}

export const checkBackupsStates: StateFunctions = { CheckBackups };
