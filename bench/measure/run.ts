import { fork } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { BenchmarkError } from "../errors.ts";
import type { Command, Usage } from "./command.ts";

const accountant = join(import.meta.dirname, "account.ts");
const shownCharacters = 2_000;

/** Runs a command with its output in `logFile`. Throws BenchmarkError with the end of that when the command fails. */
export async function runMeasured(command: Command, logFile: string): Promise<Usage> {
  const log = openSync(logFile, "w");
  try {
    const usage = await account(command, log);
    if (usage.exitCode === 0) return usage;
    const ending = readFileSync(logFile, "utf8").trim().slice(-shownCharacters);
    throw new BenchmarkError(
      `${command.file} ended with ${usage.signal ?? usage.exitCode}; ${logFile} says:\n${ending}`,
    );
  } finally {
    closeSync(log);
  }
}

/** When this process ends early, the accountant loses its channel and ends the command. */
function account(command: Command, log: number): Promise<Usage> {
  const child = fork(accountant, [], { stdio: ["ignore", log, log, "ipc"] });
  return new Promise<Usage>((resolve, reject) => {
    child.once("message", (message: Usage | { failure: string }) => {
      if ("failure" in message) reject(new BenchmarkError(`${command.file} does not start: ${message.failure}`));
      else resolve(message);
    });
    child.once("error", reject);
    child.once("exit", () => reject(new BenchmarkError(`measuring ${command.file} broke off`)));
    child.send(command);
  }).finally(() => child.connected && child.disconnect());
}
