import { LocalCloudError } from "../local/cloud/errors.ts";

/** Something on this machine is missing, or a measurement went wrong. The message says what to do. */
export class BenchmarkError extends Error {
  override readonly name = "BenchmarkError";
}

/** What this machine, or the command line, has to be changed for: the message says it all. */
export function isExpected(error: unknown): error is Error {
  return (
    error instanceof BenchmarkError ||
    error instanceof LocalCloudError ||
    (error instanceof Error && "syscall" in error)
  );
}
