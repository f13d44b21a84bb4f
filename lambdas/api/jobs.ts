/** Jobs: list, look at, wait for, cancel. */
import { StateConflict } from "../domain/errors.ts";
import { hasEnded, type Job } from "../domain/job.ts";
import { cancelJob as cancel } from "../endings/end-job.ts";
import type { Services } from "../services.ts";
import { getJob, listJobs as listJobRows } from "../tables/jobs.ts";
import type { ApiRequest } from "./api-handler.ts";
import { pageAnswer } from "./cursor.ts";
import type { ApiResponse, Caller } from "./http.ts";
import { showJob, showJobs } from "./lookups.ts";
import type { operations } from "./operations.ts";
import { notFound } from "./problem.ts";
import { jobHasEnded } from "./refusals.ts";
import { pathOf } from "./representations.ts";

type Operations = typeof operations;

export async function listJobs(
  services: Services,
  { caller, query }: ApiRequest<Operations["listJobs"]>,
): Promise<ApiResponse> {
  const { state, kind, snapshotId, limit, cursor } = query;
  const page = await listJobRows(services.database, caller.tenant, { state, kind, snapshotId, limit, after: cursor });
  return pageAnswer(await showJobs(services, page.items), page.next);
}

export async function readJob(
  services: Services,
  { caller, id }: ApiRequest<Operations["getJob"]>,
): Promise<ApiResponse> {
  const answer = async (): Promise<ApiResponse> => ({
    status: 200,
    body: await showJob(services, await requireJob(services, caller, id)),
  });
  return { ...(await answer()), pending: { jobId: id, answer } };
}

export async function cancelJob(
  services: Services,
  { caller, id }: ApiRequest<Operations["cancelJob"]>,
): Promise<ApiResponse> {
  const job = await requireJob(services, caller, id);
  if (hasEnded(job.state) && job.state !== "Cancelled") throw jobHasEnded(job);
  if (!hasEnded(job.state)) await cancelOrExplain(services, caller, id);
  const answer = async (): Promise<ApiResponse> => {
    const now = await requireJob(services, caller, id);
    return {
      status: hasEnded(now.state) ? 200 : 202,
      headers: { Location: pathOf("jobs", id) },
      body: { job: await showJob(services, now) },
    };
  };
  return { ...(await answer()), pending: { jobId: id, answer } };
}

async function cancelOrExplain(services: Services, caller: Caller, id: string): Promise<void> {
  try {
    await cancel(services, caller.tenant, id);
  } catch (error) {
    if (!(error instanceof StateConflict)) throw error;
    const now = await requireJob(services, caller, id);
    if (now.state === "Cancelled") return;
    throw hasEnded(now.state) ? jobHasEnded(now) : error;
  }
}

async function requireJob(services: Services, caller: Caller, id: string): Promise<Job> {
  const job = await getJob(services.database, caller.tenant, id);
  if (!job) throw notFound("job", id);
  return job;
}
