/** Store reference rows. The key is deterministic: a retry changes the row and never adds one. */
import { BatchGetCommand, type BatchGetCommandOutput, DeleteCommand, UpdateCommand } from "@aws-sdk/lib-dynamodb";
import {
  type StoreReference,
  type StoreReferenceState,
  storeReferenceKey,
  storeReferenceStatesBefore,
} from "../domain/store-reference.ts";
import { type Database, getRow, queryRows, type Row, type TransactionItem, updateExpression } from "./database.ts";

type Key = Pick<StoreReference, "tenant" | "snapshotId" | "role" | "storeId">;

function rowKey(key: Key): Row {
  return { tenant: key.tenant, reference: storeReferenceKey(key) };
}

function readReference(row: Row): StoreReference {
  const { reference: _reference, ...rest } = row;
  return rest as unknown as StoreReference;
}

export async function getStoreReference(database: Database, key: Key): Promise<StoreReference | undefined> {
  const row = await getRow(database, database.tables.storeReferences, rowKey(key));
  return row && readReference(row);
}

export async function storeReferencesOf(
  database: Database,
  tenant: string,
  snapshotId: string,
): Promise<StoreReference[]> {
  const references: StoreReference[] = [];
  const rows = queryRows(database, {
    TableName: database.tables.storeReferences,
    KeyConditionExpression: "tenant = :tenant AND begins_with(#reference, :prefix)",
    ExpressionAttributeNames: { "#reference": "reference" },
    ExpressionAttributeValues: { ":tenant": tenant, ":prefix": `${snapshotId}#` },
    ConsistentRead: true,
  });
  for await (const row of rows) references.push(readReference(row));
  return references;
}

/** As many as DynamoDB answers at once. */
const keysAtOnce = 100;

/** Those of the references that there are, in no order. */
export async function findStoreReferences(database: Database, keys: readonly Key[]): Promise<StoreReference[]> {
  const { storeReferences } = database.tables;
  const found: StoreReference[] = [];
  for (let first = 0; first < keys.length; first += keysAtOnce) {
    let wanted: Row[] | undefined = keys.slice(first, first + keysAtOnce).map(rowKey);
    while (wanted !== undefined && wanted.length > 0) {
      const RequestItems = { [storeReferences]: { Keys: wanted, ConsistentRead: true } };
      const answer: BatchGetCommandOutput = await database.client.send(new BatchGetCommand({ RequestItems }));
      found.push(...(answer.Responses?.[storeReferences] ?? []).map(readReference));
      wanted = answer.UnprocessedKeys?.[storeReferences]?.Keys;
    }
  }
  return found;
}

/**
 * The reference to bytes that are there already, for a snapshot that the same transaction makes. One that is left of a lost row of that
 * snapshot is brought up to date. An update, so that who makes it needs no right to replace rows.
 */
export function insertStoreReference(database: Database, { tenant, ...reference }: StoreReference): TransactionItem {
  return {
    Update: {
      TableName: database.tables.storeReferences,
      Key: rowKey({ tenant, ...reference }),
      ...updateExpression({ error: undefined, ...reference }),
    },
  };
}

/** The write that makes or moves the reference, on condition that the table of states allows it. */
export function moveStoreReference(
  database: Database,
  key: Key,
  to: StoreReferenceState,
  set: Partial<Omit<StoreReference, keyof Key | "state">> & { updatedAt: string },
): TransactionItem {
  const before = storeReferenceStatesBefore(to);
  const { tenant: _tenant, ...attributes } = key;
  const update = updateExpression({ ...attributes, ...set, state: to });
  const fresh = to === "Creating" || to === "Allocated" ? "attribute_not_exists(#state) OR " : "";
  return {
    Update: {
      TableName: database.tables.storeReferences,
      Key: rowKey(key),
      ...update,
      ConditionExpression: `${fresh}#state IN (${before.map((_, index) => `:before${index}`).join(", ")})`,
      ExpressionAttributeValues: {
        ...update.ExpressionAttributeValues,
        ...Object.fromEntries(before.map((state, index) => [`:before${index}`, state])),
      },
    },
  };
}

/** {@link moveStoreReference} as a write of its own. Throws ConditionalCheckFailedException when the move is not allowed. */
export async function writeStoreReference(
  database: Database,
  key: Key,
  to: StoreReferenceState,
  set: Partial<Omit<StoreReference, keyof Key | "state">> & { updatedAt: string },
): Promise<void> {
  const { Update } = moveStoreReference(database, key, to, set);
  if (Update) await database.client.send(new UpdateCommand(Update));
}

/** Removes the row after its bytes are gone: only from Destroying. Gone is success. */
export function removeStoreReference(database: Database, key: Key): TransactionItem {
  return {
    Delete: {
      TableName: database.tables.storeReferences,
      Key: rowKey(key),
      ConditionExpression: "attribute_not_exists(#state) OR #state = :destroying",
      ExpressionAttributeNames: { "#state": "state" },
      ExpressionAttributeValues: { ":destroying": "Destroying" },
    },
  };
}

/** {@link removeStoreReference} as a write of its own. */
export async function deleteStoreReference(database: Database, key: Key): Promise<void> {
  const { Delete } = removeStoreReference(database, key);
  if (Delete) await database.client.send(new DeleteCommand(Delete));
}

/** Removes the row whatever its state, and leaves the bytes: what held them is forgotten. Gone is success. */
export async function forgetStoreReference(database: Database, key: Key): Promise<void> {
  await database.client.send(new DeleteCommand({ TableName: database.tables.storeReferences, Key: rowKey(key) }));
}

/** Condition of another write: the reference is in this state. */
export function requireStoreReference(database: Database, key: Key, state: StoreReferenceState): TransactionItem {
  return {
    ConditionCheck: {
      TableName: database.tables.storeReferences,
      Key: rowKey(key),
      ConditionExpression: "#state = :state",
      ExpressionAttributeNames: { "#state": "state" },
      ExpressionAttributeValues: { ":state": state },
    },
  };
}
