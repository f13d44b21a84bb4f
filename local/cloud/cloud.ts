import { mkdirSync } from "node:fs";
import { withFileLock } from "../file-lock.mjs";
import { apiUrl, type Deployment, deploy } from "./deploy.ts";
import { LocalCloudError } from "./errors.ts";
import { install } from "./install.ts";
import { onEndOfThisProcess } from "./owner.ts";
import { runDirectory } from "./paths.ts";
import { isAlive } from "./process.ts";
import { type ProgressListener, silentProgress, step } from "./progress.ts";
import { answers, startLocalStack, stopLocalStack } from "./run.ts";
import { type CloudState, isRunning, readState, writeState } from "./state.ts";
import { publishIssuer } from "./tokens.ts";

/** How to start a cloud. */
export interface CloudOptions {
  /** Clouds of different names in one checkout have nothing in common. Default: `default`. */
  name?: string;
  /** Told of every step. */
  onProgress?: ProgressListener;
  /** CDK context for the deployment, over the local defaults. */
  context?: Readonly<Record<string, string>>;
  /** The cloud ends with this process, however that ends. Otherwise it runs until `stopCloud`. Default: true. */
  foreground?: boolean;
  /** False starts the bare services, with nothing deployed. */
  deploy?: boolean;
  /** Folder with the cdk.json of the app to deploy. Default: this checkout. */
  app?: string;
}

/** A cloud in which something can be done. */
export interface Cloud {
  name: string;
  /** Address of all AWS services; also what AWS_ENDPOINT_URL has to be. */
  endpoint: string;
  /** Address of the API, without the stage and with no slash at its end: append `/v1/…`. */
  url: string;
  /** Outputs of the deployed stack. */
  outputs: Record<string, string>;
  /** Where LocalStack writes its log; undefined for an external cloud. */
  logFile: string | undefined;
  /** Ends the cloud and all that belongs to it. May be called again. Does nothing to a cloud that others keep. */
  stop(): Promise<void>;
}

/** Name of the cloud that `npm start` and `npm run local` use. */
export const DEFAULT_NAME = "default";

// For a cloud on this machine, the whole file system and this machine's own services are what is to be backed up. Its data goes
// with it, and a small machine copies two shards at a time.
const LOCAL_CONTEXT = {
  "file.roots": "/",
  "endpoints.allowed.cidrs": "127.0.0.0/8",
  "retain.data": "false",
  "backup.shard.concurrency": "2",
};

/**
 * Makes a local cloud ready: installs what it needs, starts it, deploys the app. One that runs already in the background is
 * used as it is. An address in AWS_ENDPOINT_URL is used instead of a cloud of our own.
 *
 * @throws LocalCloudError one sentence that says what is missing or in the way, and what to do
 */
export async function startCloud(options: CloudOptions = {}): Promise<Cloud> {
  const { name = DEFAULT_NAME, onProgress = silentProgress } = options;
  const directory = runDirectory(name);
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  return withFileLock(
    `${directory}.lock`,
    async () => (await useExisting(name, onProgress, options)) ?? startOwn(name, onProgress, options),
    (pid) => onProgress.note(`Waiting for process ${pid}, which is starting or stopping the same cloud …`),
  );
}

/** Ends a cloud by its record, whoever started it. Does nothing to an external one but to forget it. */
export async function stopCloud(name: string = DEFAULT_NAME): Promise<void> {
  await withFileLock(`${runDirectory(name)}.lock`, () => stopLocalStack(name));
}

async function useExisting(
  name: string,
  progress: ProgressListener,
  options: CloudOptions,
): Promise<Cloud | undefined> {
  const known = readState(name);
  const running = known && isRunning(known) ? known : undefined;
  const external = process.env.AWS_ENDPOINT_URL?.replace(/\/+$/, "");
  // `eval "$(npm run -s local -- env)"` has named our own cloud there.
  if (external && external !== running?.endpoint) {
    const state = await adopt(name, external, running);
    return deployed(state, progress, options, async () => {});
  }
  if (!running || running.mode === "external") return undefined;
  if (running.mode === "foreground" && running.owner && running.owner.pid !== process.pid) {
    if (!isAlive(running.owner)) return undefined;
    throw new LocalCloudError(
      `The local cloud "${name}" belongs to process ${running.owner.pid}, maybe npm start in another terminal; end that one first: npm run local -- down`,
    );
  }
  return (await answers(running.endpoint)) ? deployed(running, progress, options, async () => {}) : undefined;
}

async function startOwn(name: string, progress: ProgressListener, options: CloudOptions): Promise<Cloud> {
  const foreground = options.foreground ?? true;
  let starting = true;
  // While it starts, the lock is held here: waiting for it would take for ever.
  const stopOnce = once(() => (starting ? stopLocalStack(name) : stopCloud(name)));
  const release = foreground ? onEndOfThisProcess(stopOnce) : () => {};
  const stop = () => stopOnce().finally(release);
  try {
    await stopLocalStack(name);
    const installation = await install(progress);
    const { state } = await step(
      progress,
      "local cloud",
      () => startLocalStack(name, installation, { foreground, warmUp: options.deploy !== false }),
      ({ endpoint }) => `local cloud on ${endpoint}`,
    );
    return await deployed(state, progress, options, stop);
  } catch (error) {
    await stop();
    throw error;
  } finally {
    starting = false;
  }
}

async function adopt(name: string, endpoint: string, running: CloudState | undefined): Promise<CloudState> {
  if (running && running.mode !== "external") {
    throw new LocalCloudError(
      `The local cloud "${name}" runs on ${running.endpoint}, but AWS_ENDPOINT_URL names ${endpoint}; end the one (npm run local -- down) or forget the other (unset AWS_ENDPOINT_URL).`,
    );
  }
  if (!(await answers(endpoint))) {
    throw new LocalCloudError(
      `No LocalStack answers at ${endpoint} (AWS_ENDPOINT_URL); start it, or have one started here: unset AWS_ENDPOINT_URL`,
    );
  }
  const state: CloudState = {
    name,
    mode: "external",
    endpoint,
    startedAt: new Date().toISOString(),
    outputs: running?.endpoint === endpoint ? running.outputs : undefined,
  };
  writeState(state);
  return state;
}

async function deployed(
  state: CloudState,
  progress: ProgressListener,
  options: CloudOptions,
  stop: () => Promise<void>,
): Promise<Cloud> {
  const current = options.deploy === false || state.outputs ? state : await deployApp(state, progress, options);
  const outputs = current.outputs ?? {};
  return {
    name: state.name,
    endpoint: state.endpoint,
    url: outputs.ApiId ? apiUrl(state.endpoint, outputs) : state.endpoint,
    outputs,
    logFile: state.logFile,
    stop,
  };
}

async function deployApp(state: CloudState, progress: ProgressListener, options: CloudOptions): Promise<CloudState> {
  const { name, endpoint } = state;
  const describe = ({ resources }: Deployment) => `deploy (${resources} resources)`;
  const { outputs } = await step(
    progress,
    "deploy",
    async () => {
      const { issuer, audience, jwksUrl } = await publishIssuer(name, endpoint);
      const auth = { "auth.issuer": issuer, "auth.audience": audience, "auth.jwksUrl": jwksUrl };
      return deploy({ name, endpoint, app: options.app, context: { ...LOCAL_CONTEXT, ...auth, ...options.context } });
    },
    describe,
  );
  const updated = { ...state, outputs };
  writeState(updated);
  return updated;
}

function once(work: () => Promise<void>): () => Promise<void> {
  let result: Promise<void> | undefined;
  return () => (result ??= work());
}
