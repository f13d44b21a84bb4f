/** Volume rows. */
import { DeleteCommand, UpdateCommand } from "@aws-sdk/lib-dynamodb";
import type { ErrorSummary } from "../domain/errors.ts";
import type { HypervisorRow, Volume } from "../domain/inventory.ts";
import {
  type Database,
  getRow,
  isMade,
  type Page,
  queryRows,
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

/** Key of the sparse index that lists volumes which backups have worked on. */
const busy = "backing-up";

export async function getVolume(database: Database, tenant: string, id: string): Promise<Volume | undefined> {
  return (await getRow(database, database.tables.volumes, { tenant, id })) as Volume | undefined;
}

/** In descending order of ids. Unassigned volumes are left out unless asked for. */
export function listVolumes(
  database: Database,
  tenant: string,
  filter: { hypervisorId?: string; withUnassigned: boolean; limit: number; after?: string },
): Promise<Page<Volume>> {
  return pageOfDiscovered(database, database.tables.volumes, tenant, filter);
}

/** As {@link rowsOnHypervisor}. */
export function volumesOnHypervisor(
  database: Database,
  hypervisor: Pick<HypervisorRow, "tenant" | "id">,
): AsyncGenerator<Volume> {
  return rowsOnHypervisor(database, database.tables.volumes, hypervisor);
}

/** As {@link recordFoundRow}. What Snapferry itself keeps of the volume (its counts, its restore) is left alone. */
export function recordDiscovered(
  database: Database,
  found: Omit<
    Volume,
    "backingUp" | "restoringJobId" | "missing" | "heldFor" | "heldUntil" | "protection" | "protectionError"
  >,
  insteadOf?: string,
): Promise<boolean> {
  const attributes = { allocatedBytes: undefined, unsupported: undefined, ...found };
  return recordFoundRow(database, database.tables.volumes, attributes, insteadOf, { backingUp: 0 });
}

/** A volume that discovery did not find any more. */
export async function markMissing(database: Database, volume: Key, discoveredAt: string): Promise<void> {
  const update = updateExpression({ missing: true, discoveredAt });
  const condition = "attribute_exists(id) AND attribute_not_exists(restoringJobId)";
  await updateIf(database, database.tables.volumes, keyOf(volume), update, condition);
}

/** The row of a volume that is known from its backups only. An update, so that who makes it needs no right to replace rows. */
export function insertMissingVolume(database: Database, { tenant, id, ...volume }: Volume): TransactionItem {
  return {
    Update: {
      TableName: database.tables.volumes,
      Key: { tenant, id },
      ...updateExpression({ ...volume }),
      ConditionExpression: "attribute_not_exists(id)",
    },
  };
}

/** The row of a volume that a restore makes. A row of a volume that is missing by now may be taken over. */
export function insertRestoringVolume(database: Database, volume: Volume): TransactionItem {
  return {
    Put: {
      TableName: database.tables.volumes,
      Item: volume,
      ConditionExpression:
        "attribute_not_exists(id) OR (#missing = :true AND attribute_not_exists(restoringJobId) AND backingUp = :zero)",
      ExpressionAttributeNames: { "#missing": "missing" },
      ExpressionAttributeValues: { ":true": true, ":zero": 0 },
    },
  };
}

/**
 * A restore in place has the volume for itself: no snapshot of it is requested, and no VM that has it is started. Not while it is missing,
 * backed up, or held.
 */
export function claimForRestore(database: Database, volume: Key, jobId: string, now: string): TransactionItem {
  return {
    Update: {
      TableName: database.tables.volumes,
      Key: keyOf(volume),
      UpdateExpression: "SET restoringJobId = :job",
      ConditionExpression:
        "attribute_exists(id) AND #missing = :false AND attribute_not_exists(restoringJobId) AND backingUp = :zero AND (attribute_not_exists(heldUntil) OR heldUntil <= :now)",
      ExpressionAttributeNames: { "#missing": "missing" },
      ExpressionAttributeValues: { ":job": jobId, ":false": false, ":zero": 0, ":now": now },
    },
  };
}

/** The volume has what its restore has put there; it stays the restore's until that has let go of the hypervisor. */
export function recordRestoredInPlace(
  database: Database,
  volume: Key,
  jobId: string,
  now: Pick<Volume, "sizeBytes"> & { readonly allocatedBytes: number | undefined },
): TransactionItem {
  const update = updateExpression({ sizeBytes: now.sizeBytes, allocatedBytes: now.allocatedBytes });
  return {
    Update: {
      TableName: database.tables.volumes,
      Key: keyOf(volume),
      ...update,
      ConditionExpression: "restoringJobId = :job",
      ExpressionAttributeValues: { ...update.ExpressionAttributeValues, ":job": jobId },
    },
  };
}

/** A restore in place needs the volume no more, whatever became of it. Gone, or another's, is success. */
export async function endRestoreInPlace(database: Database, volume: Key, jobId: string): Promise<void> {
  const update = updateExpression({ restoringJobId: undefined });
  await updateIf(database, database.tables.volumes, keyOf(volume), update, "restoringJobId = :job", { ":job": jobId });
}

/** The restore is done: the volume is everybody's. */
export function releaseRestoredVolume(
  database: Database,
  volume: Key,
  jobId: string,
  allocatedBytes: number | undefined,
): TransactionItem {
  const update = updateExpression({ restoringJobId: undefined, allocatedBytes });
  return {
    Update: {
      TableName: database.tables.volumes,
      Key: keyOf(volume),
      ...update,
      ConditionExpression: "restoringJobId = :job",
      ExpressionAttributeValues: { ...update.ExpressionAttributeValues, ":job": jobId },
    },
  };
}

/** The restore is done, and the hypervisor has its volume under another id than was foreseen: the row that was made for it goes. */
export function dropRestoringVolume(database: Database, volume: Key, jobId: string): TransactionItem {
  return {
    Delete: {
      TableName: database.tables.volumes,
      Key: keyOf(volume),
      ConditionExpression: "restoringJobId = :job",
      ExpressionAttributeValues: { ":job": jobId },
    },
  };
}

/** Removes the row of a volume whose restore failed, after its bytes are gone. Gone is success. */
export async function deleteRestoringVolume(database: Database, volume: Key, jobId: string): Promise<void> {
  await isMade(
    database.client.send(
      new DeleteCommand({
        TableName: database.tables.volumes,
        Key: keyOf(volume),
        ConditionExpression: "attribute_not_exists(id) OR restoringJobId = :job",
        ExpressionAttributeValues: { ":job": jobId },
      }),
    ),
  );
}

/** As {@link forgetRow}. */
export function forgetVolume(database: Database, volume: Key): Promise<void> {
  return forgetRow(database, database.tables.volumes, volume);
}

/** Condition of another write: the volume is there and protected, and no restore is writing it. */
export function requireUsableVolume(database: Database, volume: Key): TransactionItem {
  return {
    ConditionCheck: {
      TableName: database.tables.volumes,
      Key: keyOf(volume),
      ConditionExpression:
        "attribute_exists(id) AND attribute_not_exists(restoringJobId) AND attribute_not_exists(protection)",
    },
  };
}

/** One backup of the volume more; not while an operation holds the volume. */
export function beginBackingUp(database: Database, volume: Key, now: string): TransactionItem {
  return {
    Update: {
      TableName: database.tables.volumes,
      Key: keyOf(volume),
      UpdateExpression: "SET busy = :busy ADD backingUp :one",
      ConditionExpression: "attribute_exists(id) AND (attribute_not_exists(heldUntil) OR heldUntil <= :now)",
      ExpressionAttributeValues: { ":one": 1, ":busy": busy, ":now": now },
    },
  };
}

/** One backup of the volume less. */
export function endBackingUp(database: Database, volume: Key): TransactionItem {
  return {
    Update: {
      TableName: database.tables.volumes,
      Key: keyOf(volume),
      UpdateExpression: "SET busy = :busy ADD backingUp :minusOne",
      ConditionExpression: "attribute_exists(id)",
      ExpressionAttributeValues: { ":minusOne": -1, ":busy": busy },
    },
  };
}

/** Which operation holds a volume, and until when that counts (ISO 8601) if nobody ends it. */
export interface VolumeHold {
  readonly operationId: string;
  readonly until: string;
  /** Not while a restore has the volume. */
  readonly unlessRestoring?: boolean;
}

/** Condition of another write: no restore has the volume. */
export function requireNotRestoring(database: Database, volume: Key): TransactionItem {
  return {
    ConditionCheck: {
      TableName: database.tables.volumes,
      Key: keyOf(volume),
      ConditionExpression: "attribute_not_exists(restoringJobId)",
    },
  };
}

/**
 * No backup of the volume begins until the operation lets go, or until that time. Only while none is going on, and no other operation holds
 * the volume.
 */
export function holdVolume(database: Database, volume: Key, hold: VolumeHold, now: string): TransactionItem {
  const free = "backingUp = :zero AND (attribute_not_exists(heldUntil) OR heldUntil <= :now OR heldFor = :operation)";
  return {
    Update: {
      TableName: database.tables.volumes,
      Key: keyOf(volume),
      UpdateExpression: "SET heldFor = :operation, heldUntil = :until",
      ConditionExpression: hold.unlessRestoring ? `${free} AND attribute_not_exists(restoringJobId)` : free,
      ExpressionAttributeValues: { ":operation": hold.operationId, ":until": hold.until, ":zero": 0, ":now": now },
    },
  };
}

/**
 * {@link holdVolume} as a write of its own. Answers false when the volume cannot be held now; `closed`: also when a snapshot of it could be
 * requested.
 */
export async function tryHoldVolume(
  database: Database,
  volume: Key,
  hold: VolumeHold & { readonly closed?: boolean },
  now: string,
): Promise<boolean> {
  const { Update } = holdVolume(database, volume, hold, now);
  if (Update === undefined) return false;
  const closed = {
    ...Update,
    ConditionExpression: `${Update.ConditionExpression} AND (attribute_exists(restoringJobId) OR #protection = :ending)`,
    ExpressionAttributeNames: { "#protection": "protection" },
    ExpressionAttributeValues: { ...Update.ExpressionAttributeValues, ":ending": "ending" },
  };
  return isMade(database.client.send(new UpdateCommand(hold.closed ? closed : Update)));
}

/** As {@link releaseHold}. */
export function releaseVolume(database: Database, volume: Key, operationId: string): Promise<void> {
  return releaseHold(database, database.tables.volumes, volume, operationId);
}

/** No snapshot of the volume is taken from now on. Answers false when it is not protected, missing, or being restored. */
export function beginEndOfProtection(database: Database, volume: Key): Promise<boolean> {
  return updateIf(
    database,
    database.tables.volumes,
    keyOf(volume),
    updateExpression({ protection: "ending", protectionError: undefined }),
    "attribute_exists(id) AND #missing = :false AND attribute_not_exists(restoringJobId) AND attribute_not_exists(#protection)",
    { ":false": false },
    { "#missing": "missing" },
  );
}

/** Volumes of every tenant whose protection is ending. Eventually consistent. */
export async function* volumesEndingProtection(database: Database): AsyncGenerator<Volume> {
  const rows = queryRows(database, {
    TableName: database.tables.volumes,
    IndexName: "by-protection",
    KeyConditionExpression: "protection = :ending",
    ExpressionAttributeValues: { ":ending": "ending" },
  });
  for await (const row of rows) yield row as unknown as Volume;
}

/** Nothing is left on the hypervisor. Protected again by now is success. */
export async function protectionEnded(database: Database, volume: Key): Promise<void> {
  const update = updateExpression({ protection: "ended", protectionError: undefined });
  await updateIf(database, database.tables.volumes, keyOf(volume), update, "#protection = :ending", {
    ":ending": "ending",
  });
}

/** Why protection has not ended; undefined: it only has to wait. */
export async function recordProtectionError(
  database: Database,
  volume: Key,
  protectionError: ErrorSummary | undefined,
): Promise<void> {
  const names = { "#protection": "protection" };
  const update = updateExpression({ protectionError });
  await updateIf(
    database,
    database.tables.volumes,
    keyOf(volume),
    update,
    "#protection = :ending",
    { ":ending": "ending" },
    names,
  );
}

/** The volume takes snapshots again. Answers false when it is gone, or held: a merge that was begun is not left in its middle. */
export function protectAgain(database: Database, volume: Key, now: string): Promise<boolean> {
  return updateIf(
    database,
    database.tables.volumes,
    keyOf(volume),
    updateExpression({ protection: undefined, protectionError: undefined }),
    "attribute_exists(id) AND (attribute_not_exists(heldUntil) OR heldUntil <= :now)",
    { ":now": now },
  );
}

/** Volumes of every tenant that have been backed up since the reconciler last looked. Eventually consistent. */
export async function* busyVolumes(database: Database): AsyncGenerator<Volume> {
  const rows = queryRows(database, {
    TableName: database.tables.volumes,
    IndexName: "busy",
    KeyConditionExpression: "busy = :busy",
    ExpressionAttributeValues: { ":busy": busy },
  });
  for await (const row of rows) yield row as unknown as Volume;
}

/** The volume is not being backed up: takes it off the list of busy ones, unless a backup has begun meanwhile. */
export async function markIdle(database: Database, volume: Key): Promise<void> {
  const update = updateExpression({ busy: undefined });
  await updateIf(database, database.tables.volumes, keyOf(volume), update, "backingUp = :zero", { ":zero": 0 });
}

/** Sets a count that was proven wrong, only while it is still the wrong one. */
export async function correctBackingUp(database: Database, volume: Key, wrong: number, right: number): Promise<void> {
  const update = updateExpression({ backingUp: right });
  await updateIf(database, database.tables.volumes, keyOf(volume), update, "backingUp = :wrong", { ":wrong": wrong });
}
