/**
 * Runs the tests: `unit` of what runs on AWS and of the CLI, `stack` of what is deployed and of the local cloud's own parts,
 * `integration` on a local cloud that is started for it; all three if none is named. Parts of file names may follow, to run
 * only those files. Ends with the exit code of the first part that fails, after all have run.
 */
import { spawn } from "node:child_process";
import { glob } from "node:fs/promises";
import { startCloud } from "./cloud/cloud.ts";
import { LocalCloudError } from "./cloud/errors.ts";
import { consoleProgress } from "./cloud/progress.ts";

const CLOUD_NAME = "test";

/** Short times, so that what takes minutes in service takes seconds here; and a key, so that stores can be encrypted. */
const CONTEXT = {
  "backup.retry.interval": "1",
  "backup.pool.size": "2",
  "reconcile.after": "2",
  "late.writer.grace": "3",
  "error.grace": "3600",
  "encryption.key": "create",
};

const patterns = {
  unit: ["{lambdas,cli}/**/*.test.ts", "test/*.test.ts"],
  stack: ["{bench,lib,local}/**/*.test.ts", "test/cdk/**/*.test.ts"],
  integration: ["test/integration/**/*.test.ts"],
};
type Part = keyof typeof patterns;
const parts = Object.keys(patterns) as Part[];

const [first = "all", ...chosen] = process.argv.slice(2);
if (first !== "all" && !parts.includes(first as Part)) {
  console.error(`npm test takes ${parts.join(", ")} or all, not "${first}"`);
  process.exit(2);
}
try {
  const codes: number[] = [];
  for (const part of first === "all" ? parts : [first as Part]) {
    const testFiles = await files(patterns[part]);
    codes.push(
      part === "integration" ? await onCloud(testFiles) : await nodeTest(testFiles, {}, ["--test-isolation=none"]),
    );
  }
  process.exitCode = codes.find((code) => code !== 0) ?? 0;
} catch (error) {
  if (!(error instanceof LocalCloudError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}

async function onCloud(testFiles: readonly string[]): Promise<number> {
  if (testFiles.length === 0) return 0;
  const cloud = await startCloud({ name: CLOUD_NAME, context: CONTEXT, onProgress: consoleProgress() });
  try {
    const { name, endpoint, url, outputs } = cloud;
    const environment = {
      SNAPFERRY_TEST_CLOUD: JSON.stringify({ name, endpoint, url, outputs }),
      AWS_ENDPOINT_URL: endpoint,
    };
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
