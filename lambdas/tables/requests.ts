/**
 * Idempotency keys. The first request with a key records the ids that it will use; whoever comes with the same key, at the same
 * moment or later, uses the same ids and so ends in the same rows. The answer is stored by the transaction that makes them.
 */
import { PutCommand } from "@aws-sdk/lib-dynamodb";
import { type Database, getRow, isMade, type TransactionItem } from "./database.ts";

const keepSeconds = 86_400;

export interface IdempotentRequest {
  /** Hash over tenant, method, path and key. */
  readonly request: string;
  readonly bodyHash: string;
  readonly ids: Readonly<Record<string, string>>;
  readonly createdAt: string;
  /** The answer's body as JSON text, once the work is recorded. */
  readonly answer?: string;
}

/** Records the request, or returns the one that was recorded first. An expired row that is still there counts as absent. */
export async function claimRequest(
  database: Database,
  request: IdempotentRequest,
  now: Date,
): Promise<IdempotentRequest> {
  const seconds = Math.floor(now.getTime() / 1000);
  const isFirst = await isMade(
    database.client.send(
      new PutCommand({
        TableName: database.tables.requests,
        Item: { ...request, expiresAt: seconds + keepSeconds },
        ConditionExpression: "attribute_not_exists(#request) OR expiresAt < :now",
        ExpressionAttributeNames: { "#request": "request" },
        ExpressionAttributeValues: { ":now": seconds },
      }),
    ),
  );
  if (isFirst) return request;
  const { request: key } = request;
  return (await getRow(database, database.tables.requests, { request: key })) as unknown as IdempotentRequest;
}

export async function getRequest(database: Database, request: string): Promise<IdempotentRequest | undefined> {
  return (await getRow(database, database.tables.requests, { request })) as IdempotentRequest | undefined;
}

/** Stores the answer, part of the transaction that does the work. Only the first one counts. */
export function recordAnswer(database: Database, request: string, answer: string): TransactionItem {
  return {
    Update: {
      TableName: database.tables.requests,
      Key: { request },
      UpdateExpression: "SET answer = :answer",
      ConditionExpression: "attribute_not_exists(answer)",
      ExpressionAttributeValues: { ":answer": answer },
    },
  };
}
