/** Rows of virtual machines. */
import { DeleteCommand, UpdateCommand } from "@aws-sdk/lib-dynamodb";
import type { HypervisorRow } from "../domain/inventory.ts";
import type { Vm } from "../domain/vm.ts";
import {
  type Database,
  getRow,
  isMade,
  type Page,
  pageOfRows,
  queryRows,
  type Row,
  type TransactionItem,
  updateExpression,
} from "./database.ts";

type Key = Pick<Vm, "tenant" | "id">;

export async function getVm(database: Database, tenant: string, id: string): Promise<Vm | undefined> {
  return (await getRow(database, database.tables.vms, { tenant, id })) as Vm | undefined;
}

/** In descending order of ids. Unassigned VMs are left out unless asked for. */
export function listVms(
  database: Database,
  tenant: string,
  filter: { hypervisorId?: string; withUnassigned: boolean; limit: number; after?: string },
): Promise<Page<Vm>> {
  return pageOfRows(
    database,
    { TableName: database.tables.vms, partition: ["tenant", tenant], sortKey: "id" },
    {
      limit: filter.limit,
      after: filter.after,
      accept: (row) =>
        (filter.withUnassigned || row.unassigned !== true) &&
        (filter.hypervisorId === undefined || row.hypervisorId === filter.hypervisorId),
      read: (row) => row as unknown as Vm,
    },
  );
}

/** VMs of every tenant on a hypervisor. Another tenant's hypervisor may have the same id; its VMs are left out. Eventually consistent. */
export async function* vmsOnHypervisor(
  database: Database,
  hypervisor: Pick<HypervisorRow, "tenant" | "id">,
): AsyncGenerator<Vm> {
  const rows = queryRows(database, {
    TableName: database.tables.vms,
    IndexName: "by-hypervisor",
    KeyConditionExpression: "hypervisorId = :hypervisor",
    ExpressionAttributeValues: { ":hypervisor": hypervisor.id },
  });
  for await (const row of rows) if (row.hypervisorTenant === hypervisor.tenant) yield row as unknown as Vm;
}

/**
 * Writes what discovery found; an operation that holds the VM goes on holding it. Answers false when the row is of the hypervisor that
 * another tenant has under the same id, unless that tenant is `insteadOf`.
 */
export async function recordDiscoveredVm(
  database: Database,
  found: Omit<Vm, "missing" | "heldFor" | "heldUntil">,
  insteadOf: string = found.hypervisorTenant,
): Promise<boolean> {
  const { tenant, id, ...attributes } = found;
  return updateIf(
    database,
    { tenant, id },
    updateExpression({ ...attributes, missing: false }),
    "attribute_not_exists(id) OR #hypervisorTenant = :hypervisorTenant OR #hypervisorTenant = :insteadOf",
    { ":insteadOf": insteadOf },
  );
}

/** A VM that discovery did not find any more. */
export async function markVmMissing(database: Database, vm: Key, discoveredAt: string): Promise<void> {
  await updateIf(database, vm, updateExpression({ missing: true, discoveredAt }), "attribute_exists(id)", {});
}

/** Removes a row that names nothing any more (its hypervisor is forgotten). */
export async function forgetVm(database: Database, vm: Key): Promise<void> {
  await database.client.send(
    new DeleteCommand({ TableName: database.tables.vms, Key: { tenant: vm.tenant, id: vm.id } }),
  );
}

/** Condition of another write: the VM was there at the last discovery. */
export function requireVm(database: Database, vm: Key): TransactionItem {
  return {
    ConditionCheck: {
      TableName: database.tables.vms,
      Key: { tenant: vm.tenant, id: vm.id },
      ConditionExpression: "attribute_exists(id) AND #missing = :false",
      ExpressionAttributeNames: { "#missing": "missing" },
      ExpressionAttributeValues: { ":false": false },
    },
  };
}

/** An operation holds the VM until it lets go, or until that time. One at a time. */
export function holdVm(
  database: Database,
  vm: Key,
  hold: { readonly operationId: string; readonly until: string },
  now: string,
): TransactionItem {
  return {
    Update: {
      TableName: database.tables.vms,
      Key: { tenant: vm.tenant, id: vm.id },
      UpdateExpression: "SET heldFor = :operation, heldUntil = :until",
      ConditionExpression: "#missing = :false AND (attribute_not_exists(heldUntil) OR heldUntil <= :now)",
      ExpressionAttributeNames: { "#missing": "missing" },
      ExpressionAttributeValues: {
        ":operation": hold.operationId,
        ":until": hold.until,
        ":now": now,
        ":false": false,
      },
    },
  };
}

/** The operation holds the VM no longer. Held by another by now is success. */
export async function releaseVm(database: Database, vm: Key, operationId: string): Promise<void> {
  const update = updateExpression({ heldFor: undefined, heldUntil: undefined });
  await updateIf(database, vm, update, "heldFor = :operation", { ":operation": operationId });
}

/** Answers false when the condition does not hold. */
async function updateIf(
  database: Database,
  vm: Key,
  update: ReturnType<typeof updateExpression>,
  condition: string,
  values: Row,
): Promise<boolean> {
  return isMade(
    database.client.send(
      new UpdateCommand({
        TableName: database.tables.vms,
        Key: { tenant: vm.tenant, id: vm.id },
        ...update,
        ConditionExpression: condition,
        ExpressionAttributeValues: { ...update.ExpressionAttributeValues, ...values },
      }),
    ),
  );
}
