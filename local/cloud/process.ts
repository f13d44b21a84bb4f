import { type ChildProcess, spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { processStartTime } from "../file-lock.mjs";
import { LocalCloudError } from "./errors.ts";

/** Names one process for good: a pid alone is given to another process sooner or later. */
export interface ProcessIdentity {
  pid: number;
  /** As in /proc/PID/stat: clock ticks since boot. */
  startTime: string;
}

/** @returns undefined when there is no such process (any more) */
export function identify(pid: number): ProcessIdentity | undefined {
  const startTime = processStartTime(pid);
  return startTime === undefined ? undefined : { pid, startTime };
}

/** True while exactly this process lives; false also when its pid now belongs to another one. */
export function isAlive(identity: ProcessIdentity): boolean {
  return processStartTime(identity.pid) === identity.startTime;
}

/**
 * Ends a process and everything in its process group, if it leads one: politely, and by SIGKILL after the grace.
 *
 * @param graceMs milliseconds between SIGTERM and SIGKILL; 0 is SIGKILL at once
 * @returns when the process is gone
 */
export async function terminate(identity: ProcessIdentity, graceMs: number): Promise<void> {
  if (graceMs > 0) signal(identity, "SIGTERM");
  if (await goneWithin(identity, graceMs)) return;
  signal(identity, "SIGKILL");
  await goneWithin(identity, 10_000);
}

/** All processes of this user that have a variable in their environment as they were started with it. */
export function findByEnvironment(name: string, value: string): ProcessIdentity[] {
  const wanted = `${name}=${value}`;
  return readdirSync("/proc")
    .filter((entry) => /^\d+$/.test(entry) && environmentOf(entry).includes(wanted))
    .map((pid) => identify(Number(pid)))
    .filter((identity) => identity !== undefined);
}

function environmentOf(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/environ`, "utf8").split("\0");
  } catch {
    // Gone, or somebody else's.
    return [];
  }
}

/** Waits until a process is gone. */
export async function goneWithin(identity: ProcessIdentity, milliseconds: number): Promise<boolean> {
  const deadline = Date.now() + milliseconds;
  while (isAlive(identity)) {
    if (Date.now() >= deadline) return false;
    await sleep(50);
  }
  return true;
}

function signal(identity: ProcessIdentity, name: NodeJS.Signals): void {
  if (!isAlive(identity)) return;
  try {
    // SIGKILL goes to the group, so that helpers which share it do not outlive their leader.
    process.kill(name === "SIGKILL" ? -identity.pid : identity.pid, name);
  } catch {
    try {
      process.kill(identity.pid, name);
    } catch {
      // Gone between the check and the signal.
    }
  }
}

const children = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of children) child.kill("SIGKILL");
});

/** How to run a command to its end. */
export interface CommandOptions {
  cwd?: string;
  env: NodeJS.ProcessEnv;
  /** Milliseconds until it is killed. */
  timeoutMs?: number;
  signal?: AbortSignal;
  /** Called with each piece of output as it comes. */
  onOutput?: (text: string) => void;
}

/** What a finished command left. */
export interface CommandResult {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a command to its end; it does not outlive this process. A command that cannot be started or was killed has code -1. */
export function run(command: string, args: readonly string[], options: CommandOptions): Promise<CommandResult> {
  return new Promise((done) => {
    const child = spawn(command, args, {
      cwd: options.cwd,
      env: options.env,
      stdio: ["ignore", "pipe", "pipe"],
      timeout: options.timeoutMs,
      killSignal: "SIGKILL",
      signal: options.signal,
    });
    children.add(child);
    child.on("close", () => children.delete(child));
    const output = { stdout: "", stderr: "" };
    for (const name of ["stdout", "stderr"] as const) {
      child[name].setEncoding("utf8").on("data", (text: string) => {
        output[name] += text;
        options.onOutput?.(text);
      });
    }
    child.on("error", (error) => done({ code: -1, ...output, stderr: `${output.stderr}${error.message}\n` }));
    child.on("close", (code) => done({ code: code ?? -1, ...output }));
  });
}

const TAIL_LINES = 25;

/**
 * Runs a command that has to succeed.
 *
 * @throws LocalCloudError with the end of its output and the given advice
 */
export async function runOrFail(
  command: string,
  args: readonly string[],
  options: CommandOptions & { what: string; advice: string },
): Promise<CommandResult> {
  const result = await run(command, args, options);
  if (result.code !== 0) {
    const tail = `${result.stdout}\n${result.stderr}`.trim().split("\n").slice(-TAIL_LINES).join("\n");
    throw new LocalCloudError(`${options.what} failed:\n${tail}\n\n${options.advice}`);
  }
  return result;
}
