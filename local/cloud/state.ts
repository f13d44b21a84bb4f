import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { runDirectory } from "./paths.ts";
import { isAlive, type ProcessIdentity } from "./process.ts";

/** Who keeps a cloud: the terminal that started it, nobody (it runs until `down`), or somebody else altogether. */
export type CloudMode = "foreground" | "background" | "external";

/** What is on record of a cloud, in `.snapferry/run/NAME/state.json`. */
export interface CloudState {
  name: string;
  mode: CloudMode;
  /** Address of all AWS services. */
  endpoint: string;
  /** LocalStack's process; missing when the cloud is an external one. */
  localstack?: ProcessIdentity;
  /** The process that a foreground cloud ends with. */
  owner?: ProcessIdentity;
  /** ISO 8601. */
  startedAt: string;
  logFile?: string;
  /** Outputs of the deployed stack; missing before the first deployment. */
  outputs?: Record<string, string>;
}

const STATE_FILE = "state.json";

/** @returns undefined when there is no record of a cloud of this name, or one that cannot be read */
export function readState(name: string): CloudState | undefined {
  return readJson<CloudState>(join(runDirectory(name), STATE_FILE));
}

/** Replaces the record at once, so that no reader ever sees a part of it. */
export function writeState(state: CloudState): void {
  writePrivately(join(runDirectory(state.name), STATE_FILE), JSON.stringify(state, null, 2));
}

/** The cloud is gone: its record, its objects and its temporary files go, its log stays. */
export function clearState(name: string): void {
  const directory = runDirectory(name);
  for (const entry of [STATE_FILE, ...EPHEMERAL]) {
    rmSync(join(directory, entry), { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  }
}

/** Folders and files of a run that mean nothing to the next one. */
const EPHEMERAL = ["root", "tmp", "home", "cdk.out", "outputs.json", "issuer.json"];

/** True when the recorded cloud can be used: its LocalStack lives, or somebody else keeps it. */
export function isRunning(state: CloudState): boolean {
  return state.mode === "external" || (state.localstack !== undefined && isAlive(state.localstack));
}

/** Writes a file that only its owner can read, and that is there whole or not at all. */
export function writePrivately(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true });
  const draft = `${path}.${process.pid}.tmp`;
  writeFileSync(draft, text, { mode: 0o600 });
  renameSync(draft, path);
}

/** @returns undefined when the file is missing or not JSON */
export function readJson<T>(path: string): T | undefined {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as T;
  } catch {
    return undefined;
  }
}
