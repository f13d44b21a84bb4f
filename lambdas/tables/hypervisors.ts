/** Hypervisor rows. */
import { DeleteCommand, UpdateCommand } from "@aws-sdk/lib-dynamodb";
import type { HypervisorRow } from "../domain/inventory.ts";
import { type Database, getRow, isMade, type Page, pageOfRows, type TransactionItem } from "./database.ts";

export async function getHypervisor(
  database: Database,
  tenant: string,
  id: string,
): Promise<HypervisorRow | undefined> {
  return (await getRow(database, database.tables.hypervisors, { tenant, id })) as HypervisorRow | undefined;
}

/** Newest first. */
export function listHypervisors(
  database: Database,
  tenant: string,
  page: { limit: number; after?: string },
): Promise<Page<HypervisorRow>> {
  return pageOfRows(
    database,
    { TableName: database.tables.hypervisors, partition: ["tenant", tenant], sortKey: "id" },
    { ...page, accept: () => true, read: (row) => row as unknown as HypervisorRow },
  );
}

export function insertHypervisor(database: Database, hypervisor: HypervisorRow): TransactionItem {
  return {
    Put: { TableName: database.tables.hypervisors, Item: hypervisor, ConditionExpression: "attribute_not_exists(id)" },
  };
}

/** What a discovery found out of the hypervisor itself. Answers false when it is not registered (any more). */
export async function markDiscovered(
  database: Database,
  hypervisor: Pick<HypervisorRow, "tenant" | "id">,
  { discoveredAt, quiesces }: Required<Pick<HypervisorRow, "discoveredAt" | "quiesces">>,
): Promise<boolean> {
  return isMade(
    database.client.send(
      new UpdateCommand({
        TableName: database.tables.hypervisors,
        Key: { tenant: hypervisor.tenant, id: hypervisor.id },
        UpdateExpression: "SET discoveredAt = :at, quiesces = :quiesces",
        ConditionExpression: "attribute_exists(id)",
        ExpressionAttributeValues: { ":at": discoveredAt, ":quiesces": quiesces },
      }),
    ),
  );
}

/** Gone is success. */
export async function deleteHypervisor(database: Database, tenant: string, id: string): Promise<void> {
  await database.client.send(new DeleteCommand({ TableName: database.tables.hypervisors, Key: { tenant, id } }));
}
