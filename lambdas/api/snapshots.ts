/** Snapshots: create, list, look at, delete. */
import { StateConflict } from "../domain/errors.ts";
import { newId } from "../domain/ids.ts";
import { defaultStoreId, type Volume } from "../domain/inventory.ts";
import { hasEnded, type Job, newJob, type SnapshotGroup } from "../domain/job.ts";
import { changeId, type Snapshot } from "../domain/snapshot.ts";
import type { Services } from "../services.ts";
import { transact, WriteRefused } from "../tables/database.ts";
import { getHypervisor } from "../tables/hypervisors.ts";
import { getJob } from "../tables/jobs.ts";
import { listSnapshots as listSnapshotRows } from "../tables/snapshots.ts";
import { getStore } from "../tables/stores.ts";
import { type RequestedSnapshot, requestSnapshots } from "../transactions/create-snapshot.ts";
import { decideAndWrite } from "../transactions/decide-and-write.ts";
import { requestDelete } from "../transactions/delete-snapshot.ts";
import { requireSnapshot, requireVolume } from "./access.ts";
import type { ApiRequest } from "./api-handler.ts";
import { pageAnswer } from "./cursor.ts";
import type { ApiResponse, Caller } from "./http.ts";
import { currentJob, explainRefusal, showSnapshot, showSnapshots } from "./lookups.ts";
import { idempotently } from "./middleware/idempotency.ts";
import { accepted, frozenPolicy, startOrLeave } from "./new-jobs.ts";
import type { operations } from "./operations.ts";
import { requireRoomInChain } from "./primary-chain.ts";
import { invalidRequest, notFound } from "./problem.ts";
import { volumeRefusal } from "./refusals.ts";
import { jobRepresentation, snapshotRepresentation } from "./representations.ts";

type Operations = typeof operations;

export async function createSnapshot(
  services: Services,
  request: ApiRequest<Operations["createSnapshot"]>,
): Promise<ApiResponse> {
  const { caller, body } = request;
  const ids = { snapshot: newId("snapshot"), job: newId("job") };
  const answer = await idempotently(services, request, ids, async ({ ids, record }) => {
    const volume = await requireVolume(services, caller, request.id);
    const refusal = volumeRefusal(volume);
    if (refusal) throw refusal;
    await requireAsked(services, caller, volume, body);
    await requireRoomInChain(services, [volume]);
    const rows = newSnapshot(ids, volume, body, await frozenPolicy(services, body), services.now().toISOString());
    const answer = {
      job: jobRepresentation(rows.job),
      snapshot: snapshotRepresentation({ ...rows.snapshot, readers: [] }),
    };
    try {
      await transact(services.database, [...requestSnapshots(services.database, [rows]), ...record(answer)]);
    } catch (error) {
      if (!(error instanceof WriteRefused)) throw error;
      const now = await requireVolume(services, caller, request.id);
      throw volumeRefusal(now) ?? new StateConflict(`${now.id} or the store changed meanwhile; try again`);
    }
    await startOrLeave(services, { ...rows.job, open: true });
    return answer;
  });
  return accepted(services, caller, answer);
}

/** What requests for snapshots have in common. */
type AskedOfSnapshot = ApiRequest<Operations["createSnapshot"]>["body"];

/** Throws a problem that names the field when the store is not there, or the hypervisor cannot hold file systems that are to be held. */
export async function requireAsked(
  services: Services,
  caller: Caller,
  { hypervisorId, hypervisorTenant }: Pick<Volume, "hypervisorId" | "hypervisorTenant">,
  { storeId, quiesce }: AskedOfSnapshot,
): Promise<void> {
  if (storeId !== defaultStoreId && !(await getStore(services.database, caller.tenant, storeId)))
    throw notFound("store", storeId, { pointer: "/storeId" });
  if (quiesce !== true) return;
  const hypervisor = await getHypervisor(services.database, hypervisorTenant, hypervisorId);
  if (!hypervisor?.quiesces)
    throw invalidRequest([
      {
        pointer: "/quiesce",
        detail: `must be false or "preferred": ${hypervisorId} holds no file systems for a snapshot`,
      },
    ]);
}

/** The rows of a request. `of`: the snapshot is one of several of a VM. */
export function newSnapshot(
  ids: { snapshot: string; job: string },
  volume: Volume,
  body: AskedOfSnapshot,
  settings: { policy: Job["policy"]; onBackupFailure: Snapshot["onBackupFailure"] },
  now: string,
  of?: { readonly vmId: string; readonly group: SnapshotGroup },
): RequestedSnapshot {
  const { name, description, asyncBackup, storeId, tags } = body;
  return {
    snapshot: {
      tenant: volume.tenant,
      id: ids.snapshot,
      volumeId: volume.id,
      hypervisorId: volume.hypervisorId,
      hypervisorTenant: volume.hypervisorTenant,
      storeId,
      ...(of === undefined ? {} : { vmId: of.vmId, groupId: of.group.id }),
      ...(name === undefined ? {} : { name }),
      ...(description === undefined ? {} : { description }),
      tags,
      state: "Allocated",
      updateCount: 0,
      lastChange: changeId(ids.job, "Allocated", 0),
      jobId: ids.job,
      attempt: 0,
      maxAttempts: settings.policy.maxAttempts,
      onBackupFailure: settings.onBackupFailure,
      createdAt: now,
      updatedAt: now,
    },
    job: {
      ...newJob(
        ids.job,
        "create-snapshot",
        { tenant: volume.tenant, id: ids.snapshot, volumeId: volume.id },
        settings.policy,
        now,
      ),
      ...(of === undefined ? {} : { group: of.group }),
      asyncBackup,
    },
  };
}

export async function listSnapshots(
  services: Services,
  { caller, query }: ApiRequest<Operations["listSnapshots"]>,
): Promise<ApiResponse> {
  const { volumeId, state, limit, cursor } = query;
  const page = await listSnapshotRows(services.database, caller.tenant, { volumeId, state, limit, after: cursor });
  return pageAnswer(await showSnapshots(services, page.items), page.next);
}

export async function readSnapshot(
  services: Services,
  { caller, id }: ApiRequest<Operations["getSnapshot"]>,
): Promise<ApiResponse> {
  return { status: 200, body: await showSnapshot(services, await requireSnapshot(services, caller, id)) };
}

export async function deleteSnapshot(
  services: Services,
  { caller, id }: ApiRequest<Operations["deleteSnapshot"]>,
): Promise<ApiResponse> {
  const jobId = newId("job");
  const { policy } = await frozenPolicy(services);
  let runningJobId: string | undefined;
  try {
    await decideAndWrite(services.database, async () => {
      const snapshot = await requireSnapshot(services, caller, id);
      runningJobId = await runningDeletion(services, snapshot);
      if (runningJobId !== undefined) return "replay";
      const now = services.now().toISOString();
      return requestDelete(services.database, snapshot, newJob(jobId, "delete-snapshot", snapshot, policy, now), now);
    });
  } catch (error) {
    if (error instanceof StateConflict || error instanceof WriteRefused)
      throw await explainRefusal(services, caller, id, "delete");
    throw error;
  }
  const [job, snapshot] = await Promise.all([
    getJob(services.database, caller.tenant, runningJobId ?? jobId),
    requireSnapshot(services, caller, id),
  ]);
  if (!job) throw notFound("job", runningJobId ?? jobId);
  if (runningJobId === undefined) await startOrLeave(services, job);
  return accepted(services, caller, {
    job: jobRepresentation(job),
    snapshot: await showSnapshot(services, snapshot),
  });
}

/** The job that deletes the snapshot already; a second request is answered with it. */
async function runningDeletion(services: Services, snapshot: Snapshot): Promise<string | undefined> {
  if (snapshot.state !== "Destroying") return undefined;
  const { job } = await currentJob(services, snapshot);
  return job && !hasEnded(job.state) ? job.id : undefined;
}
