/** The main job, as a caller of the API does it: snapshot a volume, watch its backup, restore it, compare every byte. */
import path from "node:path";
import { type Client, everyItem, type Job, type Volume } from "../../cli/api-client.ts";
import { digestOf } from "./digest.ts";
import { type DemoVolume, registeredDirectory } from "./volumes.ts";

export interface MainJobOptions {
  readonly client: Client;
  readonly volume: DemoVolume;
  /** Where the restored volume goes. */
  readonly restoreDirectory: string;
  readonly report: MainJobReport;
}

/** Told of each step as it happens. Times are milliseconds, sizes bytes. */
export interface MainJobReport {
  hashing(bytesDone: number, bytesTotal: number): void;
  volume(step: { volumeId: string; name: string; bytes: number; allocatedBytes: number; sha256?: string }): void;
  requested(step: { snapshotId: string; jobId: string; volumeId: string; milliseconds: number }): void;
  createdOnPrimary(step: { snapshotId: string; backupJobId: string; milliseconds: number }): void;
  backingUp(step: {
    bytesDone: number;
    bytesTotal: number;
    attempt: number;
    maxAttempts: number;
    milliseconds: number;
  }): void;
  backedUp(step: { snapshotId: string; milliseconds: number; storedBytes: number }): void;
  restoring(step: { bytesDone: number; bytesTotal: number }): void;
  restored(step: { volumeId: string; name: string; milliseconds: number }): void;
}

export interface MainJobResult {
  readonly createdOnPrimaryMs: number;
  readonly backedUpMs: number;
  readonly restoreMs: number;
  readonly bytes: number;
  readonly storedBytes: number;
  readonly sha256Source: string;
  readonly sha256Restored: string;
  readonly equal: boolean;
}

const pollMilliseconds = 200;

/** What restored volumes are called: the volume's name, and the end of the snapshot's id. */
export const restoredName = /-restored-[0-9a-z]{6}$/;

/** Throws with the job's own error when a step fails. */
export async function runMainJob({
  client,
  volume: source,
  restoreDirectory,
  report,
}: MainJobOptions): Promise<MainJobResult> {
  const hypervisorId = await source.register(client);
  const targetId = await registeredDirectory(client, restoreDirectory);
  const volume = await discovered(client, hypervisorId, source.name);
  const { bytes, allocatedBytes } = await source.size();
  const sha256 = await source.digest?.((done) => report.hashing(done, bytes));
  const known = { volumeId: volume.id, name: volume.name, bytes, allocatedBytes };
  report.volume(sha256 === undefined ? known : { ...known, sha256 });

  const startedAt = performance.now();
  const since = (start: number) => Math.round(performance.now() - start);
  const created = await client.snapshots.create(volume.id, { asyncBackup: true });
  const snapshotId = created.snapshot.id;
  report.requested({ snapshotId, jobId: created.job.id, volumeId: volume.id, milliseconds: since(startedAt) });

  const { backupJobId } = await ended(client, created.job.id);
  if (!backupJobId) throw new Error(`${created.job.id} names no backup job`);
  const createdOnPrimaryMs = since(startedAt);
  report.createdOnPrimary({ snapshotId, backupJobId, milliseconds: createdOnPrimaryMs });

  await ended(client, backupJobId, (job) => {
    const { bytesDone = 0, bytesTotal = 0 } = job.progress ?? {};
    report.backingUp({
      bytesDone,
      bytesTotal,
      attempt: job.attempt,
      maxAttempts: job.maxAttempts,
      milliseconds: since(startedAt),
    });
  });
  const backedUpMs = since(startedAt);
  const snapshot = await client.snapshots.get(snapshotId);
  const storedBytes = snapshot.bytes.stored ?? 0;
  report.backedUp({ snapshotId, milliseconds: backedUpMs, storedBytes });
  const sha256Source = sha256 ?? (await source.digestOfFrozen?.(snapshotId)) ?? "";

  const restoreStartedAt = performance.now();
  const name = `${source.name.replaceAll("/", "-")}-restored-${snapshotId.slice(-6).toLowerCase()}`;
  const restore = await client.snapshots.restore(snapshotId, { target: { hypervisorId: targetId, name } });
  await ended(client, restore.job.id, ({ progress }) => {
    report.restoring({ bytesDone: progress?.bytesDone ?? 0, bytesTotal: progress?.bytesTotal ?? 0 });
  });
  const restoreMs = since(restoreStartedAt);
  report.restored({ volumeId: restore.volume.id, name, milliseconds: restoreMs });

  const sha256Restored = await digestOf(path.join(restoreDirectory, name), (done) => report.hashing(done, bytes));
  const equal = sha256Source === sha256Restored;
  return { createdOnPrimaryMs, backedUpMs, restoreMs, bytes, storedBytes, sha256Source, sha256Restored, equal };
}

async function discovered(client: Client, hypervisorId: string, name: string): Promise<Volume> {
  await client.hypervisors.discover(hypervisorId);
  const volumes = everyItem((page) => client.volumes.list({ ...page, hypervisorId }));
  for await (const volume of volumes) if (volume.name === name) return volume;
  throw new Error(
    `${name} was not found as a volume of ${hypervisorId}: it must be a plain file whose name does not begin with a dot`,
  );
}

async function ended(client: Client, jobId: string, onLook: (job: Job) => void = () => {}): Promise<Job> {
  for (;;) {
    const job = await client.jobs.get(jobId);
    onLook(job);
    if (job.state === "Succeeded") return job;
    if (job.state === "Failed" || job.state === "Cancelled")
      throw new Error(`${jobId} ${job.state.toLowerCase()}: ${job.error?.name}: ${job.error?.message}`);
    await new Promise((resolve) => setTimeout(resolve, pollMilliseconds));
  }
}
