/** What a KVM host on this machine is made of: its servers, a folder for their files, and tools. */
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, type NetConnectOpts } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { LocalCloudError } from "../cloud/errors.ts";
import { endServer, hasEnded, onLifeline } from "../lifeline.ts";

const readyTimeoutMs = 30_000;
const readyPollMs = 20;
const stopGraceMs = 5_000;
const outputTail = 2_000;

export interface Server {
  readonly pid: number;
  /** What it has written so far, the end of it. */
  output(): string;
  /** A repetition does nothing. */
  stop(signal?: NodeJS.Signals): Promise<void>;
}

/**
 * Starts a server, which ends with this process, and waits until it is `ready`, which is asked with the end of its output so far. Throws LocalCloudError
 * with that when it does not come about.
 */
export async function startServer(
  command: readonly string[],
  ready: (output: string) => boolean | Promise<boolean>,
): Promise<Server> {
  const child = spawn(...onLifeline(command), { stdio: ["pipe", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (bytes: Buffer) => {
      output = (output + bytes).slice(-outputTail);
    });
  }
  const stop = (signal?: NodeJS.Signals) => endServer(child, stopGraceMs, signal);
  for (const deadline = Date.now() + readyTimeoutMs; !(await ready(output)); await pause(readyPollMs)) {
    if (!hasEnded(child) && Date.now() < deadline) continue;
    await stop("SIGKILL");
    throw new LocalCloudError(`${command[0]} did not start:\n${output}`);
  }
  return { pid: child.pid!, output: () => output, stop };
}

/** For {@link startServer}: whether connections are taken there. */
export function accepts(address: NetConnectOpts): () => Promise<boolean> {
  return () => {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const socket = connect(address);
    socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    return promise.finally(() => socket.destroy());
  };
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
