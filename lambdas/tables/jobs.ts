/** Job rows. A change of state is conditional on the states it may come from; the rest on the job still running. */
import { UpdateCommand } from "@aws-sdk/lib-dynamodb";
import { type Job, type JobKind, type JobState, jobStates, jobTransitions } from "../domain/job.ts";
import {
  type Database,
  getRow,
  isMade,
  type Page,
  pageOfRows,
  queryRows,
  type Row,
  type TransactionItem,
  updateExpression,
} from "./database.ts";

/** Rows of ended jobs stay this long. */
const keepEndedSeconds = 90 * 86_400;

function readJob(row: Row): Job {
  const { queue: _queue, queuePosition: _position, openKind, expiresAt: _expiresAt, ...job } = row;
  return { ...job, open: openKind !== undefined } as unknown as Job;
}

function queuePosition(job: Pick<Job, "queuedAt" | "id">): string {
  return `${job.queuedAt}#${job.id}`;
}

export async function getJob(database: Database, tenant: string, id: string): Promise<Job | undefined> {
  const row = await getRow(database, database.tables.jobs, { tenant, id });
  return row && readJob(row);
}

/** Newest first. */
export function listJobs(
  database: Database,
  tenant: string,
  filter: { state?: JobState; kind?: JobKind; snapshotId?: string; limit: number; after?: string },
): Promise<Page<Job>> {
  return pageOfRows(
    database,
    { TableName: database.tables.jobs, partition: ["tenant", tenant], sortKey: "id" },
    {
      limit: filter.limit,
      after: filter.after,
      accept: (row) =>
        (filter.state === undefined || row.state === filter.state) &&
        (filter.kind === undefined || row.kind === filter.kind) &&
        (filter.snapshotId === undefined || row.snapshotId === filter.snapshotId),
      read: readJob,
    },
  );
}

/** Jobs of every tenant that wait for a slot of `pool`, in the order in which they get one. Eventually consistent. */
export async function* queuedJobs(database: Database, pool: string): AsyncGenerator<Job> {
  const rows = queryRows(database, {
    TableName: database.tables.jobs,
    IndexName: "queue",
    KeyConditionExpression: "queue = :pool",
    ExpressionAttributeValues: { ":pool": pool },
  });
  for await (const row of rows) yield readJob(row);
}

/** How many jobs of the pool stand before this one. */
export async function jobsAhead(database: Database, job: Job): Promise<number> {
  if (job.pool === undefined) return 0;
  let count = 0;
  const rows = queryRows(database, {
    TableName: database.tables.jobs,
    IndexName: "queue",
    KeyConditionExpression: "queue = :pool AND queuePosition < :position",
    ExpressionAttributeValues: { ":pool": job.pool, ":position": queuePosition(job) },
    ProjectionExpression: "id",
  });
  for await (const _row of rows) count++;
  return count;
}

/** Jobs of every tenant with something left to do or to clean up. Eventually consistent: read the row again before acting on it. */
export async function* openJobs(database: Database, kind: JobKind): AsyncGenerator<Job> {
  const rows = queryRows(database, {
    TableName: database.tables.jobs,
    IndexName: "open",
    KeyConditionExpression: "openKind = :kind",
    ExpressionAttributeValues: { ":kind": kind },
  });
  for await (const row of rows) yield readJob(row);
}

export function insertJob(database: Database, job: Omit<Job, "open">): TransactionItem {
  const waiting = job.pool !== undefined ? { queue: job.pool, queuePosition: queuePosition(job) } : {};
  return {
    Put: {
      TableName: database.tables.jobs,
      Item: { ...job, ...waiting, openKind: job.kind },
      ConditionExpression: "attribute_not_exists(id)",
    },
  };
}

type JobChanges = Partial<Omit<Job, "tenant" | "id" | "kind" | "state" | "open">>;

/** The write that moves the job, only from the states that the table of moves (or `from`) names. It leaves its queue. */
export function moveJob(
  database: Database,
  job: Pick<Job, "tenant" | "id">,
  to: JobState,
  change: JobChanges & { updatedAt: string },
  options: { from?: readonly JobState[]; close?: boolean } = {},
): TransactionItem {
  const from = (options.from ?? jobStates).filter((state) => jobTransitions[state].includes(to));
  const ended = jobTransitions[to].length === 0;
  const update = updateExpression({
    ...change,
    state: to,
    queue: undefined,
    queuePosition: undefined,
    ...(options.close ? { openKind: undefined } : {}),
    ...(ended
      ? { finishedAt: change.updatedAt, expiresAt: Math.floor(Date.parse(change.updatedAt) / 1000) + keepEndedSeconds }
      : {}),
  });
  return {
    Update: {
      TableName: database.tables.jobs,
      Key: { tenant: job.tenant, id: job.id },
      ...update,
      ConditionExpression: `#state IN (${from.map((_, index) => `:from${index}`).join(", ")})`,
      ExpressionAttributeValues: {
        ...update.ExpressionAttributeValues,
        ...Object.fromEntries(from.map((state, index) => [`:from${index}`, state])),
      },
    },
  };
}

/** The write of a running job's phase, attempt, attempts or target, only while it runs. */
export function changeRunningJob(
  database: Database,
  job: Pick<Job, "tenant" | "id">,
  change: JobChanges & { updatedAt: string },
) {
  const update = updateExpression(change);
  return {
    Update: {
      TableName: database.tables.jobs,
      Key: { tenant: job.tenant, id: job.id },
      ...update,
      ConditionExpression: "#state = :running",
      ExpressionAttributeNames: { ...update.ExpressionAttributeNames, "#state": "state" },
      ExpressionAttributeValues: { ...update.ExpressionAttributeValues, ":running": "Running" },
    },
  } satisfies TransactionItem;
}

/** {@link changeRunningJob} as a write of its own. Answers false when the job has ended meanwhile: then nothing was changed. */
export async function updateRunningJob(
  database: Database,
  job: Pick<Job, "tenant" | "id">,
  change: JobChanges & { updatedAt: string },
): Promise<boolean> {
  return isMade(database.client.send(new UpdateCommand(changeRunningJob(database, job, change).Update)));
}

/** Notes that somebody wants the job to end; an ended one is left as it is. */
export async function requestCancel(database: Database, job: Pick<Job, "tenant" | "id">, now: string): Promise<void> {
  await isMade(
    database.client.send(
      new UpdateCommand({
        TableName: database.tables.jobs,
        Key: { tenant: job.tenant, id: job.id },
        UpdateExpression: "SET cancelRequestedAt = :now, updatedAt = :now",
        ConditionExpression: "#state IN (:queued, :running)",
        ExpressionAttributeNames: { "#state": "state" },
        ExpressionAttributeValues: { ":now": now, ":queued": "Queued", ":running": "Running" },
      }),
    ),
  );
}

/** Marks that nothing of an ended job is left to clean up. */
export async function closeJob(database: Database, job: Pick<Job, "tenant" | "id">): Promise<void> {
  await database.client.send(
    new UpdateCommand({
      TableName: database.tables.jobs,
      Key: { tenant: job.tenant, id: job.id },
      UpdateExpression: "REMOVE openKind",
      ConditionExpression: "attribute_exists(id)",
    }),
  );
}
