import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { ImportAnswer } from "../domain/backup-import.ts";
import type { Services } from "../services.ts";
import { importBackups } from "./import.ts";
import { Problem } from "./problem.ts";
import { emptyBody, importQuery } from "./request-schemas.ts";

/** What the API says when the function that imports answers this. */
function answerTo(answer: ImportAnswer) {
  return importBackups({} as Services, async () => answer, {
    caller: { tenant: "acme", role: "admin" },
    method: "POST",
    path: "/stores/default/import",
    id: "default",
    query: importQuery.parse({}),
    body: emptyBody.parse({}),
    idempotencyKey: undefined,
  });
}

describe("an import over the API", () => {
  it("that finds more to look through answers a cursor that it takes", async () => {
    const next = { domain: "0123456789abcdef0123456789abcdef", snapshotId: "snap_1" };
    const { body } = await answerTo({ imported: [], known: 0, refused: [], next });
    const { nextCursor, ...page } = body as { nextCursor: string };
    assert.deepEqual(page, { imported: [], known: 0, refused: [] });
    assert.deepEqual(importQuery.parse({ cursor: nextCursor }).cursor, next);
  });

  it("is a 503 that says when to come again while the store cannot be read, and a 409 when it cannot be as it is", async () => {
    for (const [passes, status, retryAfter] of [
      [true, 503, "5"],
      [false, 409, undefined],
    ] as const)
      await assert.rejects(answerTo({ problem: "the bucket is away.", passes }), (error) => {
        assert.ok(error instanceof Problem);
        assert.deepEqual([error.status, error.extras.headers?.["Retry-After"]], [status, retryAfter]);
        assert.match(error.message, /^default cannot be read .*the bucket is away/);
        return true;
      });
  });
});
