/** What is done with a snapshot that is there: restore its backup, back it up again. */
import { StateConflict } from "../domain/errors.ts";
import { newId } from "../domain/ids.ts";
import { assignTenant, type HypervisorRow, type Volume, volumeIdFor } from "../domain/inventory.ts";
import { foreseenExternalId, type Job, newJob, type RestoreTarget } from "../domain/job.ts";
import { nextSnapshotState, type Snapshot } from "../domain/snapshot.ts";
import type { Services } from "../services.ts";
import { transact, WriteRefused } from "../tables/database.ts";
import { getHypervisor } from "../tables/hypervisors.ts";
import { getJob } from "../tables/jobs.ts";
import { getStoreReference } from "../tables/store-references.ts";
import { requireVm } from "../tables/vms.ts";
import { getVolume } from "../tables/volumes.ts";
import { requestBackup } from "../transactions/backup-snapshot.ts";
import { primaryReference, queuedBackup } from "../transactions/create-snapshot.ts";
import { requestRestore } from "../transactions/restore-volume.ts";
import { requireSnapshot } from "./access.ts";
import type { ApiRequest } from "./api-handler.ts";
import type { ApiResponse, Caller } from "./http.ts";
import { currentJob, explainRefusal, showSnapshot } from "./lookups.ts";
import { idempotently } from "./middleware/idempotency.ts";
import { accepted, frozenPolicy, startOrLeave } from "./new-jobs.ts";
import type { operations } from "./operations.ts";
import { notFound, Problem } from "./problem.ts";
import { readableState } from "./refusals.ts";
import { jobRepresentation, volumeRepresentation } from "./representations.ts";
import { requireTargetPossible } from "./restore-for-vm.ts";
import { restoreInPlace } from "./restore-in-place.ts";

type Operations = typeof operations;
type NewVolumeTarget = Pick<RestoreTarget, "name" | "pool">;

export async function restoreSnapshot(
  services: Services,
  request: ApiRequest<Operations["restoreSnapshot"]>,
): Promise<ApiResponse> {
  const { caller, id, body } = request;
  // Without inPlace both are given.
  const { inPlace, hypervisorId = "", name = "", ...more } = body.target;
  if (inPlace) return restoreInPlace(services, request);
  const target = { ...more, name };
  const answer = await idempotently(services, request, { job: newId("job") }, async ({ ids, record }) => {
    const snapshot = await requireSnapshot(services, caller, id);
    const { pool, attachToVmId, newVm } = target;
    const hypervisor = await targetHypervisor(services, snapshot, hypervisorId);
    if (snapshot.state !== readableState) throw await explainRefusal(services, caller, id, "restore");
    const requirePossible = async () => {
      await requireTargetPossible(services, caller, snapshot, hypervisor, target);
      await requireFreeName(services, caller, hypervisor, target);
    };
    await requirePossible();

    const now = services.now().toISOString();
    const volume = volumeUnderConstruction(snapshot, hypervisor, target, ids.job, now);
    const job: Omit<Job, "open"> = {
      ...newJob(ids.job, "restore-volume", snapshot, (await frozenPolicy(services)).policy, now),
      target: {
        hypervisorId: hypervisor.id,
        hypervisorTenant: hypervisor.tenant,
        name,
        ...(pool !== undefined && { pool }),
        volumeId: volume.id,
        ...(attachToVmId !== undefined && { vmId: attachToVmId }),
        ...(newVm !== undefined && { newVm }),
      },
      ...(body.salvage && { salvage: true }),
    };
    const answer = {
      job: jobRepresentation(job),
      snapshot: await showSnapshot(services, { ...snapshot, readers: [...snapshot.readers, job.id] }),
      volume: volumeRepresentation(volume, caller),
    };
    try {
      await transact(services.database, [
        ...requestRestore(services.database, snapshot, volume, job),
        ...(attachToVmId === undefined
          ? []
          : [requireVm(services.database, { tenant: caller.tenant, id: attachToVmId })]),
        ...record(answer),
      ]);
    } catch (error) {
      if (!(error instanceof WriteRefused)) throw error;
      await requirePossible();
      throw await explainRefusal(services, caller, id, "restore");
    }
    await startOrLeave(services, { ...job, open: true });
    return answer;
  });
  return accepted(services, caller, answer);
}

/** A hypervisor of the caller's tenant, or the one that the snapshot was taken on. */
async function targetHypervisor(services: Services, snapshot: Snapshot, id: string): Promise<HypervisorRow> {
  const own = await getHypervisor(services.database, snapshot.tenant, id);
  if (own) return own;
  const original =
    id === snapshot.hypervisorId ? await getHypervisor(services.database, snapshot.hypervisorTenant, id) : undefined;
  if (!original) throw notFound("hypervisor", id, { pointer: "/target/hypervisorId" });
  return original;
}

/** Nothing is overwritten, and no name is taken that the hypervisor's rules keep for another tenant. */
async function requireFreeName(
  services: Services,
  caller: Caller,
  hypervisor: HypervisorRow,
  target: NewVolumeTarget,
): Promise<void> {
  const { name } = target;
  const owner = assignTenant(hypervisor, name);
  if (!owner.unassigned && owner.tenant !== caller.tenant)
    throw new Problem(
      "volume-name-taken",
      `The rules of ${hypervisor.id} keep the name ${name} for others. Choose another.`,
    );
  const volumeId = volumeIdFor(hypervisor.id, foreseenExternalId(target));
  const tenants = new Set([caller.tenant, hypervisor.tenant]);
  for (const tenant of tenants) {
    const volume = await getVolume(services.database, tenant, volumeId);
    if (volume && (!volume.missing || volume.restoringJobId !== undefined))
      throw new Problem(
        "volume-name-taken",
        `${hypervisor.id} has a volume of the name ${name} already, ${volumeId}; nothing is overwritten. Choose another name.`,
        { members: { volumeId } },
      );
  }
}

function volumeUnderConstruction(
  snapshot: Snapshot,
  hypervisor: HypervisorRow,
  target: NewVolumeTarget,
  jobId: string,
  now: string,
): Volume {
  const externalId = foreseenExternalId(target);
  return {
    tenant: snapshot.tenant,
    id: volumeIdFor(hypervisor.id, externalId),
    hypervisorId: hypervisor.id,
    hypervisorTenant: hypervisor.tenant,
    externalId,
    name: target.name,
    sizeBytes: snapshot.logicalBytes ?? 0,
    inUse: false,
    backingUp: 0,
    restoringJobId: jobId,
    unassigned: false,
    missing: false,
    discoveredAt: now,
  };
}

export async function backupSnapshot(
  services: Services,
  request: ApiRequest<Operations["backupSnapshot"]>,
): Promise<ApiResponse> {
  const { caller, id } = request;
  const answer = await idempotently(services, request, { job: newId("job") }, async ({ ids, record }) => {
    const snapshot = await requireSnapshot(services, caller, id);
    await requireBackupPossible(services, caller, snapshot);
    const now = services.now().toISOString();
    // What was asked of the backup when the snapshot was requested still holds.
    const asked = (await getJob(services.database, snapshot.tenant, snapshot.jobId))?.policy;
    const { policy } = await frozenPolicy(services, asked);
    const job = queuedBackup(snapshot, policy, now, undefined, ids.job);
    const answer = {
      job: jobRepresentation(job),
      snapshot: await showSnapshot(services, {
        ...snapshot,
        state: "CreatedOnPrimary",
        jobId: job.id,
        error: undefined,
      }),
    };
    try {
      await transact(services.database, [...requestBackup(services.database, snapshot, job, now), ...record(answer)]);
    } catch (error) {
      if (error instanceof WriteRefused || error instanceof StateConflict)
        throw await explainRefusal(services, caller, id, "backup");
      throw error;
    }
    return answer;
  });
  return accepted(services, caller, answer);
}

/** The table of moves allows it, no job of the snapshot is going on, and its bytes are still on primary storage. */
async function requireBackupPossible(services: Services, caller: Caller, snapshot: Snapshot): Promise<void> {
  const allowed = nextSnapshotState(snapshot.state, "BackupRequested") !== undefined;
  const [{ ended }, primary] = await Promise.all([
    currentJob(services, snapshot),
    getStoreReference(services.database, primaryReference(snapshot)),
  ]);
  if (!allowed || !ended) throw await explainRefusal(services, caller, snapshot.id, "backup");
  if (primary?.state !== "Ready")
    throw new Problem(
      "primary-copy-is-gone",
      `The copy of ${snapshot.id} on primary storage is not there (any more): nothing is left to back up from. Delete the snapshot and take another.`,
      { members: { snapshotId: snapshot.id } },
    );
}
