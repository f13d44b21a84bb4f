/** Servers that tests start: they end with the test, whatever ends that, and only by their own pid. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

const readyTimeoutMs = 30_000;
const readyPollMs = 20;
const stopGraceMs = 5_000;
const outputTail = 2_000;

/** Becomes the server under the same pid, and leaves a child that kills it once stdin is at its end: when the process that holds the pipe is gone. */
const lifeline = 'exec 3<&0; (cat <&3 >/dev/null; kill -9 $$ 2>/dev/null) & exec "$@" </dev/null 3<&-';

export interface Server {
  readonly pid: number;
  /** What it has written so far, the end of it. */
  output(): string;
  /** A repetition does nothing. */
  stop(signal?: NodeJS.Signals): Promise<void>;
}

/** Starts a server and waits until `ready`. Throws with the end of its output when that does not come about. */
export async function startServer(
  command: readonly string[],
  ready: () => boolean | Promise<boolean>,
): Promise<Server> {
  const child = spawn("sh", ["-c", lifeline, "sh", ...command], { stdio: ["pipe", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (bytes: Buffer) => {
      output = (output + bytes).slice(-outputTail);
    });
  }
  const stop = (signal: NodeJS.Signals = "SIGTERM") => end(child, signal);
  for (const deadline = Date.now() + readyTimeoutMs; !(await ready()); await pause(readyPollMs)) {
    if (!hasEnded(child) && Date.now() < deadline) continue;
    await stop("SIGKILL");
    throw new Error(`${command[0]} did not start:\n${output}`);
  }
  return { pid: child.pid!, output: () => output, stop };
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (hasEnded(child)) return;
  const ended = once(child, "exit");
  child.kill(signal);
  const patience = setTimeout(() => child.kill("SIGKILL"), stopGraceMs);
  await ended;
  clearTimeout(patience);
  // Sessions of an SSH server outlive it as long as their clients hold them, and its pipes with them.
  for (const stream of [child.stdin, child.stdout, child.stderr]) stream?.destroy();
}

/** For {@link startServer}: whether a file, a socket for example, is there. */
export function exists(path: string): () => boolean {
  return () => existsSync(path);
}

export interface WorkFolder {
  readonly path: string;
  file(name: string): string;
  remove(): void;
}

export function workFolder(): WorkFolder {
  const path = mkdtempSync(join(tmpdir(), "snapferry-kvm-"));
  return { path, file: (name) => join(path, name), remove: () => rmSync(path, { recursive: true, force: true }) };
}

/** Runs a tool to its end and returns what it wrote. */
export function run(command: string, ...args: readonly string[]): string {
  return execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

/** A port of the loopback interface that is free now. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  return address !== null && typeof address === "object" ? address.port : 0;
}
