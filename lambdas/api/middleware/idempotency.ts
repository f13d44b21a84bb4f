/** `Idempotency-Key`: the same key and body end in the same rows and get the same answer, also when they come at once. */
import { createHash } from "node:crypto";
import type { MiddlewareObj } from "@middy/core";
import type { Services } from "../../services.ts";
import type { TransactionItem } from "../../tables/database.ts";
import { claimRequest, getRequest, recordAnswer } from "../../tables/requests.ts";
import type { ApiEvent, ApiResponse, Caller } from "../http.ts";
import { invalidRequest, Problem } from "../problem.ts";

const visibleAscii = /^[\x21-\x7e]{1,255}$/;

/** Checks the header and puts the key into `event.idempotencyKey`. */
export function idempotencyKey(): MiddlewareObj<ApiEvent, ApiResponse> {
  return {
    before: ({ event }) => {
      const key = event.headers?.["idempotency-key"];
      if (key === undefined) return;
      if (!visibleAscii.test(key))
        throw invalidRequest([
          { header: "Idempotency-Key", detail: "must be 1 to 255 visible ASCII characters without spaces" },
        ]);
      event.idempotencyKey = key;
    },
  };
}

/** What identifies a request for its repetitions. */
export interface RepeatableRequest {
  readonly caller: Caller;
  readonly method: string;
  readonly path: string;
  readonly body: unknown;
  readonly idempotencyKey: string | undefined;
}

export interface Attempt<Ids> {
  /** The ids to use: those of the first request with this key. */
  readonly ids: Ids;
  /** The items that store the answer, to be part of the transaction that does the work. */
  record(answer: unknown): TransactionItem[];
}

/**
 * Runs `work` once for each key. Whoever loses the race, or comes later, gets the answer that the winner stored; if the winner died
 * before its transaction, the next one finishes the work under the same ids. Refusals are not stored: they are judged anew.
 */
export async function idempotently<Ids extends Readonly<Record<string, string>>, Answer>(
  services: Pick<Services, "database" | "now">,
  request: RepeatableRequest,
  ids: Ids,
  work: (attempt: Attempt<Ids>) => Promise<Answer>,
): Promise<Answer> {
  const { database } = services;
  if (request.idempotencyKey === undefined) return work({ ids, record: () => [] });
  const now = services.now();
  const name = requestHash(request);
  const bodyHash = sha256(canonicalJson(request.body));
  const claimed = await claimRequest(database, { request: name, bodyHash, ids, createdAt: now.toISOString() }, now);
  if (claimed.bodyHash !== bodyHash)
    throw new Problem(
      "idempotency-key-reused",
      "This Idempotency-Key was used for a request with another body. Send a new request with a new key.",
    );
  if (claimed.answer !== undefined) return JSON.parse(claimed.answer) as Answer;
  try {
    return await work({
      ids: claimed.ids as Ids,
      record: (answer) => [recordAnswer(database, name, JSON.stringify(answer))],
    });
  } catch (error) {
    const winner = await getRequest(database, name);
    if (winner?.answer !== undefined) return JSON.parse(winner.answer) as Answer;
    throw error;
  }
}

function requestHash({ caller, method, path, idempotencyKey }: RepeatableRequest): string {
  return sha256([caller.tenant, method, path, idempotencyKey].join("\n"));
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

/** JSON with the members of every object in order, so that equal bodies have equal texts. Takes what a schema let through. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner === "object" && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([left], [right]) => (left < right ? -1 : 1)))
      : inner,
  );
}
