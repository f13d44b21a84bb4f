/**
 * Rows of stores that tenants registered. The default store is the stack's bucket; a tenant that has set options for it has a row with
 * nothing else.
 */
import { DeleteCommand, UpdateCommand } from "@aws-sdk/lib-dynamodb";
import { defaultStoreId, type StoreOptions, type StoreRow } from "../domain/inventory.ts";
import {
  type Database,
  getRow,
  isMade,
  type Page,
  pageOfRows,
  type TransactionItem,
  updateExpression,
} from "./database.ts";

/** The store that was registered under that id; the default one never was. */
export async function getStore(database: Database, tenant: string, id: string): Promise<StoreRow | undefined> {
  if (id === defaultStoreId) return undefined;
  return (await getRow(database, database.tables.stores, { tenant, id })) as StoreRow | undefined;
}

/** Of any store, the default one too. None where there is no row. */
export async function getStoreOptions(database: Database, tenant: string, id: string): Promise<StoreOptions> {
  const row = (await getRow(database, database.tables.stores, { tenant, id })) ?? {};
  const { bytesPerSecond, requestsPerSecond, objectLock } = row as StoreOptions;
  return {
    ...(bytesPerSecond === undefined ? {} : { bytesPerSecond }),
    ...(requestsPerSecond === undefined ? {} : { requestsPerSecond }),
    ...(objectLock === undefined ? {} : { objectLock }),
  };
}

/** Newest first, without the default store. */
export function listStores(
  database: Database,
  tenant: string,
  page: { limit: number; after?: string },
): Promise<Page<StoreRow>> {
  return pageOfRows(
    database,
    { TableName: database.tables.stores, partition: ["tenant", tenant], sortKey: "id" },
    { ...page, accept: ({ id }) => id !== defaultStoreId, read: (row) => row as unknown as StoreRow },
  );
}

export function insertStore(database: Database, store: StoreRow): TransactionItem {
  return { Put: { TableName: database.tables.stores, Item: store, ConditionExpression: "attribute_not_exists(id)" } };
}

/** Options to set, and those to remove: undefined. What is not named stays. */
export type StoreOptionChanges = { readonly [Name in keyof StoreOptions]: StoreOptions[Name] | undefined };

/** Changes options of a store. Answers false when it is not registered (any more). */
export async function changeStoreOptions(
  database: Database,
  store: Pick<StoreRow, "tenant" | "id">,
  changes: StoreOptionChanges,
): Promise<boolean> {
  if (Object.keys(changes).length === 0) return true;
  const { ExpressionAttributeValues: values, ...update } = updateExpression(changes);
  return isMade(
    database.client.send(
      new UpdateCommand({
        TableName: database.tables.stores,
        Key: { tenant: store.tenant, id: store.id },
        ...update,
        ...(Object.keys(values).length > 0 ? { ExpressionAttributeValues: values } : {}),
        ...(store.id === defaultStoreId ? {} : { ConditionExpression: "attribute_exists(id)" }),
      }),
    ),
  );
}

/** Condition of another write: the store is still registered. */
export function requireStore(database: Database, tenant: string, id: string): TransactionItem {
  return {
    ConditionCheck: {
      TableName: database.tables.stores,
      Key: { tenant, id },
      ConditionExpression: "attribute_exists(id)",
    },
  };
}

/** Gone is success. */
export async function deleteStore(database: Database, tenant: string, id: string): Promise<void> {
  await database.client.send(new DeleteCommand({ TableName: database.tables.stores, Key: { tenant, id } }));
}
