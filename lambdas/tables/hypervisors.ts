/** Hypervisor rows. */
import { DeleteCommand, UpdateCommand } from "@aws-sdk/lib-dynamodb";
import { type HypervisorRow, hypervisorKinds } from "../domain/inventory.ts";
import { type Database, getRow, isMade, type Page, pageOfRows, queryRows, type TransactionItem } from "./database.ts";

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

/** Key of the sparse index that lists hypervisors which garbage collection looks after. */
const tended = "tended";

/** Hypervisors of every tenant whose kind is to be looked after. Eventually consistent. */
export async function* tendedHypervisors(database: Database): AsyncGenerator<Pick<HypervisorRow, "tenant" | "id">> {
  const rows = queryRows(database, {
    TableName: database.tables.hypervisors,
    IndexName: "tended",
    KeyConditionExpression: "tended = :tended",
    ExpressionAttributeValues: { ":tended": tended },
  });
  for await (const { tenant, id } of rows) yield { tenant: String(tenant), id: String(id) };
}

export function insertHypervisor(database: Database, hypervisor: HypervisorRow): TransactionItem {
  return {
    Put: {
      TableName: database.tables.hypervisors,
      Item: { ...hypervisor, ...(hypervisorKinds[hypervisor.settings.kind].tended && { tended }) },
      ConditionExpression: "attribute_not_exists(id)",
    },
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
