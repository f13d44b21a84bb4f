/**
 * A backup whose states run in this process, in the order of `statemachines/backup-snapshot.asl.json`, on the rows and the store of the
 * deployed cloud: for hypervisors that only a test has.
 */
import { HintMismatch, summarizeError } from "../../lambdas/domain/errors.ts";
import { newId } from "../../lambdas/domain/ids.ts";
import { type BackupPolicy, executionInput, type Job, mayLeaveUploads, newJob } from "../../lambdas/domain/job.ts";
import { backupPool } from "../../lambdas/domain/pool.ts";
import { changeId } from "../../lambdas/domain/snapshot.ts";
import { cleanUpAfter } from "../../lambdas/endings/clean-up.ts";
import type { Hypervisor } from "../../lambdas/hypervisors/port.ts";
import type { Services } from "../../lambdas/services.ts";
import { transact } from "../../lambdas/tables/database.ts";
import { insertJob } from "../../lambdas/tables/jobs.ts";
import { takeSlot } from "../../lambdas/tables/pools.ts";
import { insertSnapshot } from "../../lambdas/tables/snapshots.ts";
import { writeStoreReference } from "../../lambdas/tables/store-references.ts";
import { beginBackingUp } from "../../lambdas/tables/volumes.ts";
import { backupSnapshotStates, type Plan } from "../../lambdas/tasks/backup-snapshot.ts";
import { copyBackupStates } from "../../lambdas/tasks/copy-shards.ts";
import { callState } from "../../lambdas/tasks/state-function.ts";
import { requireJob } from "../../lambdas/transactions/create-snapshot.ts";

/** More than any cloud of the tests has. */
const anySlot = 1000;
/** Rows of these jobs say that they spoke so far in the future: garbage collection of the cloud leaves them alone. */
const aheadMilliseconds = 3_600_000;

export interface InProcessBackup {
  readonly volumeId: string;
  readonly externalId: string;
  readonly hypervisorId: string;
  readonly policy?: Partial<BackupPolicy>;
}

/** Answers the job once it has ended and is closed, and the names of the states that ran. Throws what the last attempt threw. */
export async function backUpInProcess(
  cloud: Services,
  hypervisor: Hypervisor,
  backup: InProcessBackup,
): Promise<{ job: Job; states: string[] }> {
  const services: Services = {
    ...cloud,
    hypervisor: async () => hypervisor,
    now: () => new Date(Date.now() + aheadMilliseconds),
  };
  const created = await begin(services, hypervisor, backup);
  const run = new Run(services, created);
  for (let attempt = 1; ; attempt++) {
    try {
      await run.attempt(attempt);
      const job = await requireJob(services.database, created.tenant, created.id);
      // No round of garbage collection does it: see aheadMilliseconds.
      if (mayLeaveUploads(job)) await cleanUpAfter(services, job, () => false);
      return { job, states: run.states };
    } catch (error) {
      const { name, message } = summarizeError(error);
      const caught = { Error: name, Cause: JSON.stringify({ errorMessage: message }) };
      const { next } = (await run.state("RecordFailure", { attempt, error: caught })) as { next: string };
      if (next !== "again" || !(error instanceof HintMismatch)) throw error;
    }
  }
}

/** The rows of a snapshot on primary whose backup has just been given its slot. */
async function begin(services: Services, hypervisor: Hypervisor, backup: InProcessBackup): Promise<Job> {
  const { database } = services;
  const [snapshotId, jobId] = [newId("snapshot"), newId("job")];
  const { externalId, hypervisorId, volumeId } = backup;
  const [taken] = await hypervisor.takeSnapshots([{ externalId, snapshotId }], { quiesce: false });
  if (!taken) throw new Error(`${externalId} was not frozen`);
  const now = services.now().toISOString();
  const snapshot = {
    tenant: "acme",
    id: snapshotId,
    volumeId,
    hypervisorId,
    hypervisorTenant: "acme",
    storeId: "default",
    tags: {},
    state: "BackingUp",
    updateCount: 3,
    lastChange: changeId(jobId, "BackingUp", 1),
    jobId,
    attempt: 1,
    maxAttempts: 3,
    onBackupFailure: "delete",
    logicalBytes: taken.sizeBytes,
    createdAt: now,
    updatedAt: now,
  } as const;
  const policy = { maxAttempts: 3, retryIntervalSeconds: 0, ...backup.policy };
  const job = {
    ...newJob(jobId, "backup-snapshot", snapshot, policy, now),
    state: "Running",
    pool: backupPool,
  } as const;
  const reference = { tenant: "acme", snapshotId, role: "Primary", storeId: hypervisorId } as const;
  const { installPath, sizeBytes } = taken;
  await writeStoreReference(database, reference, "Creating", { jobId, installPath, sizeBytes, updatedAt: now });
  await writeStoreReference(database, reference, "Ready", { jobId, updatedAt: now });
  await transact(database, [
    insertSnapshot(database, snapshot),
    insertJob(database, job),
    takeSlot(database, backupPool, anySlot),
    beginBackingUp(database, { tenant: "acme", id: volumeId }, now),
  ]);
  return { ...job, open: true };
}

class Run {
  readonly states: string[] = [];
  readonly #services: Services;
  readonly #job: Job;

  constructor(services: Services, job: Job) {
    this.#services = services;
    this.#job = job;
  }

  async state(name: string, input: object): Promise<unknown> {
    this.states.push(name);
    const states = { ...backupSnapshotStates, ...copyBackupStates };
    const whole = { job: executionInput(this.#job), ...input };
    return callState(states, name, this.#services, whole, { until: () => false });
  }

  async attempt(attempt: number): Promise<void> {
    await this.state("Begin", { attempt });
    const descriptor = await this.state("OpenExport", { attempt });
    const plan = (await this.state("Plan", { attempt, export: descriptor })) as Plan;
    for (let shard = 0; shard < plan.shardCount; shard++)
      await this.state("CopyShard", { attempt, export: descriptor, planHash: plan.planHash, shard });
    if (plan.hinted) await this.untilFinished("AuditHint", { attempt, export: descriptor, plan });
    await this.untilFinished("Verify", { attempt, plan });
    const stored = (await this.state("PublishRoot", { attempt, plan })) as { lock?: object };
    if (stored.lock) await this.#retain({ attempt, lock: stored.lock });
    await this.state("Complete", { attempt, stored });
    await this.state("CloseExport", { export: descriptor });
    await this.state("SettlePrimary", {});
  }

  async #retain(input: object): Promise<void> {
    for (let from = 0, finished = false; !finished; )
      ({ finished, next: from } = (await this.state("RetainObjects", { ...input, from })) as {
        finished: boolean;
        next: number;
      });
  }

  async untilFinished(name: string, input: object): Promise<void> {
    while (!((await this.state(name, input)) as { finished: boolean }).finished);
  }
}
