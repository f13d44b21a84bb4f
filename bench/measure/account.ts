/**
 * Runs one command to its end and tells its parent what it used. A process of its own for each command, because `getrusage` of
 * children adds up: the peak of memory would be that of the largest child so far.
 */
import { spawn } from "node:child_process";
import koffi from "koffi";
import type { Command, Usage } from "./command.ts";

/** `man 2 getrusage`: children that have ended and were waited for, and theirs. */
const rusageChildren = -1;
/** struct rusage on 64-bit Linux: two timevals of 16 bytes, then 14 longs. */
const rusageBytes = 144;

const getrusage = koffi.load("libc.so.6").func("int getrusage(int who, void *usage)");

function usageOfChildren(): { userSeconds: number; systemSeconds: number; peakBytes: number } {
  const usage = Buffer.alloc(rusageBytes);
  if (getrusage(rusageChildren, usage) !== 0) throw new Error("getrusage failed");
  const long = (at: number) => Number(usage.readBigInt64LE(at));
  const seconds = (at: number) => long(at) + long(at + 8) / 1e6;
  return { userSeconds: seconds(0), systemSeconds: seconds(16), peakBytes: long(32) * 1024 };
}

process.once("message", (command: Command) => {
  const started = process.hrtime.bigint();
  // A group of its own, so that all of a pipe can be ended at once.
  const child = spawn(command.file, [...command.arguments], {
    cwd: command.directory,
    env: { ...command.environment },
    stdio: ["ignore", "inherit", "inherit"],
    detached: true,
  });
  // The parent is gone, or has had enough.
  const abandon = () => {
    if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
    process.exit(1);
  };
  process.once("disconnect", abandon);
  child.once("error", (error) => process.send!({ failure: error.message }));
  child.once("exit", (code, signal) => {
    const wallSeconds = Number(process.hrtime.bigint() - started) / 1e9;
    const usage: Usage = { exitCode: code ?? -1, signal: signal ?? undefined, wallSeconds, ...usageOfChildren() };
    process.off("disconnect", abandon);
    process.send!(usage, () => process.disconnect());
  });
});
// Ctrl-C goes to the whole group; this process has to live on until it has ended its child.
process.on("SIGINT", () => {});
