import { ApiProblem, ApiUnreachable } from "./api-client.ts";

/** What scripts can tell apart. */
export const exitCodes = {
  done: 0,
  /** Refused, or the job failed. */
  failed: 1,
  usage: 2,
  unreachable: 3,
  notAllowed: 4,
  /** A backup is damaged. What was being restored was not kept. */
  damaged: 5,
  /** A salvage has kept what there was, and something is missing. */
  salvaged: 6,
  /** As shells have it: 128 + SIGINT. */
  interrupted: 130,
} as const;

export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes];

/** Ends the command with this code, after a line on stderr unless there is nothing to say. */
export class CliError extends Error {
  override readonly name = "CliError";
  readonly exitCode: ExitCode;

  constructor(exitCode: ExitCode, message = "") {
    super(message);
    this.exitCode = exitCode;
  }
}

const unreachableStatuses: ReadonlySet<number> = new Set([502, 503, 504]);

export function exitCodeOf(error: unknown): ExitCode {
  if (error instanceof CliError) return error.exitCode;
  if (error instanceof ApiUnreachable) return exitCodes.unreachable;
  if (!(error instanceof ApiProblem)) return exitCodes.failed;
  if (error.status === 401 || error.status === 403) return exitCodes.notAllowed;
  return unreachableStatuses.has(error.status) ? exitCodes.unreachable : exitCodes.failed;
}
