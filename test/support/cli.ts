/** The command line as a process of its own, as people run it. */
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";

const program = path.join(import.meta.dirname, "..", "..", "bin", "snapferry.mjs");

export interface CliRun {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

export interface CliOptions {
  /** All that the process is told, beside PATH and a HOME of its own. */
  readonly env?: Readonly<Record<string, string>>;
  /** Called with each piece of stderr and a function that sends Ctrl-C. */
  readonly onErr?: (text: string, interrupt: () => void) => void;
}

export async function runCommand(args: readonly string[], { env = {}, onErr }: CliOptions = {}): Promise<CliRun> {
  const HOME = await mkdtemp(path.join(tmpdir(), "snapferry-home-"));
  const child = spawn(process.execPath, [program, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { PATH: process.env.PATH ?? "", HOME, ...env },
  });
  let out = "";
  let err = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    out += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    err += text;
    onErr?.(text, () => child.kill("SIGINT"));
  });
  const ended = new Promise<CliRun>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, out, err }));
  });
  return ended.finally(() => rm(HOME, { recursive: true }));
}
