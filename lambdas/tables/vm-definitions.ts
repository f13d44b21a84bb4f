/**
 * Definitions of VMs that are saved with snapshots: rows of their own in the table of store references, apart from those of any snapshot,
 * so that who lists snapshots reads none of them.
 */
import { DeleteCommand } from "@aws-sdk/lib-dynamodb";
import type { Snapshot } from "../domain/snapshot.ts";
import { type Database, getRow, type Row, type TransactionItem, transact, WriteRefused } from "./database.ts";
import { requireCreating } from "./snapshots.ts";

type Key = Pick<Snapshot, "tenant" | "id">;

function rowKey({ tenant, id }: Key): Row {
  return { tenant, reference: `vm-definition#${id}` };
}

export async function getVmDefinition(database: Database, snapshot: Key): Promise<string | undefined> {
  const row = await getRow(database, database.tables.storeReferences, rowKey(snapshot));
  return row?.definition as string | undefined;
}

/**
 * Saves the definition, or the same again. Answers false, and saves nothing, when the snapshot is not being created by this job any more: so
 * none is left of a worker that comes late.
 */
export async function saveVmDefinition(
  database: Database,
  snapshot: Key,
  jobId: string,
  definition: string,
): Promise<boolean> {
  const save: TransactionItem = {
    Put: { TableName: database.tables.storeReferences, Item: { ...rowKey(snapshot), definition } },
  };
  try {
    await transact(database, [requireCreating(database, snapshot, jobId), save]);
    return true;
  } catch (error) {
    if (error instanceof WriteRefused) return false;
    throw error;
  }
}

/** Gone is success. */
export function removeVmDefinition(database: Database, snapshot: Key): TransactionItem {
  return { Delete: { TableName: database.tables.storeReferences, Key: rowKey(snapshot) } };
}

/** {@link removeVmDefinition} as a write of its own. */
export async function forgetVmDefinition(database: Database, snapshot: Key): Promise<void> {
  await database.client.send(new DeleteCommand({ TableName: database.tables.storeReferences, Key: rowKey(snapshot) }));
}
