import * as z from "zod";
import { SecretUnusable, StoreRefused } from "../domain/errors.ts";
import { defaultStoreId, type StoreRow } from "../domain/inventory.ts";
import { environmentList, requiredEnvironment } from "../environment.ts";
import type { KeyService } from "../repository/key-service.ts";
import type { ObjectStore } from "../repository/object-store.ts";
import { RateLimitedStore } from "../repository/rate-limited-store.ts";
import { S3Connection } from "../repository/s3-connection.ts";
import { S3ObjectStore } from "../repository/s3-object-store.ts";
import type { Database } from "../tables/database.ts";
import { getStore } from "../tables/stores.ts";
import { keyServiceOf } from "./encryption.ts";
import { readSecret } from "./secrets.ts";
import { type StoreLimiter, storeLimiter } from "./store-limiter.ts";

/** A client with its credentials serves this long; then the secret is read again, so that a rotation takes effect. */
const keepClientMilliseconds = 300_000;

const credentialsSchema = z.object({ accessKeyId: z.string().min(1), secretAccessKey: z.string().min(1) });

let ownStore: S3ObjectStore | undefined;
const limiters = new Map<string, StoreLimiter>();
const opened = new Map<string, { row: StoreRow; store: S3ObjectStore; until: number }>();

/** The stack's own bucket. */
export function ownBucket(): S3ObjectStore {
  ownStore ??= new S3ObjectStore({ connection: new S3Connection(), bucket: requiredEnvironment("BACKUP_BUCKET") });
  return ownStore;
}

/**
 * The store of that id, within its limits. Once `until` answers true it is not held back any more. Throws StoreRefused when it is not
 * registered (any more).
 */
export async function openRegisteredStore(
  database: Database,
  tenant: string,
  id: string,
  until: () => boolean = () => false,
): Promise<ObjectStore> {
  const store = id === defaultStoreId ? ownBucket() : (await registeredStore(database, tenant, id)).store;
  const limiter = limiterOf(database, tenant, id);
  return new RateLimitedStore(store, { acquire: (cost) => limiter.acquire(cost, until) });
}

/** What opens the domains of that store; undefined when it is not encrypted. Throws as {@link openRegisteredStore} does. */
export async function openKeyService(database: Database, tenant: string, id: string): Promise<KeyService | undefined> {
  return keyServiceOf(id === defaultStoreId ? { id } : (await registeredStore(database, tenant, id)).row);
}

async function registeredStore(
  database: Database,
  tenant: string,
  id: string,
): Promise<{ row: StoreRow; store: S3ObjectStore }> {
  const key = `${tenant}/${id}`;
  const known = opened.get(key);
  if (known && known.until > Date.now()) return known;
  const row = await getStore(database, tenant, id);
  if (!row) throw new StoreRefused(`${id} is no longer registered`);
  const fresh = { row, store: await openStore(row), until: Date.now() + keepClientMilliseconds };
  opened.set(key, fresh);
  return fresh;
}

/** One for each store in this process: its slices are shared by all that the process does. */
function limiterOf(database: Database, tenant: string, id: string): StoreLimiter {
  const key = `${tenant}/${id}`;
  const limiter = limiters.get(key) ?? storeLimiter(database, tenant, id);
  limiters.set(key, limiter);
  return limiter;
}

/** The store that these settings describe, registered or about to be. Reads its secret. */
export async function openStore(
  settings: Pick<StoreRow, "bucket" | "prefix" | "endpoint" | "region" | "pathStyle" | "secretId">,
): Promise<S3ObjectStore> {
  const { bucket, prefix, endpoint, region, pathStyle } = settings;
  const credentials = await readCredentials(settings.secretId);
  const connection = new S3Connection({
    region,
    pathStyle,
    credentials,
    ...(endpoint !== undefined && { endpoint, allowedCidrs: environmentList("ALLOWED_CIDRS") }),
  });
  return new S3ObjectStore({ connection, bucket, prefix });
}

/** The secret's value never leaves this function but as credentials of a client. Throws SecretUnusable with what is wrong. */
async function readCredentials(secretId: string): Promise<z.infer<typeof credentialsSchema>> {
  const text = await readSecret(secretId);
  try {
    return credentialsSchema.parse(JSON.parse(text));
  } catch {
    throw new SecretUnusable(`the secret ${secretId} must be JSON with the texts accessKeyId and secretAccessKey`);
  }
}
