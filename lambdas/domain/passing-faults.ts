/** Faults of AWS's own services that pass by themselves: known by what the SDK notes on its errors, not by the SDK's classes. Pure. */

/** What the services call it when they are asked too often. Most answer it with status 400. */
const throttles: ReadonlySet<string> = new Set([
  "EC2ThrottledException",
  "LimitExceededException",
  "PriorRequestNotComplete",
  "ProvisionedThroughputExceededException",
  "RequestLimitExceeded",
  "RequestThrottled",
  "RequestThrottledException",
  "SlowDown",
  "ThrottledException",
  "Throttling",
  "ThrottlingException",
  "TooManyRequestsException",
]);

/** Why DynamoDB cancels transactions that may succeed when they come again. */
const passingCancellations: ReadonlySet<string | undefined> = new Set([
  "TransactionConflict",
  "ProvisionedThroughputExceeded",
  "ThrottlingError",
]);

interface ServiceFault extends Error {
  readonly $metadata: { readonly httpStatusCode?: number };
  readonly CancellationReasons?: readonly { readonly Code?: string }[];
}

/** Whether a service of AWS asks to be called more slowly, or has a fault of its own. The SDK has tried again by then. */
export function isPassingFault(error: unknown): error is Error {
  if (!isServiceFault(error)) return false;
  const { name, $metadata, CancellationReasons = [] } = error;
  const status = $metadata.httpStatusCode ?? 0;
  if (status >= 500 || status === 429 || throttles.has(name)) return true;
  return CancellationReasons.some(({ Code }) => passingCancellations.has(Code));
}

function isServiceFault(error: unknown): error is ServiceFault {
  return (
    error instanceof Error && "$metadata" in error && typeof error.$metadata === "object" && error.$metadata !== null
  );
}
