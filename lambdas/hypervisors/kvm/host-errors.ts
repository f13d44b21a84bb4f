/** What SSH, libvirt, NBD and the programs of a host say, in the words of `domain/errors.ts`. The original is the cause. */
import {
  EndpointForbidden,
  HypervisorFailed,
  HypervisorMisconfigured,
  HypervisorUnavailable,
  PrimaryStorageFull,
  SecretUnusable,
  SnapferryError,
} from "../../domain/errors.ts";
import { ForbiddenAddress } from "../../protocols/egress/endpoint.ts";
import {
  type ErrorCode,
  LibvirtCallFailed,
  LibvirtConnectionLost,
  LibvirtLoginRequired,
  LibvirtProtocolError,
  LibvirtTimedOut,
} from "../../protocols/libvirt/errors.ts";
import { NbdConnectionLost, NbdError, NbdProtocolError, NbdTimedOut } from "../../protocols/nbd/errors.ts";
import { printable } from "../../protocols/printable.ts";
import type { ExecResult } from "../../protocols/ssh/connection.ts";
import {
  SshConnectionLost,
  SshHostKeyMismatch,
  SshKeyRejected,
  SshKeyUnusable,
  SshOutputTooLong,
  SshProtocolError,
  SshRefused,
  SshTimedOut,
  SshUnreachable,
} from "../../protocols/ssh/errors.ts";

type ErrorClass = abstract new (...args: never[]) => Error;

const unavailable: readonly ErrorClass[] = [
  SshUnreachable,
  SshTimedOut,
  SshConnectionLost,
  LibvirtConnectionLost,
  LibvirtTimedOut,
  LibvirtProtocolError,
  NbdConnectionLost,
  NbdTimedOut,
  NbdProtocolError,
];
const misconfigured: readonly ErrorClass[] = [
  SshKeyRejected,
  SshHostKeyMismatch,
  SshProtocolError,
  LibvirtLoginRequired,
];
const failed: readonly ErrorClass[] = [SshRefused, SshOutputTooLong, NbdError];

/** libvirt's answers that no repetition changes: rights, or a libvirt that cannot do this. */
const refusals: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "OPERATION_DENIED",
  "AUTH_FAILED",
  "AUTH_UNAVAILABLE",
  "ACCESS_DENIED",
  "NO_SUPPORT",
]);

/** What stands in the way passes: another job of the VM. */
const passing: ReadonlySet<ErrorCode> = new Set<ErrorCode>(["RESOURCE_BUSY", "OPERATION_TIMEOUT", "BLOCK_COPY_ACTIVE"]);

/** As the C library words ENOSPC and EDQUOT; programs and libvirt pass that on. */
const noRoom = /No space left on device|Disk quota exceeded/;
const noRights = /Permission denied|Operation not permitted|Read-only file system/;

/** The error to throw for one that came up while talking to a host. What is one of ours already, or a bug, stays as it is. */
export function hostError(error: unknown): Error {
  if (!(error instanceof Error)) return new Error(String(error));
  if (error instanceof SnapferryError) return error;
  const { message } = error;
  const options = { cause: error };
  if (error instanceof ForbiddenAddress) return new EndpointForbidden(message, options);
  if (error instanceof SshKeyUnusable) return new SecretUnusable(message, options);
  if (error instanceof LibvirtCallFailed && refusals.has(error.code))
    return new HypervisorMisconfigured(message, options);
  if (error instanceof LibvirtCallFailed && passing.has(error.code)) return new HypervisorUnavailable(message, options);
  if (error instanceof LibvirtCallFailed) return wordsOf(message, options) ?? new HypervisorFailed(message, options);
  if (isOneOf(error, unavailable)) return new HypervisorUnavailable(message, options);
  if (isOneOf(error, misconfigured)) return new HypervisorMisconfigured(message, options);
  if (isOneOf(error, failed)) return new HypervisorFailed(message, options);
  return error;
}

/** Runs `work`; what it throws comes out as {@link hostError}. */
export async function onHost<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw hostError(error);
  }
}

/** libvirt's code of an error that {@link hostError} made; undefined for all others. */
export function libvirtCode(error: unknown): ErrorCode | undefined {
  const cause = error instanceof Error ? error.cause : undefined;
  return cause instanceof LibvirtCallFailed ? cause.code : undefined;
}

/** How a POSIX shell, `env` and `timeout` say that there is no such program, or none that may be run. */
const notFoundCode = 127;
const notExecutableCode = 126;
/** Of `timeout`: the time was up. */
const timedOutCodes: readonly (number | undefined)[] = [124, 137];

/** The error for a program that ended with another code than 0. `shown` is what a person would call the command. */
export function commandError(shown: string, { code, signal, stderr }: ExecResult): SnapferryError {
  const [program = shown] = shown.split(" ");
  if (code === notFoundCode) return new HypervisorMisconfigured(`The host has no program ${program}.`);
  if (code === notExecutableCode) return new HypervisorMisconfigured(`The user may not run ${program} on the host.`);
  if (timedOutCodes.includes(code) || signal === "SIGKILL") {
    return new HypervisorUnavailable(`${shown} on the host took too long and was ended.`);
  }
  const words = printable(stderr) || (signal ? `ended by ${signal}` : `ended with code ${code}`);
  return wordsOf(words) ?? new HypervisorFailed(`${shown} failed on the host: ${words}`);
}

/** Whether a program was not done in its time, be it that it could not even be ended: what waits for storage that is gone. */
export function isTimeOut(error: unknown): error is HypervisorUnavailable {
  return error instanceof HypervisorUnavailable && /took too long|did not end within/.test(error.message);
}

function wordsOf(message: string, options?: ErrorOptions): SnapferryError | undefined {
  if (noRoom.test(message)) return new PrimaryStorageFull(`The host has no room left: ${message}`, options);
  if (noRights.test(message)) return new HypervisorMisconfigured(`The host does not allow it: ${message}`, options);
}

function isOneOf(error: Error, classes: readonly ErrorClass[]): boolean {
  return classes.some((errorClass) => error instanceof errorClass);
}
