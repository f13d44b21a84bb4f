/** One contender doing its actions once, each measured. */
import { existsSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type Action, actions, type Backup, type Contender, type Scene, type Task } from "./contender.ts";
import { BenchmarkError } from "./errors.ts";
import { delayRequests } from "./latency/delayed-access.ts";
import { busySeconds } from "./measure/processor-time.ts";
import { runMeasured } from "./measure/run.ts";
import { warmMemory } from "./measure/warm-memory.ts";
import { type RequestCounts, requestsSince, type S3Server, startS3Server } from "./server/s3-server.ts";
import { hashContent, warmFile } from "./volume/files.ts";
import { totalLength, type VolumePair } from "./volume/volume-pair.ts";

export interface Measurement {
  readonly contender: string;
  readonly scenario: string;
  readonly action: Action;
  readonly wallSeconds: number;
  /** User and system time of the contender's processes. */
  readonly clientSeconds: number;
  readonly serverSeconds: number;
  /** Processor time of all else on the machine meanwhile: how quiet it was. */
  readonly foreignSeconds: number;
  readonly peakBytes: number;
  /** What this action added to the store. */
  readonly storedBytes: number;
  readonly storedObjects: number;
  readonly requests: RequestCounts;
  /** Seconds of each phase, where the contender tells. */
  readonly phases: Readonly<Record<string, number>>;
}

export interface Bench {
  readonly pair: VolumePair;
  /** For logs and caches of contenders. */
  readonly directory: string;
  /** A directory on a tmpfs, for the store and for what is restored. */
  readonly memory: string;
  readonly note: (text: string) => void;
}

export interface Course {
  /** What is special about it, for the report. */
  readonly scenario: string;
  readonly actions: readonly Action[];
  /** Milliseconds that a proxy holds each request back; without it there is no proxy. */
  readonly delayMs?: number;
}

/** Runs a course on an empty store. Throws BenchmarkError when a command fails or restores other bytes than were backed up. */
export async function runCourse(bench: Bench, contender: Contender, course: Course): Promise<Measurement[]> {
  const directory = join(bench.directory, "contenders", contender.name);
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  const server = await startS3Server(bench.memory);
  try {
    const delayed = course.delayMs === undefined ? undefined : await delayRequests(server.access, course.delayMs);
    const scene = { access: delayed?.access ?? server.access, pair: bench.pair, directory };
    try {
      return await runActions(bench, { contender, scene, server, scenario: course.scenario }, course.actions);
    } finally {
      await delayed?.stop();
    }
  } finally {
    await server.stop();
  }
}

/** What a contender and the server take beside what they store or restore: the largest needs some 1 GiB. */
export const memoryOfPrograms = 1024 ** 3;

interface Stage {
  readonly contender: Contender;
  readonly scene: Scene;
  readonly server: S3Server;
  readonly scenario: string;
}

async function runActions(bench: Bench, stage: Stage, wanted: readonly Action[]): Promise<Measurement[]> {
  const { contender, scene, scenario } = stage;
  await contender.prepare?.(scene);
  const measurements: Measurement[] = [];
  const output = join(bench.memory, "restored.raw");
  let newest: Backup | undefined;
  for (const action of withRequirements(wanted).filter((each) => contender.actions.includes(each))) {
    if (action !== "restore") newest = action;
    const backup = newest!;
    const version = backup === "full" ? bench.pair.first : bench.pair.second;
    rmSync(output, { force: true });
    if (action !== "restore") await warmFile(version.path, version.extents);
    await warmMemory(bench.memory, totalLength(version.extents) + memoryOfPrograms);
    const measurement = await measure(stage, { action, backup, version, output });
    if (action === "restore") await checkRestored(contender.name, output, version.contentHash);
    bench.note(`${scenario}, ${contender.name} ${action}: ${measurement.wallSeconds.toFixed(2)} s`);
    if (wanted.includes(action)) measurements.push(measurement);
  }
  rmSync(output, { force: true });
  return measurements;
}

/** Everything else builds on a full backup. */
function withRequirements(wanted: readonly Action[]): Action[] {
  return actions.filter((action) => action === "full" || wanted.includes(action));
}

async function measure({ contender, scene, server, scenario }: Stage, task: Task): Promise<Measurement> {
  const command = contender.command(scene, task);
  const before = {
    requests: await server.requests(),
    stored: server.stored(),
    server: server.seconds(),
    busy: busySeconds(),
  };
  const usage = await runMeasured(command, join(scene.directory, `${task.action}.log`));
  const busy = busySeconds() - before.busy;
  const serverSeconds = server.seconds() - before.server;
  const stored = server.stored();
  const clientSeconds = usage.userSeconds + usage.systemSeconds;
  return {
    contender: contender.name,
    scenario,
    action: task.action,
    wallSeconds: usage.wallSeconds,
    clientSeconds,
    serverSeconds,
    foreignSeconds: Math.max(0, busy - clientSeconds - serverSeconds),
    peakBytes: usage.peakBytes,
    storedBytes: stored.bytes - before.stored.bytes,
    storedObjects: stored.objects - before.stored.objects,
    requests: requestsSince(before.requests, await server.requests()),
    phases: contender.phases?.(scene) ?? {},
  };
}

async function checkRestored(contender: string, output: string, contentHash: string): Promise<void> {
  if (existsSync(output) && (await hashContent(output)) === contentHash) return;
  throw new BenchmarkError(`${contender} restored other bytes than it backed up.`);
}
