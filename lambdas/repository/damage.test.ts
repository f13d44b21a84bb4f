import assert from "node:assert/strict";
import { test } from "node:test";
import { summarizeError } from "../domain/errors.ts";
import { lostRanges } from "./damage.ts";
import { domainKeys, formatPageName } from "./layout.ts";

test("of very many losses a job's error still names objects and ranges, and how many more there are", () => {
  const lost = Array.from({ length: 5_000 }, (_, at) => ({
    offset: 2 ** 46 + at * 2 ** 20,
    length: 2 ** 19,
    object: domainKeys("d".repeat(32)).page(
      formatPageName({ jobId: "job_01JD7QXN8ZK4V1TQ3C5M9R2WEY", attempt: 1, sha256: String(at).padStart(64, "0") }),
    ),
  }));
  const { message } = summarizeError(lostRanges(lost, { andMore: true }));
  assert.match(message, new RegExp(`${lost[2]!.object} and 4997 more\\. Bytes ${2 ** 46}-`));
  assert.match(message, / and 4990 more ranges of the volume are lost\. There may be more: not all was read\.$/);
});
