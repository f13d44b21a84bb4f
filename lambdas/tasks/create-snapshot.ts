/** The states of `statemachines/create-snapshot.asl.json`. */
import { hasEnded } from "../domain/job.ts";
import type { TakenSnapshot } from "../hypervisors/port.ts";
import type { Services } from "../services.ts";
import { getJob } from "../tables/jobs.ts";
import { getSnapshot } from "../tables/snapshots.ts";
import { getStoreReference, writeStoreReference } from "../tables/store-references.ts";
import {
  beginCreate,
  createdOnPrimary,
  createFailed,
  primaryReference,
  requireJob,
  requireSnapshot,
} from "../transactions/create-snapshot.ts";
import { type CaughtError, causeOf, type StateFunctions, type TaskInput } from "./state-function.ts";
import { volumeOf } from "./volume-of.ts";

async function Begin(services: Services, { job: { tenant, jobId, snapshotId } }: TaskInput) {
  const job = await getJob(services.database, tenant, jobId);
  const snapshot = await getSnapshot(services.database, tenant, snapshotId);
  const wanted = job && !hasEnded(job.state) && snapshot?.jobId === jobId;
  if (!wanted || (snapshot.state !== "Allocated" && snapshot.state !== "Creating")) return { proceed: false };
  const { hypervisor, volume } = await volumeOf(services, snapshot);
  const installPath = hypervisor.plannedInstallPath({ externalId: volume.externalId, snapshotId });
  await beginCreate(services.database, job, installPath, services.now().toISOString());
  return { proceed: true };
}

async function Take(services: Services, { job: { tenant, snapshotId } }: TaskInput): Promise<TakenSnapshot> {
  const snapshot = await requireSnapshot(services.database, tenant, snapshotId);
  const { hypervisor, volume } = await volumeOf(services, snapshot);
  const [taken] = await hypervisor.takeSnapshots([{ externalId: volume.externalId, snapshotId }], { quiesce: false });
  if (!taken) throw new Error(`the ${hypervisor.kind} hypervisor answered no snapshot for ${snapshotId}`);
  return taken;
}

async function Complete(services: Services, { job: { tenant, jobId }, frozen }: TaskInput & { frozen: TakenSnapshot }) {
  await createdOnPrimary(services.database, { tenant, id: jobId }, frozen, services.now().toISOString());
}

async function Fail(
  services: Services,
  { job: { tenant, jobId, snapshotId }, error }: TaskInput & { error: CaughtError },
) {
  const { database, logger } = services;
  const job = await requireJob(database, tenant, jobId);
  const snapshot = await requireSnapshot(database, tenant, snapshotId);
  if (hasEnded(job.state) || snapshot.jobId !== jobId) return;
  const primaryGone = await takeBack(services, job.tenant, snapshotId).catch((failure) => {
    logger.warn("primary is left to garbage collection", { jobId, snapshotId, error: failure });
    return false;
  });
  const now = services.now();
  const { errorGraceSeconds } = await services.settings();
  const keptUntil = new Date(now.getTime() + errorGraceSeconds * 1000).toISOString();
  await createFailed(database, job, causeOf(error), { primaryGone, cancelled: false, keptUntil }, now.toISOString());
}

/** Whether nothing of the snapshot is left on primary. */
async function takeBack(services: Services, tenant: string, snapshotId: string): Promise<boolean> {
  const { database } = services;
  const snapshot = await requireSnapshot(database, tenant, snapshotId);
  const key = primaryReference(snapshot);
  const reference = await getStoreReference(database, key);
  if (!reference) return true;
  await writeStoreReference(database, key, "Destroying", {
    jobId: snapshot.jobId,
    updatedAt: services.now().toISOString(),
  });
  const hypervisor = await services.hypervisor(snapshot.hypervisorTenant, snapshot.hypervisorId);
  await hypervisor.deleteSnapshot(reference.installPath);
  return true;
}

export const createSnapshotStates: StateFunctions = { Begin, Take, Complete, Fail };
