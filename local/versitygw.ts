/**
 * versitygw, an S3 gateway on a directory: a second S3 besides LocalStack's, for tests and measurements. It is built once
 * from its pinned version, through the Go proxy, with checksums from Go's checksum database.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { plainEnvironment } from "./cloud/environment.ts";
import { LocalCloudError } from "./cloud/errors.ts";
import { cacheRoot } from "./cloud/paths.ts";
import { choosePort } from "./cloud/ports.ts";
import { run } from "./cloud/process.ts";
import { consoleProgress, step } from "./cloud/progress.ts";
import { withFileLock } from "./file-lock.mjs";
import { endServer, hasEnded, onLifeline } from "./lifeline.ts";

const VERSION = "v1.8.0";
const PACKAGE = `github.com/versity/versitygw/cmd/versitygw@${VERSION}`;
/** The build takes 4 to 6 minutes with empty caches on two busy cores. */
const BUILD_TIMEOUT_MS = 1_800_000;
const READY_TIMEOUT_MS = 30_000;
const READY_POLL_MS = 20;
const STOP_GRACE_MS = 2_000;
const PORT_ATTEMPTS = 3;
const LOG_TAIL_CHARACTERS = 2_000;

/**
 * Makes sure that the gateway is built; takes a few milliseconds when it is. Says on stderr what it does.
 *
 * @returns path of the binary
 * @throws LocalCloudError when there is no Go, or the build fails
 */
export async function installVersitygw(): Promise<string> {
  const directory = join(cacheRoot(), `versitygw-${VERSION}`);
  const binary = join(directory, "versitygw");
  if (existsSync(binary)) return binary;
  const progress = consoleProgress();
  await withFileLock(
    `${directory}.lock`,
    async () => {
      if (existsSync(binary)) return;
      const title = `versitygw ${VERSION}, built with Go`;
      await step(
        progress,
        title,
        () => build(directory),
        () => title,
      );
    },
    (pid) => progress.note(`Waiting for process ${pid}, which is building versitygw …`),
  );
  return binary;
}

/** The directory appears with the binary in it or not at all. */
async function build(directory: string): Promise<void> {
  await requireGo();
  const draft = `${directory}.tmp`;
  rmSync(draft, { recursive: true, force: true });
  mkdirSync(draft, { recursive: true });
  const env = { ...process.env, GOBIN: draft, CGO_ENABLED: "0" };
  const commandLine = ["install", "-trimpath", "-ldflags=-s -w", PACKAGE];
  const result = await run("go", commandLine, { env, timeoutMs: BUILD_TIMEOUT_MS });
  if (result.code !== 0) {
    rmSync(draft, { recursive: true, force: true });
    throw new LocalCloudError(
      `versitygw cannot be built (${lastLine(result.stderr)}): look at the network, and that Go is 1.25 or newer, and run this again.`,
    );
  }
  rmSync(directory, { recursive: true, force: true });
  renameSync(draft, directory);
}

async function requireGo(): Promise<void> {
  const { code } = await run("go", ["version"], { env: process.env });
  if (code === 0) return;
  throw new LocalCloudError(
    "versitygw is built with Go and there is no go on the PATH: install Go 1.25 or newer from https://go.dev/dl/ and run this again.",
  );
}

function lastLine(text: string): string {
  return text.trim().split("\n").at(-1) ?? "";
}

export interface VersitygwOptions {
  /** An existing directory to keep objects and logs below, in folders that `stop` leaves; by default a temporary one that `stop` removes. */
  readonly directory?: string;
  /** Whether buckets can have versions and Object Lock. Default true. */
  readonly versioning?: boolean;
}

export interface RunningVersitygw {
  readonly endpoint: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly pid: number;
  /** A folder in it is a bucket, a file in that an object. */
  readonly rootDirectory: string;
  /** File with one line for each request. */
  readonly accessLog: string;
  /** Ends the gateway; a repetition does nothing. */
  stop(): Promise<void>;
}

/**
 * Starts the gateway on a free port of the loopback interface and waits until it answers. It ends with this process, whatever ends that.
 *
 * @throws LocalCloudError it does not start; the message has the end of its log
 */
export async function startVersitygw(options: VersitygwOptions = {}): Promise<RunningVersitygw> {
  const binary = await installVersitygw();
  const directory = options.directory ? resolve(options.directory) : mkdtempSync(join(tmpdir(), "versitygw-"));
  const remove = () => {
    if (!options.directory) rmSync(directory, { recursive: true, force: true });
  };
  for (let attempt = 1; ; attempt++) {
    const gateway = launch(binary, directory, await choosePort(undefined), options.versioning ?? true);
    const failure = await ready(gateway);
    if (!failure) return running(gateway, remove);
    await endServer(gateway.child, STOP_GRACE_MS);
    const log = readFileSync(gateway.log, "utf8");
    // Somebody else may have chosen the same port in the same moment.
    if (attempt < PORT_ATTEMPTS && /address already in use/i.test(log)) continue;
    remove();
    throw new LocalCloudError(`versitygw did not start (${failure}):\n${log.slice(-LOG_TAIL_CHARACTERS)}`);
  }
}

interface Gateway {
  readonly child: ChildProcess;
  readonly endpoint: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly rootDirectory: string;
  readonly accessLog: string;
  readonly log: string;
}

const HEALTH = "/ready";

function launch(binary: string, directory: string, port: number, versioning: boolean): Gateway {
  const rootDirectory = join(directory, "root");
  const versions = join(directory, "versions");
  for (const folder of [rootDirectory, versions]) mkdirSync(folder, { recursive: true });
  const accessLog = join(directory, "access.log");
  const log = join(directory, "versitygw.log");
  const accessKeyId = "snapferry";
  const secretAccessKey = randomBytes(20).toString("hex");
  const gateway = ["--port", `127.0.0.1:${port}`, "--keep-alive", "--quiet", "--access-log", accessLog];
  const backend = ["posix", ...(versioning ? ["--versioning-dir", versions] : []), rootDirectory];
  const output = openSync(log, "w");
  const child = spawn(...onLifeline([binary, ...gateway, "--health", HEALTH, ...backend]), {
    cwd: directory,
    env: { ...plainEnvironment(), ROOT_ACCESS_KEY_ID: accessKeyId, ROOT_SECRET_ACCESS_KEY: secretAccessKey },
    stdio: ["pipe", output, output],
  });
  closeSync(output);
  // Neither the gateway nor the pipe to it keeps this process waiting.
  child.unref();
  if (child.stdin && "unref" in child.stdin && typeof child.stdin.unref === "function") child.stdin.unref();
  return { child, endpoint: `http://127.0.0.1:${port}`, accessKeyId, secretAccessKey, rootDirectory, accessLog, log };
}

/** Waits until it answers; else what is wrong. */
async function ready({ child, endpoint }: Gateway): Promise<string | undefined> {
  const deadline = Date.now() + READY_TIMEOUT_MS;
  while (Date.now() < deadline) {
    if (hasEnded(child)) return `it ended with ${child.signalCode ?? `code ${child.exitCode}`}`;
    const answer = await fetch(endpoint + HEALTH).catch(() => undefined);
    await answer?.body?.cancel();
    if (answer?.ok) return undefined;
    await sleep(READY_POLL_MS);
  }
  return `no answer within ${READY_TIMEOUT_MS / 1000} s`;
}

function running({ child, log: _, ...gateway }: Gateway, remove: () => void): RunningVersitygw {
  return {
    ...gateway,
    pid: child.pid ?? 0,
    stop: async () => {
      await endServer(child, STOP_GRACE_MS);
      remove();
    },
  };
}
