/** What goes wrong with an S3-compatible store, in the words of `domain/errors.ts`. */
import { EndpointForbidden, SnapferryError, StoreRefused, StoreUnavailable, Throttled } from "../domain/errors.ts";
import { ForbiddenAddress } from "../protocols/egress/endpoint.ts";

/** A body that is not as long as it should be. */
export class TruncatedBody extends Error {}

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
  QuotaExceeded: "the store has no room left",
  XMinioStorageFull: "the store has no room left",
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

/** The HTTP status of an SDK error. */
function statusOf(error: unknown): number | undefined {
  if (!(error instanceof Error) || !("$metadata" in error)) return undefined;
  const metadata = error.$metadata;
  if (metadata === null || typeof metadata !== "object" || !("httpStatusCode" in metadata)) return undefined;
  return typeof metadata.httpStatusCode === "number" ? metadata.httpStatusCode : undefined;
}

export function hasStatus(error: unknown, status: number): boolean {
  return statusOf(error) === status;
}

export function isNamed(error: unknown, name: string): boolean {
  return error instanceof Error && (error.name === name || ("Code" in error && error.Code === name));
}

/** The error to throw for one that came up while `doing` (as in "writing x in the bucket y"). */
export function storeError(error: unknown, doing: string): Error {
  if (error instanceof SnapferryError) return error;
  if (!(error instanceof Error)) return new StoreUnavailable(`${doing}: ${String(error)}.`);
  const options = { cause: error };
  if (error instanceof ForbiddenAddress) return new EndpointForbidden(error.message, options);
  const status = statusOf(error);
  if (throttles.has(error.name) || status === 429 || status === 503) {
    return new Throttled(`The store asks for fewer requests while ${doing} (${error.name}).`, options);
  }
  const refusal = refusals[error.name] ?? (status === 403 ? refusals.Forbidden : undefined);
  if (refusal !== undefined)
    return new StoreRefused(`The store refuses ${doing}: ${refusal} (${error.name}).`, options);
  if (error instanceof TypeError || error instanceof RangeError) return error;
  return new StoreUnavailable(`The store fails at ${doing}: ${describe(error)}.`, options);
}

function describe(error: Error): string {
  const text = error.message === "" ? error.name : `${error.name}: ${error.message}`;
  return text.slice(0, 300).replace(/\.$/, "");
}
