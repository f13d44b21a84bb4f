/**
 * Progress of jobs, kept off the streamed tables. Each part (a shard) writes how far it is in absolute bytes, so that a part
 * that runs twice counts once; the total grows by the difference.
 */
import { UpdateCommand } from "@aws-sdk/lib-dynamodb";
import type { ErrorSummary } from "../domain/errors.ts";
import { type Database, getRow } from "./database.ts";

export interface Progress {
  readonly bytesDone: number;
  readonly bytesTotal: number;
}

const totalPart = "total";
const keepSeconds = 7 * 86_400;

export async function getProgress(database: Database, jobId: string): Promise<Progress | undefined> {
  const row = await getRow(database, database.tables.progress, { jobId, part: totalPart });
  if (row === undefined) return undefined;
  const bytesTotal = Number(row.bytesTotal ?? 0);
  return { bytesDone: Math.min(Number(row.bytesDone ?? 0), bytesTotal), bytesTotal };
}

export async function setProgressTotal(
  database: Database,
  jobId: string,
  bytesTotal: number,
  now: Date,
): Promise<void> {
  await database.client.send(
    new UpdateCommand({
      TableName: database.tables.progress,
      Key: { jobId, part: totalPart },
      UpdateExpression: "SET bytesTotal = :total, expiresAt = :expiresAt, bytesDone = if_not_exists(bytesDone, :zero)",
      ExpressionAttributeValues: { ":total": bytesTotal, ":zero": 0, ":expiresAt": expiry(now) },
    }),
  );
}

/** A part has done `bytesDone` bytes by now. */
export async function reportProgress(
  database: Database,
  jobId: string,
  part: string,
  bytesDone: number,
  now: Date,
): Promise<void> {
  const { Attributes } = await database.client.send(
    new UpdateCommand({
      TableName: database.tables.progress,
      Key: { jobId, part },
      UpdateExpression: "SET bytesDone = :done, expiresAt = :expiresAt",
      ExpressionAttributeValues: { ":done": bytesDone, ":expiresAt": expiry(now) },
      ReturnValues: "UPDATED_OLD",
    }),
  );
  const difference = bytesDone - Number(Attributes?.bytesDone ?? 0);
  if (difference === 0) return;
  await database.client.send(
    new UpdateCommand({
      TableName: database.tables.progress,
      Key: { jobId, part: totalPart },
      UpdateExpression: "ADD bytesDone :difference",
      ExpressionAttributeValues: { ":difference": difference },
    }),
  );
}

/** Why a shard of this attempt failed; the last one that says so counts. */
export async function recordShardFailure(
  database: Database,
  jobId: string,
  attempt: number,
  error: ErrorSummary,
  now: Date,
): Promise<void> {
  await database.client.send(
    new UpdateCommand({
      TableName: database.tables.progress,
      Key: { jobId, part: failurePart(attempt) },
      UpdateExpression: "SET #error = :error, expiresAt = :expiresAt",
      ExpressionAttributeNames: { "#error": "error" },
      ExpressionAttributeValues: { ":error": error, ":expiresAt": expiry(now) },
    }),
  );
}

export async function shardFailure(
  database: Database,
  jobId: string,
  attempt: number,
): Promise<ErrorSummary | undefined> {
  const row = await getRow(database, database.tables.progress, { jobId, part: failurePart(attempt) });
  return row?.error as ErrorSummary | undefined;
}

function failurePart(attempt: number): string {
  return `failure#${attempt}`;
}

const lossPart = "lost";
/** Sentences of up to 1,000 characters; whoever reads them shows fewer. */
const mostLosses = 11;

/** What a salvage has found lost, in a sentence; the same one counts once, and of very many not all are kept. */
export async function recordLoss(database: Database, jobId: string, loss: string, now: Date): Promise<void> {
  if ((await recordedLosses(database, jobId)).length >= mostLosses) return;
  await database.client.send(
    new UpdateCommand({
      TableName: database.tables.progress,
      Key: { jobId, part: lossPart },
      UpdateExpression: "SET expiresAt = :expiresAt ADD lost :loss",
      ExpressionAttributeValues: { ":loss": new Set([loss]), ":expiresAt": expiry(now) },
    }),
  );
}

export async function recordedLosses(database: Database, jobId: string): Promise<string[]> {
  const row = await getRow(database, database.tables.progress, { jobId, part: lossPart });
  return [...((row?.lost as Set<string> | undefined) ?? [])].sort();
}

function expiry(now: Date): number {
  return Math.floor(now.getTime() / 1000) + keepSeconds;
}
