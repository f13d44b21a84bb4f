/** Rows of virtual machines. */
import { UpdateCommand } from "@aws-sdk/lib-dynamodb";
import type { HypervisorRow } from "../domain/inventory.ts";
import { perhapsStopped, type Vm } from "../domain/vm.ts";
import {
  type Database,
  getRow,
  isMade,
  type Page,
  type TransactionItem,
  updateExpression,
  updateIf,
} from "./database.ts";
import {
  forgetRow,
  type Key,
  keyOf,
  pageOfDiscovered,
  recordFoundRow,
  releaseHold,
  rowsOnHypervisor,
} from "./discovered.ts";

export async function getVm(database: Database, tenant: string, id: string): Promise<Vm | undefined> {
  return (await getRow(database, database.tables.vms, { tenant, id })) as Vm | undefined;
}

/** In descending order of ids. Unassigned VMs are left out unless asked for. */
export function listVms(
  database: Database,
  tenant: string,
  filter: { hypervisorId?: string; withUnassigned: boolean; limit: number; after?: string },
): Promise<Page<Vm>> {
  return pageOfDiscovered(database, database.tables.vms, tenant, filter);
}

/** As {@link rowsOnHypervisor}. */
export function vmsOnHypervisor(
  database: Database,
  hypervisor: Pick<HypervisorRow, "tenant" | "id">,
): AsyncGenerator<Vm> {
  return rowsOnHypervisor(database, database.tables.vms, hypervisor);
}

/** As {@link recordFoundRow}. An operation that holds the VM goes on holding it. */
export function recordDiscoveredVm(
  database: Database,
  found: Omit<Vm, "missing" | "heldFor" | "heldUntil">,
  insteadOf?: string,
): Promise<boolean> {
  return recordFoundRow(database, database.tables.vms, found, insteadOf);
}

/** A VM that discovery did not find any more. */
export async function markVmMissing(database: Database, vm: Key, discoveredAt: string): Promise<void> {
  const update = updateExpression({ missing: true, discoveredAt });
  await updateIf(database, database.tables.vms, keyOf(vm), update, "attribute_exists(id)");
}

/** As {@link forgetRow}. */
export function forgetVm(database: Database, vm: Key): Promise<void> {
  return forgetRow(database, database.tables.vms, vm);
}

/** Condition of another write: the VM was there at the last discovery. */
export function requireVm(database: Database, vm: Key): TransactionItem {
  return {
    ConditionCheck: {
      TableName: database.tables.vms,
      Key: keyOf(vm),
      ConditionExpression: "attribute_exists(id) AND #missing = :false",
      ExpressionAttributeNames: { "#missing": "missing" },
      ExpressionAttributeValues: { ":false": false },
    },
  };
}

/** Condition of another write: the VM is {@link perhapsStopped}, and no operation holds it that might start it. */
export function requirePerhapsStoppedVm(database: Database, vm: Key, now: string): TransactionItem {
  const [stopped, stopping] = perhapsStopped;
  return {
    ConditionCheck: {
      TableName: database.tables.vms,
      Key: keyOf(vm),
      ConditionExpression: "#state IN (:stopped, :stopping) AND (attribute_not_exists(heldUntil) OR heldUntil <= :now)",
      ExpressionAttributeNames: { "#state": "state" },
      ExpressionAttributeValues: { ":stopped": stopped, ":stopping": stopping, ":now": now },
    },
  };
}

/** Which operation holds a VM, and until when that counts (ISO 8601) if nobody ends it. */
export interface VmHold {
  readonly operationId: string;
  readonly until: string;
}

/** An operation holds the VM until it lets go, or until that time. One at a time. */
export function holdVm(database: Database, vm: Key, hold: VmHold, now: string) {
  return {
    Update: {
      TableName: database.tables.vms,
      Key: keyOf(vm),
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
  } satisfies TransactionItem;
}

/** {@link holdVm} as a write of its own. Answers false when the VM cannot be held now. */
export function tryHoldVm(database: Database, vm: Key, hold: VmHold, now: string): Promise<boolean> {
  return isMade(database.client.send(new UpdateCommand(holdVm(database, vm, hold, now).Update)));
}

/** As {@link releaseHold}. */
export function releaseVm(database: Database, vm: Key, operationId: string): Promise<void> {
  return releaseHold(database, database.tables.vms, vm, operationId);
}
