/** Tries a store out before it is registered: endpoint, secret, bucket, and what the repository format relies on. */
import { openStore } from "../composition/stores.ts";
import { EndpointForbidden, SecretUnusable, StoreUnavailable } from "../domain/errors.ts";
import type { StoreRow } from "../domain/inventory.ts";
import { environmentList } from "../environment.ts";
import { checkEndpoint, ForbiddenAddress } from "../protocols/egress/endpoint.ts";
import type { ObjectStore } from "../repository/object-store.ts";
import { preflightStore } from "../repository/preflight.ts";

/** What Secrets Manager says of a secret that is there and cannot be read. */
const unreadable: ReadonlySet<string> = new Set([
  "AccessDeniedException",
  "DecryptionFailure",
  "InvalidParameterException",
  "InvalidRequestException",
]);

/** Throws EndpointForbidden, SecretUnusable, StoreRefused, StoreUnfit or StoreUnavailable with a sentence that says what is wrong. */
export async function checkStore(store: StoreRow): Promise<void> {
  if (store.endpoint !== undefined) await checkReachable(store.endpoint);
  await preflightStore(await open(store));
}

async function checkReachable(endpoint: string): Promise<void> {
  try {
    await checkEndpoint(endpoint, { allowedCidrs: environmentList("ALLOWED_CIDRS") });
  } catch (error) {
    if (error instanceof ForbiddenAddress) throw new EndpointForbidden(error.message, { cause: error });
    throw new StoreUnavailable(`${new URL(endpoint).hostname} cannot be resolved`, { cause: error });
  }
}

async function open(store: StoreRow): Promise<ObjectStore> {
  try {
    return await openStore(store);
  } catch (error) {
    if (error instanceof Error && unreadable.has(error.name))
      throw new SecretUnusable(`the secret ${store.secretId} cannot be read: ${error.message}`, { cause: error });
    throw error;
  }
}
