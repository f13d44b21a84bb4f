/** Rows of stores that tenants registered. The default store is the stack's bucket and has no row. */
import { DeleteCommand } from "@aws-sdk/lib-dynamodb";
import type { StoreRow } from "../domain/inventory.ts";
import { type Database, getRow, type Page, pageOfRows, type TransactionItem } from "./database.ts";

export async function getStore(database: Database, tenant: string, id: string): Promise<StoreRow | undefined> {
  return (await getRow(database, database.tables.stores, { tenant, id })) as StoreRow | undefined;
}

/** Newest first. */
export function listStores(
  database: Database,
  tenant: string,
  page: { limit: number; after?: string },
): Promise<Page<StoreRow>> {
  return pageOfRows(
    database,
    { TableName: database.tables.stores, partition: ["tenant", tenant], sortKey: "id" },
    { ...page, accept: () => true, read: (row) => row as unknown as StoreRow },
  );
}

export function insertStore(database: Database, store: StoreRow): TransactionItem {
  return { Put: { TableName: database.tables.stores, Item: store, ConditionExpression: "attribute_not_exists(id)" } };
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
