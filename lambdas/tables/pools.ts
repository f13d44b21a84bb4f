/** One row for each pool: how many of its slots are taken. */
import { UpdateCommand } from "@aws-sdk/lib-dynamodb";
import type { Pool } from "../domain/pool.ts";
import { type Database, getRow, isMade, type TransactionItem } from "./database.ts";

export async function getPool(database: Database, id: string): Promise<Pool | undefined> {
  return (await getRow(database, database.tables.pools, { id })) as Pool | undefined;
}

/** Takes a slot, only while fewer than `limit` are taken. */
export function takeSlot(database: Database, id: string, limit: number): TransactionItem {
  return {
    Update: {
      TableName: database.tables.pools,
      Key: { id },
      UpdateExpression: "ADD running :one",
      ConditionExpression: "attribute_not_exists(running) OR running < :limit",
      ExpressionAttributeValues: { ":one": 1, ":limit": limit },
    },
  };
}

export function freeSlot(database: Database, id: string): TransactionItem {
  return {
    Update: {
      TableName: database.tables.pools,
      Key: { id },
      UpdateExpression: "ADD running :minusOne",
      ConditionExpression: "running > :zero",
      ExpressionAttributeValues: { ":minusOne": -1, ":zero": 0 },
    },
  };
}

/** Sets a count that was proven wrong, only while it is still the wrong one. Answers whether it was. */
export async function correctRunning(database: Database, id: string, wrong: number, right: number): Promise<boolean> {
  return isMade(
    database.client.send(
      new UpdateCommand({
        TableName: database.tables.pools,
        Key: { id },
        UpdateExpression: "SET running = :right",
        ConditionExpression: "running = :wrong",
        ExpressionAttributeValues: { ":right": right, ":wrong": wrong },
      }),
    ),
  );
}
