/** Stores: register, list, look at, forget. The default store is the stack's bucket and has no row. */
import { EndpointForbidden, SecretUnusable, StoreRefused, StoreUnavailable, StoreUnfit } from "../domain/errors.ts";
import { newId } from "../domain/ids.ts";
import { defaultStoreId, type StoreRow, secretPrefix } from "../domain/inventory.ts";
import type { Services } from "../services.ts";
import { transact } from "../tables/database.ts";
import { getStore, insertStore, listStores as listRows } from "../tables/stores.ts";
import type { ApiRequest } from "./api-handler.ts";
import { encodeCursor } from "./cursor.ts";
import { forgetStore } from "./forgetting.ts";
import type { ApiResponse, Caller } from "./http.ts";
import { idempotently } from "./middleware/idempotency.ts";
import type { operations } from "./operations.ts";
import { invalidRequest, notFound, Problem } from "./problem.ts";
import { defaultStore, pathOf, storeRepresentation } from "./representations.ts";

type Operations = typeof operations;

/**
 * Tries a store out before it is registered. Throws EndpointForbidden, SecretUnusable, StoreRefused, StoreUnfit or
 * StoreUnavailable with a sentence that says what is wrong.
 */
export type CheckStore = (store: StoreRow) => Promise<void>;

export async function registerStore(
  services: Services,
  checkStore: CheckStore,
  request: ApiRequest<Operations["registerStore"]>,
): Promise<ApiResponse> {
  const { caller, body } = request;
  const answer = await idempotently(services, request, { store: newId("store") }, async ({ ids, record }) => {
    const { name, bucket, prefix, endpoint, region, secretId } = body;
    requireOwnSecret(caller, secretId);
    const row: StoreRow = {
      tenant: caller.tenant,
      id: ids.store,
      name,
      bucket,
      prefix,
      ...(endpoint === undefined ? {} : { endpoint }),
      region,
      pathStyle: body.pathStyle ?? endpoint !== undefined,
      secretId,
      createdAt: services.now().toISOString(),
    };
    await check(checkStore, row);
    const answer = storeRepresentation(row);
    await transact(services.database, [insertStore(services.database, row), ...record(answer)]);
    return answer;
  });
  return { status: 201, headers: { Location: pathOf("stores", answer.id) }, body: answer };
}

function requireOwnSecret({ tenant }: Caller, secretId: string): void {
  const prefix = secretPrefix(tenant);
  if (secretId.startsWith(prefix) && secretId.length > prefix.length) return;
  throw invalidRequest([
    {
      pointer: "/secretId",
      detail: `must be the name of a secret that begins with ${prefix}: each tenant has its own`,
    },
  ]);
}

/** Which field is to blame for which failure. */
const blamed = [
  [EndpointForbidden, "/endpoint"],
  [SecretUnusable, "/secretId"],
  [StoreRefused, "/bucket"],
  [StoreUnfit, "/bucket"],
] as const;

async function check(checkStore: CheckStore, store: StoreRow): Promise<void> {
  try {
    await checkStore(store);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    const pointer = blamed.find(([failure]) => error instanceof failure)?.[1];
    if (pointer !== undefined) throw invalidRequest([{ pointer, detail: error.message }]);
    if (!(error instanceof StoreUnavailable)) throw error;
    if (store.endpoint !== undefined) throw invalidRequest([{ pointer: "/endpoint", detail: error.message }]);
    throw new Problem("unavailable", `The store cannot be reached now: ${error.message}`, { cause: error });
  }
}

/** The default store counts as the newest: it takes one place of the first page, and its id is the cursor when that page holds no more. */
export async function listStores(
  services: Services,
  { caller, query }: ApiRequest<Operations["listStores"]>,
): Promise<ApiResponse> {
  const { limit, cursor } = query;
  const first = cursor === undefined;
  const after = first || cursor === defaultStoreId ? undefined : cursor;
  const page = await listRows(services.database, caller.tenant, { limit, after });
  const all = [...(first ? [defaultStore] : []), ...page.items.map(storeRepresentation)];
  const items = all.slice(0, limit);
  const hasMore = page.next !== undefined || all.length > limit;
  const last = items.at(-1);
  return {
    status: 200,
    body: { items, ...(hasMore && last ? { nextCursor: encodeCursor(last.id) } : {}) },
  };
}

export async function readStore(
  services: Services,
  { caller, id }: ApiRequest<Operations["getStore"]>,
): Promise<ApiResponse> {
  if (id === defaultStoreId) return { status: 200, body: defaultStore };
  return { status: 200, body: storeRepresentation(await requireStore(services, caller, id)) };
}

export async function deleteStore(
  services: Services,
  { caller, id, query }: ApiRequest<Operations["deleteStore"]>,
): Promise<ApiResponse> {
  if (id === defaultStoreId)
    throw new Problem("store-in-use", "The default store is the stack's own bucket; it goes with the stack only.");
  return { status: 200, body: await forgetStore(services, await requireStore(services, caller, id), query) };
}

async function requireStore(services: Services, caller: Caller, id: string): Promise<StoreRow> {
  const store = await getStore(services.database, caller.tenant, id);
  if (!store) throw notFound("store", id);
  return store;
}
