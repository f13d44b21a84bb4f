/** Taking a hypervisor or a store out of the books. Nothing that it holds is touched: what is left behind is reported. */
import { setTimeout as sleep } from "node:timers/promises";
import type { HypervisorRow, StoreRow, Volume } from "../domain/inventory.ts";
import type { Snapshot } from "../domain/snapshot.ts";
import type { Services } from "../services.ts";
import { anchorsOf, deleteAnchor } from "../tables/anchors.ts";
import { deleteHypervisor } from "../tables/hypervisors.ts";
import { getJob } from "../tables/jobs.ts";
import { forgetSnapshot, listSnapshots, snapshotsOfVolume } from "../tables/snapshots.ts";
import { forgetStoreReference, storeReferencesOf } from "../tables/store-references.ts";
import { deleteStore } from "../tables/stores.ts";
import { forgetVmDefinition } from "../tables/vm-definitions.ts";
import { forgetVm, vmsOnHypervisor } from "../tables/vms.ts";
import { forgetVolume, markMissing, volumesOnHypervisor } from "../tables/volumes.ts";
import { Problem, type ProblemKind } from "./problem.ts";
import { pathOf } from "./representations.ts";
import type { Forgotten } from "./response-schemas.ts";

/** More snapshots than this are counted but not listed. */
const mostListed = 50;
const pageSize = 100;

/** How long jobs that have succeeded are waited for, all together. */
const tidyingMilliseconds = 5_000;
const tidyingPauseMilliseconds = 200;

/**
 * Forgets the hypervisor, its VMs and its volumes. With `force` also what its snapshots have on primary storage: a snapshot that has a backup
 * stays, and can be restored elsewhere; one that has none goes. The volumes take no more snapshots from the beginning, and go last: by them
 * a repetition finds what one that died has left.
 */
export async function forgetHypervisor(
  services: Services,
  hypervisor: HypervisorRow,
  options: { force: boolean },
): Promise<Forgotten> {
  const { database } = services;
  const volumes: Volume[] = [];
  for await (const volume of volumesOnHypervisor(database, hypervisor)) volumes.push(volume);
  const snapshots: Snapshot[] = [];
  for (const volume of volumes)
    for await (const snapshot of snapshotsOfVolume(database, volume.tenant, volume.id))
      if (snapshot.state !== "Destroyed") snapshots.push(snapshot);

  await requireRest(services, "hypervisor-in-use", hypervisor.id, snapshots, volumes);
  if (!options.force && snapshots.length > 0)
    throw inUse("hypervisor-in-use", hypervisor.id, snapshots, "on it", leavingNothing);

  const now = services.now().toISOString();
  for (const volume of volumes) await markMissing(database, volume, now);
  const forgotten = emptyReport(volumes.length);
  const withCopies = new Set<string>();
  for (const snapshot of snapshots) {
    const references = await storeReferencesOf(database, snapshot.tenant, snapshot.id);
    const primary = references.find((reference) => reference.role === "Primary");
    if (primary) {
      withCopies.add(snapshot.volumeId);
      await forgetStoreReference(database, primary);
      forgotten.bytesLeftBehind.primary += primary.physicalBytes ?? 0;
    }
    if (snapshot.backedUpAt !== undefined) continue;
    for (const reference of references) await forgetStoreReference(database, reference);
    await forgetRow(services, snapshot, forgotten);
  }
  for (const volume of volumes)
    for (const anchor of await anchorsOf(database, volume)) {
      await deleteAnchor(database, anchor);
      forgotten.bytesLeftBehind.primary += anchor.physicalBytes;
    }
  for await (const vm of vmsOnHypervisor(database, hypervisor)) await forgetVm(database, vm);
  for (const volume of volumes) await forgetVolume(database, volume);
  await deleteHypervisor(database, hypervisor.tenant, hypervisor.id);
  const copiesLeftOf = volumes.filter(({ id }) => withCopies.has(id)).map(({ externalId }) => externalId);
  return copiesLeftOf.length === 0 ? forgotten : { ...forgotten, copiesLeftOf };
}

/** Forgets the store. With `force` also the snapshots whose backups lie there, or were to. */
export async function forgetStore(
  services: Services,
  store: StoreRow,
  options: { force: boolean },
): Promise<Forgotten> {
  const { database } = services;
  const snapshots = await snapshotsInStore(services, store);
  await requireRest(services, "store-in-use", store.id, snapshots, []);
  if (!options.force && snapshots.length > 0) throw inUse("store-in-use", store.id, snapshots, "in it");

  const forgotten = emptyReport(0);
  for (const snapshot of snapshots) {
    for (const reference of await storeReferencesOf(database, snapshot.tenant, snapshot.id)) {
      const left = reference.role === "Primary" ? "primary" : "stored";
      forgotten.bytesLeftBehind[left] += reference.physicalBytes ?? 0;
      await forgetStoreReference(database, reference);
    }
    await forgetRow(services, snapshot, forgotten);
  }
  await deleteStore(database, store.tenant, store.id);
  return forgotten;
}

async function snapshotsInStore({ database }: Services, store: StoreRow): Promise<Snapshot[]> {
  const found: Snapshot[] = [];
  let after: string | undefined;
  do {
    const page = await listSnapshots(database, store.tenant, { limit: pageSize, after });
    found.push(...page.items.filter((snapshot) => snapshot.storeId === store.id));
    after = page.next;
  } while (after !== undefined);
  return found;
}

interface Report extends Forgotten {
  readonly snapshots: string[];
  readonly bytesLeftBehind: { primary: number; stored: number };
}

function emptyReport(volumes: number): Report {
  return { snapshots: [], volumes, bytesLeftBehind: { primary: 0, stored: 0 } };
}

async function forgetRow({ database }: Services, snapshot: Snapshot, report: Report): Promise<void> {
  await forgetVmDefinition(database, snapshot);
  await forgetSnapshot(database, snapshot);
  report.snapshots.push(snapshot.id);
}

/** Not even `force` takes away what jobs are working on, or have left to clean up. */
async function requireRest(
  services: Services,
  kind: ProblemKind,
  id: string,
  snapshots: readonly Snapshot[],
  volumes: readonly Volume[],
): Promise<void> {
  const candidates = new Map<string, string>();
  for (const { tenant, jobId, readers } of snapshots)
    for (const job of [jobId, ...readers]) candidates.set(job, tenant);
  for (const { tenant, restoringJobId } of volumes)
    if (restoringJobId !== undefined) candidates.set(restoringJobId, tenant);
  const running: string[] = [];
  const deadline = Date.now() + tidyingMilliseconds;
  for (const [jobId, tenant] of candidates) if (await isOpen(services, tenant, jobId, deadline)) running.push(jobId);
  if (running.length === 0) return;
  const jobs = running.slice(0, mostListed);
  throw new Problem(
    kind,
    `${counted(running.length, "job")} still at work on ${id}: ${jobs.join(", ")}. Wait or cancel first.`,
    {
      members: { jobs },
    },
  );
}

/** Forgetting changes nothing on a hypervisor: VMs go on with the copies that are layers of their disks. */
const leavingNothing = ` Unprotect its volumes before (POST ${pathOf("volumes", "{id}")}/unprotect) and nothing is left on it.`;

function inUse(kind: ProblemKind, id: string, snapshots: readonly Snapshot[], where: string, advice = ""): Problem {
  const listed = snapshots.slice(0, mostListed).map((snapshot) => snapshot.id);
  const more = snapshots.length > listed.length ? ` and ${snapshots.length - listed.length} more` : "";
  return new Problem(
    kind,
    `${counted(snapshots.length, "snapshot")} ${where}: ${listed.join(", ")}${more}. Delete ${snapshots.length === 1 ? "it" : "them"} first, or forget ${id} with ?force=true and leave the bytes behind.${advice}`,
    { members: { snapshots: listed } },
  );
}

function counted(count: number, one: string): string {
  return count === 1 ? `1 ${one} is` : `${count} ${one}s are`;
}

/** A job that has succeeded tidies up within seconds: that is waited for. */
async function isOpen({ database }: Services, tenant: string, jobId: string, deadline: number): Promise<boolean> {
  for (;;) {
    const job = await getJob(database, tenant, jobId);
    if (!job?.open) return false;
    if (job.state !== "Succeeded" || Date.now() > deadline) return true;
    await sleep(tidyingPauseMilliseconds);
  }
}
