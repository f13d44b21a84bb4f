/**
 * One backup or restore by the repository's own functions, in the order of the state machines, shards in parallel in this process.
 * Runs as a bundle, made as the functions' code is made: node driver.mjs REQUEST.json
 */
import { readFileSync, writeFileSync } from "node:fs";
import { settingDefinitions } from "../../lambdas/domain/settings.ts";
import { auditHint } from "../../lambdas/repository/audit.ts";
import { startCodec } from "../../lambdas/repository/codec.ts";
import { forEachInFlight } from "../../lambdas/repository/in-flight.ts";
import { type BackupTarget, pinBase, unpinJob } from "../../lambdas/repository/pin.ts";
import { type Extent, type PlanSummary, writePlan } from "../../lambdas/repository/planner.ts";
import { publishRoot } from "../../lambdas/repository/publish.ts";
import { finishRestorePlan, planRestore, restoreShard } from "../../lambdas/repository/reader.ts";
import { verifyBackup } from "../../lambdas/repository/verify.ts";
import { copyShard } from "../../lambdas/repository/writer.ts";
import { RawFile } from "./raw-file.ts";
import type { EngineRequest } from "./request.ts";
import { openBenchStore } from "./store.ts";

const domain = "bench";
const auditPercent = settingDefinitions["hint.audit.percent"].default;
const never = () => false;
const phases: Record<string, number> = {};

async function phase<T>(name: string, work: () => Promise<T>): Promise<T> {
  const started = performance.now();
  try {
    return await work();
  } finally {
    phases[name] = (performance.now() - started) / 1000;
  }
}

async function* inOrder(extents: readonly Extent[]): AsyncGenerator<Extent> {
  yield* extents;
}

async function plan(target: BackupTarget, { volume, base, changed }: EngineRequest): Promise<PlanSummary> {
  const { sizeBytes, extents } = volume;
  await phase("pin", () => pinBase(target, base === undefined ? [] : [base], { sizeBytes }));
  const hint = changed && { changed: inOrder(changed) };
  return phase("plan", () => writePlan(target, { sizeBytes, extents: inOrder(extents), ...hint }));
}

async function backUp(request: EngineRequest): Promise<void> {
  const { snapshotId, jobId, shardsAtOnce } = request;
  const target = { store: openBenchStore(request.access), domain, snapshotId, jobId };
  const { planHash, shardCount, hinted } = await plan(target, request);
  const reader = await RawFile.open(request.volume.path);
  await phase("copy", () =>
    forEachInFlight(Array(shardCount).keys(), shardsAtOnce, async (shard) => {
      await copyShard(target, { planHash, shard, attempt: 1, reader, until: never });
    }),
  );
  if (hinted) {
    const extents = inOrder(request.volume.extents);
    await phase("audit", () => auditHint(target, { planHash, reader, extents, percent: auditPercent, until: never }));
  }
  await reader.close();
  await phase("verify", () => verifyBackup(target, { planHash, until: never }));
  await phase("publish", () => publishRoot(target, { planHash }));
  await phase("unpin", () => unpinJob(target));
}

async function restore(request: EngineRequest): Promise<void> {
  const { snapshotId, jobId, shardsAtOnce } = request;
  const source = { store: openBenchStore(request.access), domain, snapshotId, jobId };
  const { sizeBytes, shardCount } = await phase("plan", () => planRestore(source));
  const writer = await RawFile.create(request.output, sizeBytes);
  await phase("copy", () =>
    forEachInFlight(Array(shardCount).keys(), shardsAtOnce, async (shard) => {
      await restoreShard(source, { shard, writer, until: never });
    }),
  );
  await writer.close();
  await phase("finish", () => finishRestorePlan(source));
}

startCodec();
const request = JSON.parse(readFileSync(process.argv[2] ?? "", "utf8")) as EngineRequest;
await (request.action === "restore" ? restore(request) : backUp(request));
writeFileSync(request.phasesFile, JSON.stringify(phases));
