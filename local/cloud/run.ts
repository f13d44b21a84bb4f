import { spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { awsEnvironment, plainEnvironment } from "./environment.ts";
import { LocalCloudError } from "./errors.ts";
import type { Installation } from "./install.ts";
import { NODE_BINARY, runDirectory } from "./paths.ts";
import { choosePort } from "./ports.ts";
import { findByEnvironment, goneWithin, identify, isAlive, type ProcessIdentity, terminate } from "./process.ts";
import { type CloudState, clearState, readState, writeState } from "./state.ts";

/** A LocalStack that answers. */
export interface RunningLocalStack {
  endpoint: string;
  state: CloudState;
}

/** Five seconds on an idle machine; one that compiles and tests at the same time takes far longer. */
const READY_TIMEOUT_MS = 180_000;
const READY_POLL_MS = 100;
// There is nothing to save: what has not ended by then is killed, and what it started goes with it.
const STOP_GRACE_MS = 1_000;
const HELPER_GRACE_MS = 1_000;
// Marks all that belongs to a cloud, so that it is found without a record, too.
const RUN_DIRECTORY_VARIABLE = "SNAPFERRY_RUN_DIRECTORY";
const PORT_ATTEMPTS = 3;
const LOG_TAIL_LINES = 25;

/** How LocalStack is to run. */
export interface RunOptions {
  /** It ends with the present process, whatever ends that. */
  foreground: boolean;
  /** Something will be deployed: what state machines need is loaded meanwhile. */
  warmUp: boolean;
}

/**
 * Starts LocalStack in host mode and waits until it answers.
 *
 * @throws LocalCloudError it does not start; the message has the end of its log
 */
export async function startLocalStack(
  name: string,
  installation: Installation,
  options: RunOptions,
): Promise<RunningLocalStack> {
  for (let attempt = 1; ; attempt++) {
    const port = await choosePort(process.env.SNAPFERRY_PORT);
    try {
      return await startOnPort(name, installation, options, port);
    } catch (error) {
      await stopLocalStack(name);
      // Another cloud may have chosen the same port in the same second.
      const portTaken =
        error instanceof LocalCloudError && /address already in use|Couldn't listen on/i.test(error.message);
      if (!portTaken || process.env.SNAPFERRY_PORT || attempt === PORT_ATTEMPTS) throw error;
    }
  }
}

/**
 * Ends LocalStack, DynamoDB Local and all that they have started; also when LocalStack itself is dead already. Does
 * nothing when nothing runs.
 */
export async function stopLocalStack(name: string): Promise<void> {
  const localstack = readState(name)?.localstack;
  if (localstack) await terminate(localstack, STOP_GRACE_MS);
  // What it started goes with it, in a moment. What does not, because its reaper was killed too, is ended here.
  const helpers = findByEnvironment(RUN_DIRECTORY_VARIABLE, runDirectory(name));
  await Promise.all(helpers.map(async (helper) => (await goneWithin(helper, HELPER_GRACE_MS)) || terminate(helper, 0)));
  clearState(name);
}

async function startOnPort(
  name: string,
  installation: Installation,
  options: RunOptions,
  port: number,
): Promise<RunningLocalStack> {
  clearState(name);
  const { foreground } = options;
  const directory = runDirectory(name);
  const endpoint = `http://127.0.0.1:${port}`;
  const logFile = join(directory, "localstack.log");
  prepareFolders(directory, installation);

  const log = openSync(logFile, "w");
  const child = spawn(installation.python, ["-m", "localstack.runtime.main"], {
    cwd: directory,
    env: localStackEnvironment(directory, installation, port, options),
    // Descriptor 3 is the lifeline: nothing is ever written to it; it is at its end when this process is gone.
    stdio: ["ignore", log, log, foreground ? "pipe" : "ignore"],
    detached: true,
  });
  closeSync(log);
  const exited = new Promise<string>((done) => {
    child.once("error", (error) => done(error.message));
    child.once("exit", (code, signal) => done(`it ended with ${signal ?? `code ${code}`}`));
  });
  const localstack = child.pid === undefined ? undefined : identify(child.pid);
  const state: CloudState = {
    name,
    mode: foreground ? "foreground" : "background",
    endpoint,
    localstack,
    owner: foreground ? identify(process.pid) : undefined,
    startedAt: new Date().toISOString(),
    logFile,
  };
  writeState(state);
  child.unref();
  // An open pipe would keep the process waiting.
  const lifeline = child.stdio[3];
  if (lifeline && "unref" in lifeline && typeof lifeline.unref === "function") lifeline.unref();

  const failure = await Promise.race([exited, ready(endpoint, logFile, localstack)]);
  if (failure)
    throw new LocalCloudError(`LocalStack did not start (${failure}); the end of ${logFile}:\n${tail(logFile)}`);
  return { endpoint, state };
}

function prepareFolders(directory: string, installation: Installation): void {
  const libraries = join(directory, "root", "var", "lib", "localstack");
  for (const folder of [libraries, join(directory, "tmp"), join(directory, "home")])
    mkdirSync(folder, { recursive: true });
  symlinkSync(installation.libraries, join(libraries, "lib"));
}

function localStackEnvironment(
  directory: string,
  installation: Installation,
  port: number,
  { foreground, warmUp }: RunOptions,
): NodeJS.ProcessEnv {
  const address = `127.0.0.1:${port}`;
  const { AWS_ENDPOINT_URL: _, ...credentials } = awsEnvironment(`http://${address}`);
  return {
    ...plainEnvironment(),
    ...credentials,
    HOME: join(directory, "home"),
    TMPDIR: join(directory, "tmp"),
    FILESYSTEM_ROOT: join(directory, "root"),
    PYTHONPATH: installation.lambdaExecutor,
    PYTHONUNBUFFERED: "1",
    GATEWAY_LISTEN: address,
    LOCALSTACK_HOST: address,
    OVERRIDE_IN_DOCKER: "0",
    DNS_ADDRESS: "0",
    DISABLE_EVENTS: "1",
    SKIP_SSL_CERT_DOWNLOAD: "1",
    LS_LOG: process.env.SNAPFERRY_LOCALSTACK_LOG ?? "info",
    // The first version of the provider fetches a program for streams.
    PROVIDER_OVERRIDE_DYNAMODB: "v2",
    // Queue addresses of the other kinds need a domain name that resolves.
    SQS_ENDPOINT_STRATEGY: "path",
    // What cannot be deployed must fail, not be passed over in silence.
    CFN_IGNORE_UNSUPPORTED_RESOURCE_TYPES: "0",
    // Part of every bootstrapped account; our functions are no images.
    CFN_IGNORE_UNSUPPORTED_TYPE_CREATE: "AWS::ECR::Repository",
    LAMBDA_RUNTIME_EXECUTOR: "node-process",
    // Node takes 0.2 s to load a function, on a busy machine a hundred times as long.
    LAMBDA_RUNTIME_ENVIRONMENT_TIMEOUT: "60",
    // 50 to 90 MB each: idle workers are given up sooner than LocalStack's ten minutes.
    LAMBDA_KEEPALIVE_MS: "180000",
    SNAPFERRY_NODE: NODE_BINARY,
    SNAPFERRY_LIBRARIES: installation.libraries,
    [RUN_DIRECTORY_VARIABLE]: directory,
    SNAPFERRY_WARM_UP: warmUp ? "1" : "0",
    ...(foreground ? { SNAPFERRY_LIFELINE_FD: "3" } : {}),
  };
}

// Its own log has to say so, too: at the same port, another LocalStack might answer.
async function ready(
  endpoint: string,
  logFile: string,
  localstack: ProcessIdentity | undefined,
): Promise<string | undefined> {
  const deadline = Date.now() + READY_TIMEOUT_MS;
  while (Date.now() < deadline && localstack && isAlive(localstack)) {
    if (/^Ready\.$/m.test(readFileSync(logFile, "utf8")) && (await answers(endpoint))) return undefined;
    await sleep(READY_POLL_MS);
  }
  return `no answer within ${READY_TIMEOUT_MS / 1000} s`;
}

/** True when a LocalStack answers at this address. */
export async function answers(endpoint: string): Promise<boolean> {
  try {
    const response = await fetch(`${endpoint}/_localstack/health`, { signal: AbortSignal.timeout(2_000) });
    return response.ok && "services" in ((await response.json()) as object);
  } catch {
    return false;
  }
}

function tail(file: string): string {
  return readFileSync(file, "utf8").trimEnd().split("\n").slice(-LOG_TAIL_LINES).join("\n");
}
