/** Servers that end with the process that starts them, whatever ends that, and only by their own pid. */
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";

/** Becomes the server under the same pid, and leaves a child that kills it once stdin is at its end: when the process that holds the pipe is gone. */
const script = 'exec 3<&0; (cat <&3 >/dev/null; kill -9 $$ 2>/dev/null) & exec "$@" </dev/null 3<&-';

/** For `spawn`, with a pipe as stdin: what starts the command so that it ends with this process. */
export function onLifeline(command: readonly string[]): [file: string, args: string[]] {
  return ["sh", ["-c", script, "sh", ...command]];
}

export function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

/** Ends a server, by SIGKILL after `graceMs` milliseconds. A repetition does nothing. */
export async function endServer(
  child: ChildProcess,
  graceMs: number,
  signal: NodeJS.Signals = "SIGTERM",
): Promise<void> {
  if (hasEnded(child)) return;
  const ended = once(child, "exit");
  child.ref();
  child.kill(signal);
  const patience = setTimeout(() => child.kill("SIGKILL"), graceMs);
  await ended;
  clearTimeout(patience);
  // Sessions of an SSH server outlive it as long as their clients hold them, and its pipes with them.
  for (const stream of [child.stdin, child.stdout, child.stderr]) stream?.destroy();
}
