/** Stores: register, list, look at, change, forget. The default store is the stack's bucket: only options of it are kept. */
import {
  EndpointForbidden,
  ObjectLocked,
  SecretUnusable,
  SnapferryError,
  StoreFull,
  StoreRefused,
  StoreUnavailable,
  StoreUnfit,
  Throttled,
} from "../domain/errors.ts";
import { newId } from "../domain/ids.ts";
import { defaultStoreId, type ObjectLock, type StoreEncryption, type StoreRow } from "../domain/inventory.ts";
import type { Services } from "../services.ts";
import { transact } from "../tables/database.ts";
import {
  changeStoreOptions,
  getStore,
  getStoreOptions,
  insertStore,
  listStores as listRows,
  type StoreOptionChanges,
} from "../tables/stores.ts";
import type { ApiRequest } from "./api-handler.ts";
import { pageAnswer } from "./cursor.ts";
import { forgetStore } from "./forgetting.ts";
import type { ApiResponse, Caller } from "./http.ts";
import { idempotently } from "./middleware/idempotency.ts";
import type { operations } from "./operations.ts";
import { requireOwnSecret } from "./own-secret.ts";
import { invalidRequest, notFound, Problem, unavailable } from "./problem.ts";
import { defaultStoreRepresentation, pathOf, storeRepresentation } from "./representations.ts";
import type { StoreRepresentation } from "./response-schemas.ts";

type Operations = typeof operations;

/**
 * What is tried out before a store is registered or changed. Throw EndpointForbidden, SecretUnusable, StoreRefused, StoreUnfit or
 * StoreUnavailable with a sentence that says what is wrong.
 */
export interface StoreChecks {
  /** Whatever the repository format relies on. */
  readonly fitness: (store: StoreRow) => Promise<void>;
  readonly hasObjectLock: (store: StoreRow) => Promise<boolean>;
}

/** What of stores the deployment decides. */
export interface StoreDeployment {
  readonly checks: StoreChecks;
  /** Whether there is a key for client-side encryption. */
  readonly hasKey: boolean;
  readonly ofDefaultStore: StoreEncryption;
}

export async function registerStore(
  services: Services,
  deployment: StoreDeployment,
  request: ApiRequest<Operations["registerStore"]>,
): Promise<ApiResponse> {
  const { caller, body } = request;
  const answer = await idempotently(services, request, { store: newId("store") }, async ({ ids, record }) => {
    const { name, bucket, prefix, endpoint, region, secretId, limits, encryption, objectLock } = body;
    requireOwnSecret(caller, secretId);
    if (encryption === "client" && !deployment.hasKey) throw noEncryptionKey();
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
      encryption,
      ...limits,
      ...(objectLock === undefined ? {} : { objectLock }),
      createdAt: services.now().toISOString(),
    };
    await blaming(row, () => deployment.checks.fitness(row));
    if (objectLock) await requireObjectLock(deployment, row);
    const answer = storeRepresentation(row);
    await transact(services.database, [insertStore(services.database, row), ...record(answer)]);
    return answer;
  });
  return { status: 201, headers: { Location: pathOf("stores", answer.id) }, body: answer };
}

function noEncryptionKey(): Problem {
  return invalidRequest([
    {
      pointer: "/encryption",
      detail:
        "cannot be client: this deployment has no key; deploy with the context encryption.key=create or the ARN of a KMS key",
    },
  ]);
}

async function requireObjectLock({ checks }: StoreDeployment, store: StoreRow): Promise<void> {
  const detail = await checks.hasObjectLock(store).then(
    (lockable) =>
      lockable
        ? undefined
        : `cannot be: the bucket ${store.bucket} has no Object Lock; enable that on the bucket first`,
    (error: unknown) => {
      if (isPassing(error)) throw unreachable(error);
      if (!(error instanceof SnapferryError)) throw error;
      return `cannot be checked: ${error.message}`;
    },
  );
  if (detail !== undefined) throw invalidRequest([{ pointer: "/objectLock", detail }]);
}

/** Which field is to blame for which failure. */
const blamed = [
  [EndpointForbidden, "/endpoint"],
  [SecretUnusable, "/secretId"],
  [StoreRefused, "/bucket"],
  [StoreUnfit, "/bucket"],
  [StoreFull, "/bucket"],
  [ObjectLocked, "/bucket"],
] as const;

async function blaming<Result>(store: StoreRow, check: () => Promise<Result>): Promise<Result> {
  try {
    return await check();
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    const pointer = blamed.find(([failure]) => error instanceof failure)?.[1];
    if (pointer !== undefined) throw invalidRequest([{ pointer, detail: error.message }]);
    if (!isPassing(error)) throw error;
    if (error instanceof StoreUnavailable && store.endpoint !== undefined)
      throw invalidRequest([{ pointer: "/endpoint", detail: error.message }]);
    throw unreachable(error);
  }
}

function isPassing(error: unknown): error is Error {
  return error instanceof StoreUnavailable || error instanceof Throttled;
}

function unreachable(error: Error): Problem {
  return unavailable(`The store cannot be reached now: ${error.message}`, error);
}

/** The default store counts as the newest: it takes one place of the first page, and its id is the cursor when that page holds no more. */
export async function listStores(
  services: Services,
  deployment: StoreDeployment,
  { caller, query }: ApiRequest<Operations["listStores"]>,
): Promise<ApiResponse> {
  const { limit, cursor } = query;
  const first = cursor === undefined;
  const after = first || cursor === defaultStoreId ? undefined : cursor;
  const page = await listRows(services.database, caller.tenant, { limit, after });
  const all = [
    ...(first ? [await defaultStore(services, deployment, caller)] : []),
    ...page.items.map(storeRepresentation),
  ];
  const items = all.slice(0, limit);
  const hasMore = page.next !== undefined || all.length > limit;
  return pageAnswer(items, hasMore ? items.at(-1)?.id : undefined);
}

export async function readStore(
  services: Services,
  deployment: StoreDeployment,
  { caller, id }: ApiRequest<Operations["getStore"]>,
): Promise<ApiResponse> {
  if (id === defaultStoreId) return { status: 200, body: await defaultStore(services, deployment, caller) };
  return { status: 200, body: storeRepresentation(await requireStore(services, caller, id)) };
}

async function defaultStore(
  { database }: Services,
  { ofDefaultStore }: StoreDeployment,
  { tenant }: Caller,
): Promise<StoreRepresentation> {
  return defaultStoreRepresentation(ofDefaultStore, await getStoreOptions(database, tenant, defaultStoreId));
}

export async function changeStore(
  services: Services,
  deployment: StoreDeployment,
  request: ApiRequest<Operations["changeStore"]>,
): Promise<ApiResponse> {
  const { caller, id, body } = request;
  if (body.objectLock) await requireLockable(services, deployment, caller, id);
  const store = { tenant: caller.tenant, id };
  if (!(await changeStoreOptions(services.database, store, changesOf(body)))) throw notFound("store", id);
  return readStore(services, deployment, { ...request, body: undefined });
}

async function requireLockable(
  services: Services,
  deployment: StoreDeployment,
  caller: Caller,
  id: string,
): Promise<void> {
  if (id !== defaultStoreId) return requireObjectLock(deployment, await requireStore(services, caller, id));
  const detail =
    "cannot be: the stack's own bucket has no Object Lock; register a bucket that has it as a store of its own";
  throw invalidRequest([{ pointer: "/objectLock", detail }]);
}

/** JSON says null of what is to go; absent stays. */
function changesOf({ limits, objectLock }: ApiRequest<Operations["changeStore"]>["body"]): StoreOptionChanges {
  const named: Record<string, number | ObjectLock | null | undefined> = {
    ...(limits === null ? { bytesPerSecond: null, requestsPerSecond: null } : limits),
    ...(objectLock === undefined ? {} : { objectLock }),
  };
  const entries = Object.entries(named).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries.map(([name, value]) => [name, value ?? undefined]));
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
