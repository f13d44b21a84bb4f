import assert from "node:assert/strict";
import { test } from "node:test";
import { lambdaContext } from "../../../test/support/api-event.ts";
import type { Job } from "../../domain/job.ts";
import { preferredWait, preferWait } from "./prefer-wait.ts";

test("the header is read as RFC 7240 has it, and capped at 25 seconds", () => {
  const cases: [string | undefined, number | undefined][] = [
    ["wait=10", 10],
    ["WAIT = 10", 10],
    ['wait="10"', 10],
    ["respond-async, wait=7; x=y", 7],
    ["wait=0", 0],
    ["wait=1000", 25],
    ["wait=-1", undefined],
    ["wait=1.5", undefined],
    ["wait", undefined],
    ["await=3", undefined],
    ["", undefined],
    [undefined, undefined],
  ];
  for (const [header, seconds] of cases) assert.equal(preferredWait(header), seconds, header);
});

test("the wait ends in time for the answer, however long the function may still run", async () => {
  let clock = 0;
  const { after } = preferWait({
    readJob: async () => ({ state: "Running" }) as Job,
    now: () => clock,
    pause: async (milliseconds) => {
      clock += milliseconds;
    },
  });
  const answer = async () => ({ status: 202, body: {} });
  const request = {
    event: { headers: { prefer: "wait=25" }, caller: { tenant: "acme", role: "reader" } },
    context: lambdaContext(10_000),
    response: { status: 202, body: {}, pending: { jobId: "job", answer } },
  } as unknown as Parameters<NonNullable<typeof after>>[0];
  await after?.(request);
  assert.equal(clock, 8000);
});
