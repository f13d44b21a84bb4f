/** Reads what a representation needs beside its row. */
import { hasEnded, type Job } from "../domain/job.ts";
import type { Snapshot } from "../domain/snapshot.ts";
import type { Services } from "../services.ts";
import { getJob, jobsAhead, queuedJobs } from "../tables/jobs.ts";
import { getPool } from "../tables/pools.ts";
import { getProgress } from "../tables/progress.ts";
import { storeReferencesOf } from "../tables/store-references.ts";
import { requireSnapshot } from "./access.ts";
import type { Caller } from "./http.ts";
import type { Problem } from "./problem.ts";
import { refusalOf, type SnapshotAction } from "./refusals.ts";
import { type JobSurroundings, jobRepresentation, snapshotRepresentation } from "./representations.ts";
import type { JobRepresentation, SnapshotRepresentation } from "./response-schemas.ts";

type Reading = Pick<Services, "database" | "settings">;

/** Rows of one page that are looked up at once. */
const parallelLookups = 10;

export async function showSnapshot(services: Reading, snapshot: Snapshot): Promise<SnapshotRepresentation> {
  const { database } = services;
  const [references, progress, job] = await Promise.all([
    storeReferencesOf(database, snapshot.tenant, snapshot.id),
    snapshot.state === "BackingUp" ? getProgress(database, snapshot.jobId) : undefined,
    getJob(database, snapshot.tenant, snapshot.jobId),
  ]);
  return snapshotRepresentation(snapshot, { references, progress, job });
}

export function showSnapshots(services: Reading, snapshots: readonly Snapshot[]): Promise<SnapshotRepresentation[]> {
  return inParallel(snapshots, (snapshot) => showSnapshot(services, snapshot));
}

/** How many jobs stand before a queued one. */
type Ahead = (job: Job) => Promise<number>;

export async function showJob(
  services: Reading,
  job: Job,
  ahead: Ahead = (queued) => jobsAhead(services.database, queued),
): Promise<JobRepresentation> {
  const awaitedBackup = await awaitedBackupOf(services, job);
  const worker = awaitedBackup ?? job;
  const [progress, queue] = await Promise.all([
    getProgress(services.database, worker.id),
    queueOf(services, worker, ahead),
  ]);
  return jobRepresentation(job, { awaitedBackup, progress, queue });
}

/** The queue is read once for the whole page. */
export async function showJobs(services: Reading, jobs: readonly Job[]): Promise<JobRepresentation[]> {
  let reading: Promise<Map<string, number>> | undefined;
  const ahead: Ahead = async (job) => {
    reading ??= readQueue(services, job.pool ?? "");
    return (await reading).get(job.id) ?? 0;
  };
  return inParallel(jobs, (job) => showJob(services, job, ahead));
}

/** The backup that this creation waits for. */
async function awaitedBackupOf({ database }: Reading, job: Job): Promise<Job | undefined> {
  if (job.backupJobId === undefined || job.asyncBackup) return undefined;
  return getJob(database, job.tenant, job.backupJobId);
}

async function queueOf(services: Reading, job: Job, ahead: Ahead): Promise<JobSurroundings["queue"]> {
  if (job.pool === undefined || job.state !== "Queued") return undefined;
  const [before, pool, settings] = await Promise.all([
    ahead(job),
    getPool(services.database, job.pool),
    services.settings(),
  ]);
  const taken = pool?.running ?? 0;
  return {
    position: before + 1,
    waitsFor: `a slot of the ${job.pool} pool: ${taken} of ${settings.poolSize} are taken`,
  };
}

async function readQueue({ database }: Reading, pool: string): Promise<Map<string, number>> {
  const positions = new Map<string, number>();
  for await (const job of queuedJobs(database, pool)) positions.set(job.id, positions.size);
  return positions;
}

/** Whether the job that works on the snapshot, or worked on it last, has ended. A job whose row is gone has. */
export async function currentJob(
  { database }: Reading,
  snapshot: Snapshot,
): Promise<{ job: Job | undefined; ended: boolean }> {
  const job = await getJob(database, snapshot.tenant, snapshot.jobId);
  return { job, ended: job === undefined || hasEnded(job.state) };
}

/** Looks again at a snapshot that refused, and says why it did. */
export async function explainRefusal(
  services: Reading & Pick<Services, "now">,
  caller: Caller,
  id: string,
  action: SnapshotAction,
): Promise<Problem> {
  const snapshot = await requireSnapshot(services, caller, id);
  const [{ job, ended }, progress] = await Promise.all([
    currentJob(services, snapshot),
    getProgress(services.database, snapshot.jobId),
  ]);
  return refusalOf(action, { snapshot, job, jobEnded: ended, progress, now: services.now().toISOString() });
}

/** Looks at each of a page's rows, 10 at once. The results have the rows' order. */
export async function inParallel<Item, Result>(
  items: readonly Item[],
  look: (item: Item) => Promise<Result>,
): Promise<Result[]> {
  const results: Result[] = [];
  for (let start = 0; start < items.length; start += parallelLookups)
    results.push(...(await Promise.all(items.slice(start, start + parallelLookups).map(look))));
  return results;
}
