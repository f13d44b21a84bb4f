/** `npm run bench`: Snapferry's copy engine and its peers on one volume and one S3 server. */
import { mkdirSync, mkdtempSync, rmSync, statfsSync } from "node:fs";
import { availableParallelism, constants } from "node:os";
import { join, resolve } from "node:path";
import { Command, InvalidArgumentError } from "commander";
import { type Action, actions, type Contender } from "./contender.ts";
import { buildEngine, profileDirectory } from "./engine/engine.ts";
import { BenchmarkError, isExpected } from "./errors.ts";
import { deriveLimits, type LimitBasis, limitBasis, measureLimitStages } from "./limits/limits.ts";
import type { Stages } from "./limits/stages.ts";
import { describeMachine } from "./machine.ts";
import { type Bench, type Measurement, memoryOfPrograms, runCourse } from "./measurement.ts";
import { installPeers, peerNames } from "./peers/peers.ts";
import { type Report, reportText } from "./report.ts";
import { formatSize, parseSize } from "./size.ts";
import { summaries } from "./summary.ts";
import { judge, scenarios } from "./targets.ts";
import { volumePair } from "./volume/generate.ts";
import { thinVolume } from "./volume/generate-thin.ts";
import { totalLength } from "./volume/volume-pair.ts";

interface Options {
  readonly size: number;
  readonly seed: number;
  readonly source: string;
  readonly peers: readonly string[];
  readonly rounds: number;
  readonly only: readonly Action[];
  readonly latency?: number;
  readonly sparse?: number;
  readonly limits: boolean;
  readonly shardsAtOnce: number;
  readonly work: string;
  readonly memory: string;
  readonly cpuProf: boolean;
  readonly json: boolean;
  readonly check: boolean;
}

const options = new Command("npm run bench --")
  .description("Measures full and incremental backups and restores, client and server apart.")
  .option("--size <size>", "size of the volume; half of it is allocated", parseSize, parseSize("4GiB"))
  .option("--seed <number>", "for another volume of that size", wholeNumber, 1)
  .option("--source <directory>", "where the volume's files come from", "/usr")
  .option("--peers <names>", `of ${peerNames.join(", ")}; or none`, list([...peerNames, "none"]), [...peerNames])
  .option("--rounds <number>", "how often each is measured; the report has medians", wholeNumber, 1)
  .option("--only <actions>", `of ${actions.join(", ")}`, list(actions), [...actions])
  .option("--latency <time>", "also with so many ms more for each S3 request, e.g. 20ms", milliseconds)
  .option("--sparse <size>", "also a volume of that size with little in it, e.g. 64GiB", parseSize)
  .option("--no-limits", "leave out what this machine could do at best")
  .option("--shards-at-once <number>", "shards that the engine copies in parallel", wholeNumber, shardsAtOnce())
  .option("--work <directory>", "volumes, installed peers, logs", join(".snapferry", "bench"))
  .option("--memory <directory>", "a tmpfs, for the store and what is restored", "/dev/shm")
  .option("--cpu-prof", "write CPU profiles of the engine", false)
  .option("--check", "exit with 1 when a target is missed", false)
  .option("--json", "print everything that was measured as JSON", false)
  .showHelpAfterError()
  .parse()
  .opts<Options>();

try {
  const report = await main();
  console.log(options.json ? JSON.stringify(report, null, 2) : reportText(report));
  if (options.check && !report.verdicts.every(({ isMet }) => isMet)) process.exitCode = 1;
} catch (error) {
  if (!isExpected(error)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}

async function main(): Promise<Report> {
  const directory = resolve(options.work);
  mkdirSync(directory, { recursive: true });
  requireMemory(options.memory, options.size);
  const memory = mkdtempSync(join(options.memory, "snapferry-bench-"));
  // Also on the way out by a signal: gigabytes in memory would stay behind.
  process.once("exit", () => rmSync(memory, { recursive: true, force: true }));
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.once(signal, () => process.exit(128 + constants.signals[signal]));
  }
  return benchmark(directory, memory);
}

/** One for each core, and one that works while another begins or ends. */
function shardsAtOnce(): number {
  return availableParallelism() + 1;
}

/** The store and what is restored from it take less than the volume, half of which is allocated; before that the memory for them is warmed. */
function requireMemory(directory: string, volumeBytes: number): void {
  const { bavail, bsize } = statfsSync(directory);
  const bytes = volumeBytes + memoryOfPrograms;
  if (bavail * bsize >= bytes) return;
  throw new BenchmarkError(`${directory} has less than ${formatSize(bytes)} left; name another with --memory.`);
}

async function benchmark(directory: string, memory: string): Promise<Report> {
  const machine = describeMachine();
  const pair = await volumePair({ ...options, sizeBytes: options.size, directory }, note);
  const engine = buildEngine({ directory, shardsAtOnce: options.shardsAtOnce, profile: options.cpuProf });
  const { contenders, skipped } = await installPeers(options.peers, { directory: join(directory, "tools"), note });
  for (const { name, reason } of skipped) note(`${name} is skipped: ${reason}`);
  const bench = { pair, directory, memory, note };
  if (options.limits) note("reading the volume chunk by chunk");
  const basis = options.limits ? await limitBasis(pair) : undefined;
  const { measurements, stages } = await runRounds(bench, { engine, peers: contenders, basis });
  if (options.latency !== undefined) measurements.push(...(await runDelayed(bench, engine, options.latency)));
  if (options.sparse !== undefined) measurements.push(...(await runThin(bench, engine, options.sparse)));
  if (options.cpuProf) note(`CPU profiles: ${profileDirectory(directory)}`);
  const limits = basis && (await deriveLimits(basis, stages));
  const summary = summaries(measurements);
  return {
    machine,
    volume: { sizeBytes: pair.sizeBytes, seed: options.seed, allocatedBytes: totalLength(pair.first.extents) },
    skipped,
    ...(limits && { limits }),
    summaries: summary,
    verdicts: judge(summary, limits),
    measurements,
  };
}

/**
 * Every second round in the opposite order, so that no contender always runs after the same one. What the machine can do at best is measured in each
 * round beside the engine: some virtual machines are faster in one minute than in the next.
 */
async function runRounds(
  bench: Bench,
  { engine, peers, basis }: { engine: Contender; peers: readonly Contender[]; basis: LimitBasis | undefined },
): Promise<{ measurements: Measurement[]; stages: Stages[] }> {
  const measurements: Measurement[] = [];
  const stages: Stages[] = [];
  const contenders = [engine, ...peers];
  for (let round = 0; round < options.rounds; round++) {
    for (const contender of round % 2 === 0 ? contenders : contenders.toReversed()) {
      measurements.push(...(await runCourse(bench, contender, { scenario: scenarios.plain, actions: options.only })));
      if (contender !== engine || !basis) continue;
      note("measuring what this machine can do at best");
      stages.push(await measureLimitStages(basis, bench.memory));
    }
  }
  return { measurements, stages };
}

/** With and without delay through the same proxy, so that what the proxy itself costs is on both sides. */
async function runDelayed(bench: Bench, engine: Contender, delayMs: number): Promise<Measurement[]> {
  const measurements: Measurement[] = [];
  const courses = [
    { scenario: scenarios.proxy, actions: ["full", "restore"], delayMs: 0 },
    { scenario: scenarios.delayed, actions: ["full", "restore"], delayMs },
  ] as const;
  for (let round = 0; round < options.rounds; round++) {
    for (const course of round % 2 === 0 ? courses : courses.toReversed()) {
      measurements.push(...(await runCourse(bench, engine, course)));
    }
  }
  return measurements;
}

async function runThin(bench: Bench, engine: Contender, sizeBytes: number): Promise<Measurement[]> {
  const pair = await thinVolume({ sizeBytes, seed: options.seed, directory: bench.directory });
  return runCourse({ ...bench, pair }, engine, { scenario: scenarios.thin, actions: ["full", "restore"] });
}

function note(text: string): void {
  process.stderr.write(`  ${text}\n`);
}

function wholeNumber(text: string): number {
  if (/^[1-9]\d{0,5}$/.test(text)) return Number(text);
  throw new InvalidArgumentError(`"${text}" is no whole number above 0.`);
}

function milliseconds(text: string): number {
  const [, number] = /^(\d{1,5})ms$/.exec(text) ?? [];
  if (number !== undefined) return Number(number);
  throw new InvalidArgumentError(`"${text}" is no time in milliseconds; write 20ms.`);
}

function list<Item extends string>(known: readonly Item[]): (text: string, previous: Item[]) => Item[] {
  return (text) => {
    const wrong = text.split(",").find((name) => !known.includes(name as Item));
    if (wrong !== undefined) throw new InvalidArgumentError(`"${wrong}" is none of ${known.join(", ")}.`);
    return text.split(",") as Item[];
  };
}
