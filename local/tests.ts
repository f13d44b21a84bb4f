/**
 * Runs the tests: `unit` of what runs on AWS and of the CLI, `stack` of what is deployed and of the local cloud's own parts,
 * `integration` on a local cloud that is started for it; all three if none is named. Parts of file names may follow, to run
 * only those files. What does not wait for anything else runs two at a time. Ends with the exit code of the first part that fails,
 * after all have run.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { glob } from "node:fs/promises";
import { PassThrough } from "node:stream";
import { pipeline } from "node:stream/promises";
import { LocalCloudError } from "./cloud/errors.ts";
import { startTestCloud } from "./test-cloud.ts";

const CLOUD_NAME = "test";

/** A part whose turn to be shown has not come does not wait for it. */
const mostOutputBytes = 16 * 1024 * 1024;

const patterns = {
  unit: ["{lambdas,cli}/**/*.test.ts", "test/*.test.ts"],
  stack: ["{bench,lib,local}/**/*.test.ts", "test/cdk/**/*.test.ts"],
  integration: ["test/integration/**/*.test.ts"],
};
type Part = keyof typeof patterns;
const parts = Object.keys(patterns) as Part[];

/** What the first of several at once says is shown as it comes, what the others say after it. */
let shown: Promise<unknown> = Promise.resolve();

const [first = "all", ...chosen] = process.argv.slice(2);
if (first !== "all" && !parts.includes(first as Part)) {
  console.error(`npm test takes ${parts.join(", ")} or all, not "${first}"`);
  process.exit(2);
}
try {
  const wanted = first === "all" ? parts : [first as Part];
  const codes = await Promise.all(wanted.filter((part) => part !== "integration").map(onThisMachine));
  if (wanted.includes("integration")) codes.push(await onCloud(await files(patterns.integration)));
  process.exitCode = codes.find((code) => code !== 0) ?? 0;
} catch (error) {
  if (!(error instanceof LocalCloudError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}

async function onThisMachine(part: Part): Promise<number> {
  return nodeTest(await files(patterns[part]), {}, ["--test-isolation=none"]);
}

async function onCloud(testFiles: readonly string[]): Promise<number> {
  if (testFiles.length === 0) return 0;
  const { cloud, environment } = await startTestCloud(CLOUD_NAME);
  try {
    return await nodeTest(testFiles, environment, [
      "--test-concurrency=1",
      "--test-force-exit",
      "--test-timeout=600000",
    ]);
  } finally {
    await cloud.stop();
  }
}

async function files(globs: readonly string[]): Promise<string[]> {
  const found = await Array.fromAsync(glob([...globs], { exclude: ["**/node_modules/**"] }));
  return chosen.length === 0 ? found.sort() : found.filter((file) => chosen.some((name) => file.includes(name)));
}

async function nodeTest(
  testFiles: readonly string[],
  environment: Readonly<Record<string, string>>,
  flags: readonly string[],
): Promise<number> {
  if (testFiles.length === 0) return 0;
  const child = spawn(process.execPath, ["--test", "--test-reporter=spec", ...flags, ...testFiles], {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, ...(process.stdout.isTTY && { FORCE_COLOR: "1" }), ...environment },
  });
  const ended = once(child, "exit");
  const output = new PassThrough({ highWaterMark: mostOutputBytes });
  child.stdout.pipe(output);
  const before = shown;
  shown = before.then(() => pipeline(output, process.stdout, { end: false }));
  const [[code]] = await Promise.all([ended, shown]);
  return code ?? 1;
}
