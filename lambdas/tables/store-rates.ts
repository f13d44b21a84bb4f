/**
 * What is spoken for of a limited store's budget, by all workers together. One row for each meter (a store and one limit of it) holds
 * the time until which the budget is given away: the theoretical arrival time of the generic cell rate algorithm. A worker that wants
 * half a second's worth moves that time on by half a second, in one conditional write, and may spend it from the time that was there
 * before.
 *
 * Times are the workers' own clocks. One that is ahead by some milliseconds finds an idle budget that much earlier, one that is behind
 * waits that much longer; neither adds up, for the time in the row only ever moves on by what is reserved.
 */
import { ConditionalCheckFailedException } from "@aws-sdk/client-dynamodb";
import { UpdateCommand } from "@aws-sdk/lib-dynamodb";
import type { Database } from "./database.ts";

export interface Slice {
  /** How long the budget takes to earn it. */
  readonly milliseconds: number;
  /** Milliseconds since 1970, as all times here. */
  readonly now: number;
  /** How far ahead of now the budget may be given away before this slice; more, and nothing is reserved. */
  readonly aheadMilliseconds: number;
}

export type Reservation =
  /** The slice may be spent from then on. */
  | { readonly kind: "reserved"; readonly from: number }
  /** Until then the budget is given away. */
  | { readonly kind: "full"; readonly until: number };

/**
 * No queue of workers is that long: 100 of them that each owe a pack of 16 MiB at the least limit of 512 KiB a second owe 3,200 s. A time
 * further ahead was written by a clock that went wrong, and is written anew.
 */
export const farthestAheadMilliseconds = 3_600_000;

/** An unused meter is forgotten after a day. */
const keepSeconds = 86_400;

/** Each round is lost only to another worker's write in between. */
const rounds = 5;

/** Reserves a slice behind those that are reserved already. Repeating it reserves another. */
export async function reserveSlice(database: Database, meter: string, slice: Slice): Promise<Reservation> {
  const { now, milliseconds } = slice;
  let until = now;
  for (let round = 1; round <= rounds; round++) {
    const queued = await moveOn(database, meter, slice, {
      UpdateExpression: "SET reservedUntil = reservedUntil + :slice, expiresAt = :expires",
      ConditionExpression: "reservedUntil > :now AND reservedUntil <= :latest",
      values: { ":now": now, ":slice": milliseconds, ":latest": now + slice.aheadMilliseconds },
    });
    if (queued.written) return { kind: "reserved", from: queued.reservedUntil - milliseconds };
    until = queued.reservedUntil;
    if (until > now && until <= now + farthestAheadMilliseconds) return { kind: "full", until };
    const first = await moveOn(database, meter, slice, {
      UpdateExpression: "SET reservedUntil = :end, expiresAt = :expires",
      ConditionExpression: "attribute_not_exists(reservedUntil) OR reservedUntil <= :now OR reservedUntil > :farthest",
      values: { ":now": now, ":end": now + milliseconds, ":farthest": now + farthestAheadMilliseconds },
    });
    if (first.written) return { kind: "reserved", from: now };
    until = first.reservedUntil;
  }
  return { kind: "full", until };
}

interface Move {
  readonly UpdateExpression: string;
  readonly ConditionExpression: string;
  readonly values: Readonly<Record<string, number>>;
}

/** Whether the write was made, and what the row says now; 0 when there is none. */
async function moveOn(
  database: Database,
  meter: string,
  { now }: Slice,
  { values, ...expressions }: Move,
): Promise<{ written: boolean; reservedUntil: number }> {
  try {
    const { Attributes } = await database.client.send(
      new UpdateCommand({
        TableName: database.tables.rates,
        Key: { meter },
        ...expressions,
        ExpressionAttributeValues: { ...values, ":expires": Math.ceil(now / 1000) + keepSeconds },
        ReturnValues: "UPDATED_NEW",
        ReturnValuesOnConditionCheckFailure: "ALL_OLD",
      }),
    );
    return { written: true, reservedUntil: Number(Attributes?.reservedUntil) };
  } catch (error) {
    if (!(error instanceof ConditionalCheckFailedException)) throw error;
    return { written: false, reservedUntil: Number(error.Item?.reservedUntil?.N ?? 0) };
  }
}
