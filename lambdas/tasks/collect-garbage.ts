/** The states of `statemachines/collect-garbage.asl.json`. */
import { StateConflict } from "../domain/errors.ts";
import { newId } from "../domain/ids.ts";
import { hasEnded, type Job, newJob } from "../domain/job.ts";
import { backupPool } from "../domain/pool.ts";
import type { Settings } from "../domain/settings.ts";
import type { Snapshot } from "../domain/snapshot.ts";
import { endProtections } from "../endings/end-protection.ts";
import { reconcileAll } from "../endings/reconcile.ts";
import { tendHypervisors } from "../endings/tend-hypervisors.ts";
import type { Services } from "../services.ts";
import { getJob, openJobs } from "../tables/jobs.ts";
import { correctRunning, getPool } from "../tables/pools.ts";
import { getSnapshot, snapshotsInState } from "../tables/snapshots.ts";
import { busyVolumes, correctBackingUp, getVolume, markIdle } from "../tables/volumes.ts";
import { decideAndWrite } from "../transactions/decide-and-write.ts";
import { requestDelete } from "../transactions/delete-snapshot.ts";
import type { StateFunctions, TaskContext } from "./state-function.ts";

/** A count that differs from the jobs that really run. */
interface WrongCount {
  /** `pool` or `volume`, with the row's key. */
  readonly of: "pool" | "volume";
  readonly tenant: string;
  readonly id: string;
  readonly recorded: number;
  readonly counted: number;
}

async function SettleJobs(services: Services, _input: unknown, { until }: TaskContext) {
  const { failed, ...counts } = await reconcileAll(services, until);
  if (failed > 0) throw new Error(`${failed} job(s) could not be reconciled; the log names them`);
  return counts;
}

async function TendHypervisors(services: Services, _input: unknown, { until }: TaskContext) {
  const { failed, ...counts } = await tendHypervisors(services, until);
  if (failed > 0) throw new Error(`${failed} hypervisor(s) could not be looked after; the log names them`);
  return counts;
}

async function CollectSnapshots(services: Services, _input: unknown, { until }: TaskContext) {
  const settings = await services.settings();
  let collected = 0;
  for (const state of ["Error", "Destroying"] as const) {
    for await (const { tenant, id } of snapshotsInState(services.database, state)) {
      if (until()) return { collected };
      if (await collect(services, settings, tenant, id)) collected++;
    }
  }
  return { collected };
}

/** Asks for the deletion of a snapshot in Error past its grace, or in Destroying whose deletion has failed. */
async function collect(services: Services, settings: Settings, tenant: string, id: string): Promise<boolean> {
  const snapshot = await getSnapshot(services.database, tenant, id);
  if (!snapshot || !(await isDue(services, settings, snapshot))) return false;
  const policy = { maxAttempts: 1, retryIntervalSeconds: settings.retryIntervalSeconds };
  const job = newJob(newId("job"), "delete-snapshot", snapshot, policy, services.now().toISOString());
  try {
    await decideAndWrite(services.database, async () => {
      const current = await getSnapshot(services.database, tenant, id);
      if (current?.updateCount !== snapshot.updateCount) throw new StateConflict(`${id} has changed meanwhile`);
      return requestDelete(services.database, current, job, job.createdAt);
    });
  } catch (error) {
    if (error instanceof StateConflict) return false;
    throw error;
  }
  await services.executions.start({ ...job, open: true });
  return true;
}

async function isDue(services: Services, settings: Settings, snapshot: Snapshot): Promise<boolean> {
  if (snapshot.state === "Error") {
    return services.now().getTime() - Date.parse(snapshot.updatedAt) >= settings.errorGraceSeconds * 1000;
  }
  if (snapshot.state !== "Destroying") return false;
  const job = await getJob(services.database, snapshot.tenant, snapshot.jobId);
  return !job || hasEnded(job.state);
}

async function EndProtection(services: Services, _input: unknown, { until }: TaskContext) {
  const { failed, ...counts } = await endProtections(services, until);
  if (failed > 0) throw new Error(`the protection of ${failed} volume(s) could not be ended; the log names them`);
  return counts;
}

async function CountSlots(services: Services): Promise<{ wrong: WrongCount[] }> {
  const running: Job[] = [];
  for await (const { tenant, id } of openJobs(services.database, "backup-snapshot")) {
    const job = await getJob(services.database, tenant, id);
    if (job?.state === "Running") running.push(job);
  }
  const wrong: WrongCount[] = [];
  const pool = await getPool(services.database, backupPool);
  const recorded = pool?.running ?? 0;
  if (recorded !== running.length)
    wrong.push({ of: "pool", tenant: "", id: backupPool, recorded, counted: running.length });
  for await (const listed of busyVolumes(services.database)) {
    const volume = await getVolume(services.database, listed.tenant, listed.id);
    if (!volume) continue;
    const counted = running.filter((job) => job.tenant === volume.tenant && job.volumeId === volume.id).length;
    if (volume.backingUp !== counted)
      wrong.push({ of: "volume", tenant: volume.tenant, id: volume.id, recorded: volume.backingUp, counted });
    else if (counted === 0) await markIdle(services.database, volume);
  }
  return { wrong };
}

/** Only what is wrong in the same way as at the first look; a count that changes meanwhile is left alone. */
async function CorrectCounts(services: Services, { counts }: { counts: { wrong: WrongCount[] } }) {
  const { wrong } = await CountSlots(services);
  const proven = wrong.filter((now) => counts.wrong.some((then) => JSON.stringify(then) === JSON.stringify(now)));
  for (const count of proven) {
    services.logger.warn("a count was wrong twice and is corrected", { ...count });
    if (count.of === "pool") await correctRunning(services.database, count.id, count.recorded, count.counted);
    else await correctBackingUp(services.database, count, count.recorded, count.counted);
  }
  return { corrected: proven.length };
}

export const collectGarbageStates: StateFunctions = {
  TendHypervisors,
  SettleJobs,
  CollectSnapshots,
  EndProtection,
  CountSlots,
  CorrectCounts,
};
