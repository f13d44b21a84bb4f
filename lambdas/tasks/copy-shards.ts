/** The states that read and write volumes: one shard of a backup or of a restore, and the audit. They run in the copy workers and nowhere else. */

import { backupOf, newVolumeOf } from "../endings/clean-up.ts";
import type { ExportDescriptor } from "../hypervisors/port.ts";
import { auditHint } from "../repository/audit.ts";
import { describeLost } from "../repository/damage.ts";
import { restoreShard } from "../repository/reader.ts";
import { copyShard } from "../repository/writer.ts";
import type { Services } from "../services.ts";
import { recordLoss, reportProgress } from "../tables/progress.ts";
import { requireJob, requireSnapshot } from "../transactions/create-snapshot.ts";
import type { Plan } from "./backup-snapshot.ts";
import type { StateFunctions, TaskContext, TaskInput } from "./state-function.ts";

interface CopyShardInput extends TaskInput {
  readonly attempt: number;
  readonly export: ExportDescriptor;
  readonly planHash: string;
  readonly shard: number;
}

interface AuditHintInput extends TaskInput {
  readonly export: ExportDescriptor;
  readonly plan: Pick<Plan, "planHash" | "auditPercent">;
}

interface RestoreShardInput extends TaskInput {
  readonly sizeBytes: number;
  readonly shard: number;
  readonly from: number;
}

const progressIntervalMilliseconds = 500;

async function CopyShard(services: Services, input: CopyShardInput, { until }: TaskContext) {
  const { tenant, jobId, snapshotId } = input.job;
  const snapshot = await requireSnapshot(services.database, tenant, snapshotId);
  const hypervisor = await services.hypervisor(snapshot.hypervisorTenant, snapshot.hypervisorId);
  const { planHash, shard, attempt } = input;
  const progress = shardProgress(services, jobId, shard);
  const reader = await hypervisor.openReader(input.export);
  try {
    const target = await backupOf(services, snapshot, jobId);
    const options = { planHash, shard, attempt, reader, until, onProgress: progress.report };
    const { bytesDone, finished } = await copyShard(target, options);
    await progress.finish(bytesDone);
    return { finished };
  } finally {
    await reader[Symbol.asyncDispose]();
  }
}

/** Throws HintMismatch when something has changed that the hypervisor had not told; the next attempt then reads everything. */
async function AuditHint(services: Services, input: AuditHintInput, { until }: TaskContext) {
  const { tenant, jobId, snapshotId } = input.job;
  const snapshot = await requireSnapshot(services.database, tenant, snapshotId);
  const hypervisor = await services.hypervisor(snapshot.hypervisorTenant, snapshot.hypervisorId);
  const { planHash, auditPercent } = input.plan;
  const reader = await hypervisor.openReader(input.export);
  try {
    const target = await backupOf(services, snapshot, jobId);
    const extents = hypervisor.extents(input.export, { offset: 0, length: input.export.sizeBytes });
    const { finished } = await auditHint(target, { planHash, reader, extents, percent: auditPercent, until });
    return { finished };
  } finally {
    await reader[Symbol.asyncDispose]();
  }
}

async function RestoreShard(services: Services, input: RestoreShardInput, { until }: TaskContext) {
  const { tenant, jobId, snapshotId } = input.job;
  const job = await requireJob(services.database, tenant, jobId);
  if (!job.target) throw new Error(`${jobId} has no target`);
  const snapshot = await requireSnapshot(services.database, tenant, snapshotId);
  const hypervisor = await services.hypervisor(job.target.hypervisorTenant, job.target.hypervisorId);
  const progress = shardProgress(services, jobId, input.shard);
  const writer = await hypervisor.openWriter(newVolumeOf(job, input.sizeBytes));
  try {
    const source = { ...(await backupOf(services, snapshot, jobId)), salvage: job.salvage ?? false };
    const options = { shard: input.shard, from: input.from, writer, until, onProgress: progress.report };
    const { bytesDone, finished, next, lost } = await restoreShard(source, options);
    await writer.flush();
    if (lost.length > 0) await recordLoss(services.database, jobId, describeLost(lost), services.now());
    await progress.finish(bytesDone);
    return { finished, next };
  } finally {
    await writer[Symbol.asyncDispose]();
  }
}

/** Reports absolute bytes of this shard, at most twice a second; one report at a time, and none holds the copying up. */
function shardProgress(services: Services, jobId: string, shard: number) {
  let last = 0;
  let running: Promise<void> = Promise.resolve();
  const send = (bytesDone: number) =>
    reportProgress(services.database, jobId, `shard#${shard}`, bytesDone, services.now()).catch((error) => {
      services.logger.warn("progress was not recorded", { jobId, shard, error });
    });
  return {
    report(bytesDone: number): void {
      const now = services.now().getTime();
      if (now - last < progressIntervalMilliseconds) return;
      last = now;
      running = running.then(() => send(bytesDone));
    },
    async finish(bytesDone: number): Promise<void> {
      await running;
      await send(bytesDone);
    },
  };
}

export const copyBackupStates: StateFunctions = { CopyShard, AuditHint };
export const copyRestoreStates: StateFunctions = { RestoreShard };
