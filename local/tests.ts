/**
 * Runs the tests: `unit` without the cloud, `integration` on a local cloud of its own, or both. File names may follow, to
 * run only those. Ends with the exit code of the first part that fails, after all have run.
 */
import { spawn } from "node:child_process";
import { glob } from "node:fs/promises";
import { startCloud } from "./cloud/cloud.ts";
import { LocalCloudError } from "./cloud/errors.ts";
import { consoleProgress } from "./cloud/progress.ts";

const CLOUD_NAME = "test";

/** Short times, so that what takes minutes in service takes seconds here. */
const CONTEXT = {
  "backup.retry.interval": "1",
  "backup.pool.size": "2",
  "reconcile.after": "2",
  "late.writer.grace": "3",
  "error.grace": "3600",
};

const patterns = {
  unit: ["{lambdas,cli,lib,local,bench}/**/*.test.ts", "test/*.test.ts", "test/cdk/**/*.test.ts"],
  integration: ["test/integration/**/*.test.ts", "test/faults/**/*.test.ts"],
};

const [part = "all", ...chosen] = process.argv.slice(2);
if (!["unit", "integration", "all"].includes(part)) {
  console.error(`npm test takes unit, integration or all, not "${part}"`);
  process.exit(2);
}
try {
  const codes: number[] = [];
  if (part !== "integration") codes.push(await runUnit());
  if (part !== "unit") codes.push(await runIntegration());
  process.exitCode = codes.find((code) => code !== 0) ?? 0;
} catch (error) {
  if (!(error instanceof LocalCloudError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}

async function runUnit(): Promise<number> {
  return nodeTest(await files(patterns.unit), {}, []);
}

async function runIntegration(): Promise<number> {
  const cloud = await startCloud({ name: CLOUD_NAME, context: CONTEXT, onProgress: consoleProgress() });
  try {
    const { name, endpoint, url, outputs } = cloud;
    const environment = {
      SNAPFERRY_TEST_CLOUD: JSON.stringify({ name, endpoint, url, outputs }),
      AWS_ENDPOINT_URL: endpoint,
    };
    return await nodeTest(await files(patterns.integration), environment, ["--test-concurrency=1"]);
  } finally {
    await cloud.stop();
  }
}

async function files(globs: readonly string[]): Promise<string[]> {
  const found = await Array.fromAsync(glob([...globs], { exclude: ["**/node_modules/**"] }));
  return chosen.length === 0 ? found.sort() : found.filter((file) => chosen.some((name) => file.includes(name)));
}

function nodeTest(
  testFiles: readonly string[],
  environment: Readonly<Record<string, string>>,
  flags: readonly string[],
): Promise<number> {
  if (testFiles.length === 0) return Promise.resolve(0);
  const child = spawn(process.execPath, ["--test", ...flags, ...testFiles], {
    stdio: "inherit",
    env: { ...process.env, ...environment },
  });
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("exit", (code) => resolve(code ?? 1));
  });
}
