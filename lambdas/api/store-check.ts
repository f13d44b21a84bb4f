/** Tries a store out before it is registered or changed: endpoint, secret, bucket, and what the repository format and its options rely on. */
import { EndpointForbidden, StoreUnavailable } from "../domain/errors.ts";
import type { StoreRow } from "../domain/inventory.ts";
import { checkEndpoint, ForbiddenAddress } from "../protocols/egress/endpoint.ts";
import type { ObjectStore } from "../repository/object-store.ts";
import { preflightStore } from "../repository/preflight.ts";
import type { StoreChecks } from "./stores.ts";

export interface StoreCheckOptions {
  /** The store that settings describe, registered or not. */
  readonly open: (store: StoreRow) => Promise<ObjectStore>;
  /** Addresses that an endpoint may have besides public ones. */
  readonly allowedCidrs: readonly string[];
}

/** The checks throw EndpointForbidden, SecretUnusable, StoreRefused, StoreUnfit or StoreUnavailable with a sentence that says what is wrong. */
export function storeChecks({ open, allowedCidrs }: StoreCheckOptions): StoreChecks {
  const openAllowed = async (store: StoreRow) => {
    if (store.endpoint !== undefined) await requireAllowed(store.endpoint, allowedCidrs);
    return open(store);
  };
  return {
    fitness: async (store) => preflightStore(await openAllowed(store)),
    hasObjectLock: async (store) => (await openAllowed(store)).objectLockEnabled(),
  };
}

async function requireAllowed(endpoint: string, allowedCidrs: readonly string[]): Promise<void> {
  try {
    await checkEndpoint(endpoint, { allowedCidrs });
  } catch (error) {
    if (error instanceof ForbiddenAddress) throw new EndpointForbidden(error.message, { cause: error });
    throw new StoreUnavailable(`${new URL(endpoint).hostname} cannot be resolved`, { cause: error });
  }
}
