/** `Prefer: wait=N` (RFC 7240): the answer is held back until its job has ended, or N seconds have passed. */
import { setTimeout as sleep } from "node:timers/promises";
import type { MiddlewareObj } from "@middy/core";
import { hasEnded, type Job } from "../../domain/job.ts";
import type { ApiEvent, ApiResponse, Caller } from "../http.ts";

/** API Gateway gives up after 29 s; this leaves time for the work before and after. */
const longestWaitSeconds = 25;
const reserveMilliseconds = 2000;
const firstPauseMilliseconds = 250;
const longestPauseMilliseconds = 1000;

export interface WaitOptions {
  readonly readJob: (tenant: string, id: string) => Promise<Job | undefined>;
  readonly now?: () => number;
  readonly pause?: (milliseconds: number) => Promise<unknown>;
}

/** Answers 200 instead of 202 when the job has ended within the wait. A preference that makes no sense is ignored, as the RFC wants it. */
export function preferWait({
  readJob,
  now = Date.now,
  pause = sleep,
}: WaitOptions): MiddlewareObj<ApiEvent, ApiResponse> {
  return {
    after: async (request) => {
      const { event, context, response } = request;
      const seconds = preferredWait(event.headers?.prefer);
      const pending = response?.pending;
      if (seconds === undefined || !pending || !event.caller) return;
      const remaining = context?.getRemainingTimeInMillis?.() ?? Number.POSITIVE_INFINITY;
      const deadline = now() + Math.min(seconds * 1000, remaining - reserveMilliseconds);
      const ended = await waitForEnd(pending.jobId, event.caller, deadline);
      const answer = await pending.answer();
      request.response = {
        ...answer,
        status: answer.status === 202 && ended ? 200 : answer.status,
        headers: { ...answer.headers, "Preference-Applied": `wait=${seconds}` },
      };
    },
  };

  async function waitForEnd(jobId: string, caller: Caller, deadline: number): Promise<boolean> {
    for (let wait = firstPauseMilliseconds; ; wait = Math.min(wait * 1.5, longestPauseMilliseconds)) {
      const job = await readJob(caller.tenant, jobId);
      if (!job || hasEnded(job.state)) return job !== undefined;
      const left = deadline - now();
      if (left <= 0) return false;
      await pause(Math.min(wait, left));
    }
  }
}

/** The seconds to wait, capped; undefined when the header asks for none. */
export function preferredWait(header: string | undefined): number | undefined {
  const wait = header
    ?.split(",")
    .map((preference) => /^\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;.*)?$/i.exec(preference)?.[1])
    .find((value) => value !== undefined);
  return wait === undefined ? undefined : Math.min(Number(wait), longestWaitSeconds);
}
