/** What goes wrong with an S3-compatible store, in the words of `domain/errors.ts`. */
import {
  EndpointForbidden,
  SnapferryError,
  StoreFull,
  StoreRefused,
  StoreUnavailable,
  Throttled,
} from "../domain/errors.ts";
import { ForbiddenAddress } from "../protocols/egress/endpoint.ts";

/** An answer that is not what was asked for: too short, too long, or not what its checksum tells. */
export class SpoiltAnswer extends Error {}

/** Error codes that another try does not change. */
const refusals: Readonly<Record<string, string>> = {
  NoSuchBucket: "the bucket does not exist",
  AccessDenied: "the credentials do not allow it",
  Forbidden: "the credentials do not allow it",
  InvalidAccessKeyId: "the access key is unknown to the store",
  SignatureDoesNotMatch: "the secret key is wrong",
  ExpiredToken: "the credentials have expired",
  InvalidToken: "the session token is not valid",
  AccountProblem: "the account has a problem",
  AllAccessDisabled: "all access is disabled",
  InvalidBucketName: "the bucket's name is not valid",
  PermanentRedirect: "the bucket is in another region",
  AuthorizationHeaderMalformed: "the bucket is in another region",
  EntityTooLarge: "the store does not take objects of this size",
  CredentialsProviderError: "there are no credentials",
  NotImplemented: "the store does not offer this operation",
};

const throttles: ReadonlySet<string> = new Set([
  "SlowDown",
  "TooManyRequests",
  "RequestLimitExceeded",
  "Throttling",
  "ThrottlingException",
  "ServiceUnavailable",
]);

/** What stores answer when there is no room: S3 itself has no code for it. */
const fullCodes: ReadonlySet<string> = new Set([
  // Ceph and versitygw, with status 403.
  "QuotaExceeded",
  // versitygw, with status 507.
  "InsufficientStorage",
  // MinIO: a full disk (507, in old releases 500), and a bucket's quota (400).
  "XMinioStorageFull",
  "XMinioAdminBucketQuotaExceeded",
]);
const insufficientStorage = 507;
/** MinIO in the moment in which the disk fills up (500 InternalError), Garage at a quota (403). */
const fullMessage = /no space left on device|quota (is|was|has been)? ?(reached|exceeded)/i;

/**
 * Error codes after which the same request may well succeed, and that the SDK does not try again: another writer of the key is at work, or
 * the body did not come whole to the store.
 */
const passing: ReadonlySet<string> = new Set([
  "ConditionalRequestConflict",
  "OperationAborted",
  "BadDigest",
  "XAmzContentSHA256Mismatch",
  "XAmzContentChecksumMismatch",
  "IncompleteBody",
]);

/** A field of what the SDK notes about the answer that it made an error of. */
function metadataOf(error: unknown, field: "httpStatusCode" | "attempts"): number | undefined {
  if (!(error instanceof Error) || !("$metadata" in error)) return undefined;
  const metadata = error.$metadata;
  if (metadata === null || typeof metadata !== "object" || !(field in metadata)) return undefined;
  const value = (metadata as Record<string, unknown>)[field];
  return typeof value === "number" ? value : undefined;
}

export function hasStatus(error: unknown, status: number): boolean {
  return metadataOf(error, "httpStatusCode") === status;
}

/** Whether the SDK had sent the request before the one that this error answers. */
export function wasRepeated(error: unknown): boolean {
  return (metadataOf(error, "attempts") ?? 1) > 1;
}

/** Whether the connection ended, or time was up, before there was an answer. */
export function isWithoutAnswer(error: unknown): boolean {
  return (
    error instanceof Error &&
    ("code" in error || error.name === "TimeoutError") &&
    metadataOf(error, "httpStatusCode") === undefined
  );
}

export function isNamed(error: unknown, name: string): boolean {
  return error instanceof Error && (error.name === name || ("Code" in error && error.Code === name));
}

/** Whether to send the request again at once. */
export function isPassing(error: unknown): boolean {
  if (error instanceof SpoiltAnswer) return true;
  return error instanceof Error && (passing.has(error.name) || isUnreadable(error));
}

/** An answer with status 200 that is no XML, as when it ends too early: the SDK keeps the text with its error. */
function isUnreadable(error: Error): boolean {
  return "$responseBodyText" in error;
}

/** The error to throw for one that came up while `doing` (as in "writing x in the bucket y"). */
export function storeError(error: unknown, doing: string): Error {
  if (error instanceof SnapferryError) return error;
  if (!(error instanceof Error)) return new StoreUnavailable(`${doing}: ${String(error)}.`);
  const options = { cause: error };
  if (error instanceof ForbiddenAddress) return new EndpointForbidden(error.message, options);
  if (isFull(error))
    return new StoreFull(`The store has no room left: ${doing} was refused (${describe(error)}).`, options);
  if (throttles.has(error.name) || hasStatus(error, 429) || hasStatus(error, 503)) {
    return new Throttled(`The store asks for fewer requests while ${doing} (${error.name}).`, options);
  }
  const refusal = refusals[error.name] ?? (hasStatus(error, 403) ? refusals.Forbidden : undefined);
  if (refusal !== undefined)
    return new StoreRefused(`The store refuses ${doing}: ${refusal} (${error.name}).`, options);
  if ((error instanceof TypeError || error instanceof RangeError) && !isUnreadable(error)) return error;
  return new StoreUnavailable(`The store fails at ${doing}: ${describe(error)}.`, options);
}

function isFull(error: Error): boolean {
  return fullCodes.has(error.name) || hasStatus(error, insufficientStorage) || fullMessage.test(error.message);
}

function describe(error: Error): string {
  const text = error.message === "" ? error.name : `${error.name}: ${error.message}`;
  return text.slice(0, 300).replace(/\.$/, "");
}
