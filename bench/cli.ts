/** `npm run bench`: Snapferry's copy engine and its peers on one volume and one S3 server. */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { cpus } from "node:os";
import { join, resolve } from "node:path";
import { Command, InvalidArgumentError } from "commander";
import { LocalCloudError } from "../local/cloud/errors.ts";
import { type Action, actions, type Contender } from "./contender.ts";
import { buildEngine, profileDirectory } from "./engine/engine.ts";
import { BenchmarkError } from "./errors.ts";
import { type Bench, type Measurement, runCourse } from "./measurement.ts";
import { installPeers, peerNames } from "./peers/peers.ts";
import { printTable } from "./report.ts";
import { parseSize } from "./size.ts";
import { volumePair } from "./volume/generate.ts";

interface Options {
  readonly size: number;
  readonly seed: number;
  readonly source: string;
  readonly peers: readonly string[];
  readonly rounds: number;
  readonly only: readonly Action[];
  readonly shardsAtOnce: number;
  readonly work: string;
  readonly memory: string;
  readonly cpuProf: boolean;
  readonly json: boolean;
}

const options = new Command("npm run bench --")
  .description("Measures full and incremental backups and restores, client and server apart.")
  .option("--size <size>", "size of the volume; half of it is allocated", parseSize, parseSize("4GiB"))
  .option("--seed <number>", "for another volume of that size", wholeNumber, 1)
  .option("--source <directory>", "where the volume's files come from", "/usr")
  .option("--peers <names>", `of ${peerNames.join(", ")}; or none`, list([...peerNames, "none"]), [...peerNames])
  .option("--rounds <number>", "how often each is measured; the report has medians", wholeNumber, 1)
  .option("--only <actions>", `of ${actions.join(", ")}`, list(actions), [...actions])
  .option("--shards-at-once <number>", "shards that the engine copies in parallel", wholeNumber, cpus().length)
  .option("--work <directory>", "volumes, installed peers, logs", join(".snapferry", "bench"))
  .option("--memory <directory>", "a tmpfs, for the store and what is restored", "/dev/shm")
  .option("--cpu-prof", "write CPU profiles of the engine", false)
  .option("--json", "print everything that was measured as JSON", false)
  .showHelpAfterError()
  .parse()
  .opts<Options>();

try {
  await main();
} catch (error) {
  if (!(error instanceof BenchmarkError || error instanceof LocalCloudError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}

async function main(): Promise<void> {
  const directory = resolve(options.work);
  mkdirSync(directory, { recursive: true });
  const memory = mkdtempSync(join(options.memory, "snapferry-bench-"));
  try {
    const pair = await volumePair({ ...options, sizeBytes: options.size, directory }, note);
    const engine = await buildEngine({ directory, shardsAtOnce: options.shardsAtOnce, profile: options.cpuProf });
    const peers = await installPeers(options.peers, { directory: join(directory, "tools"), note });
    for (const { name, reason } of peers.skipped) note(`${name} is skipped: ${reason}`);
    const measurements = await runRounds({ pair, directory, memory, note }, [engine, ...peers.contenders]);
    if (options.cpuProf) note(`profiles lie in ${profileDirectory(directory)}`);
    if (options.json) console.log(JSON.stringify({ measurements }, null, 2));
    else printTable(measurements);
  } finally {
    rmSync(memory, { recursive: true, force: true });
  }
}

/** Every second round in the opposite order, so that no contender always runs after the same one. */
async function runRounds(bench: Bench, contenders: readonly Contender[]): Promise<Measurement[]> {
  const measurements: Measurement[] = [];
  for (let round = 0; round < options.rounds; round++) {
    for (const contender of round % 2 === 0 ? contenders : contenders.toReversed()) {
      measurements.push(...(await runCourse(bench, contender, { actions: options.only })));
    }
  }
  return measurements;
}

function note(text: string): void {
  process.stderr.write(`  ${text}\n`);
}

function wholeNumber(text: string): number {
  if (/^[1-9]\d{0,5}$/.test(text)) return Number(text);
  throw new InvalidArgumentError(`"${text}" is no whole number above 0.`);
}

function list<Item extends string>(known: readonly Item[]): (text: string, previous: Item[]) => Item[] {
  return (text) => {
    const wrong = text.split(",").find((name) => !known.includes(name as Item));
    if (wrong !== undefined) throw new InvalidArgumentError(`"${wrong}" is none of ${known.join(", ")}.`);
    return text.split(",") as Item[];
  };
}
