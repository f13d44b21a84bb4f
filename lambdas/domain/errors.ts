/**
 * Every failure that a caller can act on, one class each. The `name` is what a state machine catches (`ErrorEquals`) and what
 * the API and the events show, so it never changes once released; it stands there as text, because classes lose their names when they are bundled.
 * `retryable` says whether another attempt may help.
 */
export abstract class SnapferryError extends Error {
  abstract readonly retryable: boolean;

  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

abstract class RetryableError extends SnapferryError {
  readonly retryable = true;
}

abstract class FinalError extends SnapferryError {
  readonly retryable = false;
}

/** The hypervisor (or the directory that a `file` hypervisor stands for) cannot be reached now. */
export class HypervisorUnavailable extends RetryableError {
  static override readonly name = "HypervisorUnavailable";
}
/** The hypervisor did not carry out what it was asked for. The message has its words. */
export class HypervisorFailed extends RetryableError {
  static override readonly name = "HypervisorFailed";
}
/**
 * A merge of frozen bytes cannot start, because an export or another program reads or writes them. The message names which. Another
 * attempt succeeds once that has ended.
 */
export class SnapshotInUse extends RetryableError {
  static override readonly name = "SnapshotInUse";
}
/** Something else is being done to the virtual machine. Another attempt succeeds once that has ended. */
export class VmBusy extends RetryableError {
  static override readonly name = "VmBusy";
}
/** The object store cannot be reached now, or answers with a server fault. */
export class StoreUnavailable extends RetryableError {
  static override readonly name = "StoreUnavailable";
}
/** A service asked to be called more slowly (HTTP 429, 503 SlowDown, DynamoDB throughput). */
export class Throttled extends RetryableError {
  static override readonly name = "Throttled";
}
/** The store has no room left: a full disk, or a quota. Another attempt succeeds once room was made. */
export class StoreFull extends RetryableError {
  static override readonly name = "StoreFull";
}
/** What a hypervisor called unchanged since the last backup has changed. The next attempt reads the whole volume. */
export class HintMismatch extends RetryableError {
  static override readonly name = "HintMismatch";
}
/** Objects that an attempt wrote are missing or are not what was written. The next attempt writes them again. */
export class VerificationFailed extends RetryableError {
  static override readonly name = "VerificationFailed";
}

/** The volume is no longer on its hypervisor. */
export class VolumeNotFound extends FinalError {
  static override readonly name = "VolumeNotFound";
}
/** A volume with the wanted name exists already. Nothing was overwritten. */
export class VolumeNameTaken extends FinalError {
  static override readonly name = "VolumeNameTaken";
}
/** The volume was written to while its bytes were being copied for a snapshot, so the copy is of no single moment. */
export class VolumeChangedDuringCopy extends FinalError {
  static override readonly name = "VolumeChangedDuringCopy";
}
/** A path leads outside the directory that the hypervisor was registered with. */
export class PathOutsideDirectory extends FinalError {
  static override readonly name = "PathOutsideDirectory";
}
/** The hypervisor is registered with settings that cannot work. The message names the setting. */
export class HypervisorMisconfigured extends FinalError {
  static override readonly name = "HypervisorMisconfigured";
}
/** The file system or pool of the hypervisor has no room left. */
export class PrimaryStorageFull extends FinalError {
  static override readonly name = "PrimaryStorageFull";
}
/** The frozen data of a snapshot is no longer readable on primary storage. */
export class ExportLost extends FinalError {
  static override readonly name = "ExportLost";
}
/** Writes could not be held for the snapshot. Nothing was created. */
export class QuiesceFailed extends FinalError {
  static override readonly name = "QuiesceFailed";
}
/** The files of a volume are not those that its snapshots left: somebody else changed the chain. Nothing was touched. The message has the difference. */
export class ChainChanged extends FinalError {
  static override readonly name = "ChainChanged";
}
/** The virtual machine is no longer on its hypervisor. */
export class VmNotFound extends FinalError {
  static override readonly name = "VmNotFound";
}
/** The hypervisor refuses an operation on a VM as it stands. The message has the reason. */
export class OperationRefused extends FinalError {
  static override readonly name = "OperationRefused";
}
/** The bucket does not exist, or may not be used with the given credentials. */
export class StoreRefused extends FinalError {
  static override readonly name = "StoreRefused";
}
/** An object is under Object Lock, so that nobody can delete it yet. `until` is when the lock ends, where the store tells it. */
export class ObjectLocked extends FinalError {
  static override readonly name = "ObjectLocked";
  readonly until: Date | undefined;

  constructor(message: string, until?: Date) {
    super(message);
    this.until = until;
  }
}
/** The store does not do what the repository format relies on. The message says what. */
export class StoreUnfit extends FinalError {
  static override readonly name = "StoreUnfit";
}
/** The key of an encrypted repository cannot be had: no key service is configured, or it refuses to unwrap the data key. */
export class EncryptionKeyUnavailable extends FinalError {
  static override readonly name = "EncryptionKeyUnavailable";
}
/** An object of the repository is missing or damaged. The message names the object and the byte ranges of the volume that are lost. */
export class RepositoryDamaged extends FinalError {
  static override readonly name = "RepositoryDamaged";
}
/** The repository was written in a format that this version does not read. */
export class UnsupportedFormat extends FinalError {
  static override readonly name = "UnsupportedFormat";
}
/** A user-given endpoint resolves to an address that must not be called. */
export class EndpointForbidden extends FinalError {
  static override readonly name = "EndpointForbidden";
}
/** A secret that a row refers to is missing or not of the documented shape. */
export class SecretUnusable extends FinalError {
  static override readonly name = "SecretUnusable";
}
/** The job was cancelled on request. */
export class JobCancelled extends FinalError {
  static override readonly name = "JobCancelled";
}
/** The execution that did the work ended without saying how (stopped from outside, timed out). */
export class ExecutionDied extends FinalError {
  static override readonly name = "ExecutionDied";
}

/** The rows are no longer as this operation needs them. `jobId` names the job that stands in the way, where one does. */
export class StateConflict extends FinalError {
  static override readonly name = "StateConflict";
  readonly jobId: string | undefined;

  constructor(message: string, jobId?: string) {
    super(message);
    this.jobId = jobId;
  }
}

/** What rows and events keep of an error: never a stack, never a secret. */
export interface ErrorSummary {
  readonly name: string;
  readonly message: string;
}

const maxMessageLength = 1000;

/** Shortens any thrown value to a name and a message of at most 1,000 characters. */
export function summarizeError(error: unknown): ErrorSummary {
  if (error instanceof Error) return { name: error.name, message: error.message.slice(0, maxMessageLength) };
  return { name: "Error", message: String(error).slice(0, maxMessageLength) };
}

/** Whether another attempt may help. What is not one of ours (a bug, a service fault, a dead worker) is worth another try. */
export function isRetryable(error: unknown): boolean {
  return error instanceof SnapferryError ? error.retryable : true;
}

const finalErrorClasses: readonly (new (message: string) => FinalError)[] = [
  VolumeNotFound,
  VolumeNameTaken,
  VolumeChangedDuringCopy,
  PathOutsideDirectory,
  HypervisorMisconfigured,
  PrimaryStorageFull,
  ExportLost,
  QuiesceFailed,
  ChainChanged,
  VmNotFound,
  OperationRefused,
  StoreRefused,
  ObjectLocked,
  StoreUnfit,
  EncryptionKeyUnavailable,
  RepositoryDamaged,
  UnsupportedFormat,
  EndpointForbidden,
  SecretUnusable,
  JobCancelled,
  ExecutionDied,
  StateConflict,
];

const finalErrorNames: ReadonlySet<string> = new Set(finalErrorClasses.map((errorClass) => errorClass.name));

/** {@link isRetryable} for an error that only its name is left of, as a state machine hands it over. */
export function isRetryableName(name: string): boolean {
  return !finalErrorNames.has(name);
}
