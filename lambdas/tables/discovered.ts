/** What tables of volumes and of virtual machines have in common: rows that discovery finds on a hypervisor. Keys are tenant and id. */
import { DeleteCommand } from "@aws-sdk/lib-dynamodb";
import type { HypervisorRow } from "../domain/inventory.ts";
import { type Database, type Page, pageOfRows, queryRows, type Row, updateExpression, updateIf } from "./database.ts";

export interface Key {
  readonly tenant: string;
  readonly id: string;
}

/** A page of a tenant's rows, in descending order of ids. Unassigned ones are left out unless asked for. */
export function pageOfDiscovered<T>(
  database: Database,
  table: string,
  tenant: string,
  filter: { hypervisorId?: string; withUnassigned: boolean; limit: number; after?: string },
): Promise<Page<T>> {
  return pageOfRows(
    database,
    { TableName: table, partition: ["tenant", tenant], sortKey: "id" },
    {
      limit: filter.limit,
      after: filter.after,
      accept: (row) =>
        (filter.withUnassigned || row.unassigned !== true) &&
        (filter.hypervisorId === undefined || row.hypervisorId === filter.hypervisorId),
      read: (row) => row as T,
    },
  );
}

/**
 * Rows of every tenant on a hypervisor. Another tenant may have one of the same id: it was registered under a former id, or a row says
 * so that was imported from that tenant's own store. Its rows are left out. Eventually consistent.
 */
export async function* rowsOnHypervisor<T>(
  database: Database,
  table: string,
  hypervisor: Pick<HypervisorRow, "tenant" | "id">,
): AsyncGenerator<T> {
  const rows = queryRows(database, {
    TableName: table,
    IndexName: "by-hypervisor",
    KeyConditionExpression: "hypervisorId = :hypervisor",
    ExpressionAttributeValues: { ":hypervisor": hypervisor.id },
  });
  for await (const row of rows) if (row.hypervisorTenant === hypervisor.tenant) yield row as T;
}

/**
 * Writes what discovery found, beside what the row has. Answers false when the row is of the hypervisor that another tenant has under the
 * same id, unless that tenant is `insteadOf`. `initial` are values of attributes that are set once.
 */
export async function recordFoundRow(
  database: Database,
  table: string,
  found: Key & { readonly hypervisorTenant: string },
  insteadOf: string = found.hypervisorTenant,
  initial: Readonly<Row> = {},
): Promise<boolean> {
  const { tenant, id, ...attributes } = found;
  const update = updateExpression({ ...attributes, missing: false });
  const once = Object.keys(initial).map((name) => `${name} = if_not_exists(${name}, :initial_${name}), `);
  return updateIf(
    database,
    table,
    { tenant, id },
    { ...update, UpdateExpression: update.UpdateExpression.replace(/^SET /, `SET ${once.join("")}`) },
    "attribute_not_exists(id) OR #hypervisorTenant = :hypervisorTenant OR #hypervisorTenant = :insteadOf",
    {
      ...Object.fromEntries(Object.entries(initial).map(([name, value]) => [`:initial_${name}`, value])),
      ":insteadOf": insteadOf,
    },
  );
}

/** An operation holds the row no longer. Held by another by now is success. */
export async function releaseHold(database: Database, table: string, key: Key, operationId: string): Promise<void> {
  const update = updateExpression({ heldFor: undefined, heldUntil: undefined });
  await updateIf(database, table, keyOf(key), update, "heldFor = :operation", { ":operation": operationId });
}

/** Removes a row that names nothing any more (its hypervisor is forgotten). */
export async function forgetRow(database: Database, table: string, key: Key): Promise<void> {
  await database.client.send(new DeleteCommand({ TableName: table, Key: keyOf(key) }));
}

/** The key alone of a row. */
export function keyOf({ tenant, id }: Key): { tenant: string; id: string } {
  return { tenant, id };
}
