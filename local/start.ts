/** `npm start`: the local cloud, a volume to work on, the main job before the user's eyes, and how to go on. */
import { link, mkdir, mkdtemp, readdir, realpath, rm, stat, statfs } from "node:fs/promises";
import path from "node:path";
import { Command, InvalidArgumentError, Option } from "commander";
import { type Client, createClient, everyItem } from "../cli/api-client.ts";
import { type Cloud, startCloud } from "./cloud/cloud.ts";
import { LocalCloudError } from "./cloud/errors.ts";
import { runDirectory } from "./cloud/paths.ts";
import { consoleProgress } from "./cloud/progress.ts";
import { issueToken } from "./cloud/tokens.ts";
import { startKvmVolume } from "./demo/kvm-volume.ts";
import { restoredName, runMainJob } from "./demo/main-job.ts";
import { type DemoReport, jsonReport, textReport } from "./demo/reports.ts";
import { writeSampleVolume } from "./demo/sample-volume.ts";
import { formatSize, parseSize } from "./demo/sizes.ts";
import { fileVolume } from "./demo/volumes.ts";

const tenant = "demo";

interface StartOptions {
  once?: boolean;
  json?: boolean;
  volume?: string;
  kvm?: boolean;
  size: number;
}

const program = new Command("npm start --")
  .description("Brings up a local cloud and runs the main job on it: snapshot, separate backup, restore, comparison.")
  .option("--once", "end after the main job, with exit code 0 only if the restored bytes are equal")
  .option("--json", "one JSON object for each step on standard output")
  .addOption(new Option("--volume <file>", "a file of your own to work on; it is only read").conflicts("size"))
  .addOption(
    new Option("--size <size>", "size of the sample volume, as 512MiB or 4GiB")
      .argParser(sampleSize)
      .default(2 ** 30, "1GiB"),
  )
  .addOption(
    new Option("--kvm", "on the disk of a running VM; as root, with libvirt, QEMU and OpenSSH").conflicts([
      "size",
      "volume",
    ]),
  )
  .addHelpText(
    "after",
    "\nExamples:\n  npm start -- --once --json\n  npm start -- --volume ./disk.raw\n  npm start -- --size 4GiB\n  sudo npm start -- --kvm",
  )
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2))
  .showHelpAfterError();
program.parse();
const options = program.opts<StartOptions>();
const report: DemoReport = options.json ? jsonReport(process.stdout) : textReport(process.stdout);

let cloud: Cloud | undefined;
let returnBorrowed: () => Promise<void> = async () => {};
let kvm: Awaited<ReturnType<typeof startKvmVolume>> | undefined;
let finishing: Promise<never> | undefined;
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => void finish(options.once ? 130 : 0));
}
try {
  const file = options.volume && (await ownVolume(options.volume));
  if (!options.json)
    console.log(
      "Snapferry · local cloud without Docker   the first start installs about 1.3 GB into node_modules/ and .snapferry/",
    );
  cloud = await startCloud({ onProgress: consoleProgress(process.stderr) });
  report.cloud({ endpoint: cloud.endpoint, url: cloud.url });
  const directory = path.join(runDirectory(cloud.name), "volumes");
  await mkdir(directory, { recursive: true });
  const restoreDirectory = await realpath(directory);
  const client = createClient({ url: cloud.url, token: await issueToken(cloud.name, { tenant, role: "admin" }) });
  await removeLeftovers(client, restoreDirectory);
  if (options.kvm) kvm = await startKvmVolume({ endpoint: cloud.endpoint, tenant });
  const ofFile = async () =>
    fileVolume(file ? await borrowed(file, path.dirname(restoreDirectory)) : await sample(restoreDirectory));
  const result = await runMainJob({ client, volume: kvm ?? (await ofFile()), restoreDirectory, report });
  report.done(result);
  if (options.once) await finish(result.equal ? 0 : 1);
  else await stayUp(cloud);
} catch (error) {
  report.error((error as Error).message);
  if (options.json) console.error((error as Error).message);
  if (!(error instanceof LocalCloudError) && process.env.DEBUG) console.error(error);
  await finish(1);
}

/** The first reason to end counts: what a signal ends makes the main job fail, too. */
function finish(code: number): Promise<never> {
  finishing ??= end(code);
  return finishing;
}

async function end(code: number): Promise<never> {
  await returnBorrowed();
  // Workers first: they would open again what goes with the host.
  await cloud?.stop();
  await kvm?.[Symbol.asyncDispose]();
  process.exit(code);
}

async function stayUp({ name, url, endpoint }: Cloud): Promise<void> {
  const volumes = path.relative(process.cwd(), path.join(runDirectory(name), "volumes"));
  const token = await issueToken(name, { tenant, role: "admin" });
  console.log(`
Go on, in another terminal:
  eval "$(npm run -s local -- env)"
  npx snapferry snapshots ls
  ${kvm ? "npx snapferry vms ls" : "npx snapferry snapshots create sample-1 --async --watch"}
  npx snapferry jobs ls

  SNAPFERRY_URL   ${url}
  SNAPFERRY_TOKEN ${token}
  AWS             ${endpoint}
  volumes         ${volumes}
Ctrl-C stops everything.`);
  // The cloud is watched by its own process; this one only waits for a signal.
  setInterval(() => {}, 2 ** 30);
}

async function sample(directory: string): Promise<string> {
  const file = path.join(directory, "sample-1");
  const there = await stat(file).catch(() => undefined);
  if (there?.size === options.size) return file;
  await requireRoom(directory);
  await writeSampleVolume({
    file,
    size: options.size,
    seed: "snapferry",
    source: path.join(import.meta.dirname, "..", "node_modules", "aws-cdk-lib"),
    onProgress: (bytesDone, bytesTotal) => report.preparing({ bytesDone, bytesTotal }),
  });
  return file;
}

/** What was restored in an earlier cloud, which no longer exists, is nobody's. */
async function removeLeftovers(client: Client, directory: string): Promise<void> {
  for await (const hypervisor of everyItem(client.hypervisors.list)) if (hypervisor.directory === directory) return;
  for (const name of await readdir(directory))
    if (name === ".snapferry" || restoredName.test(name)) await rm(path.join(directory, name), { recursive: true });
}

/** Half of the sample is allocated; frozen and restored it is there three times, and compressed in the store. */
async function requireRoom(directory: string): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  const [needed, free] = [options.size * 1.75, bavail * bsize];
  if (needed > free)
    throw new LocalCloudError(
      `A sample of ${formatSize(options.size)} needs about ${formatSize(needed)} in ${directory}, and ${formatSize(free)} are free; take a smaller --size.`,
    );
}

async function ownVolume(name: string): Promise<string> {
  const file = await realpath(name).catch(() => fail(`--volume: there is no file ${name}`));
  if (!(await stat(file)).isFile()) return fail(`--volume: ${name} is not a plain file`);
  if (path.basename(file).startsWith("."))
    return fail(`--volume: the name of ${name} begins with a dot; such files are not taken for volumes`);
  return file;
}

/**
 * The user's file under a second name in a directory of ours, so that nothing is written beside it; where that cannot be (another
 * file system, another owner), the file where it is.
 */
async function borrowed(file: string, directory: string): Promise<string> {
  const own = path.join(await mkdtemp(path.join(directory, "own-")), path.basename(file));
  try {
    await link(file, own);
  } catch {
    await rm(path.dirname(own), { recursive: true });
    return file;
  }
  returnBorrowed = () => rm(path.dirname(own), { recursive: true, force: true });
  return own;
}

function fail(message: string): never {
  report.error(message);
  if (options.json) console.error(message);
  process.exit(2);
}

function sampleSize(text: string): number {
  const bytes = parseSize(text);
  if (bytes === undefined) throw new InvalidArgumentError("A size is a number with KiB, MiB, GiB or TiB, as in 4GiB.");
  return bytes;
}
