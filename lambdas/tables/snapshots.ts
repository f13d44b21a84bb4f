/** Snapshot rows. Every change of state is one conditional write on `updateCount`. */
import { DeleteCommand, UpdateCommand } from "@aws-sdk/lib-dynamodb";
import {
  type BackupCheck,
  changeId,
  type FoundHintMismatch,
  type Snapshot,
  type SnapshotState,
} from "../domain/snapshot.ts";
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
  updateIf,
} from "./database.ts";

/** Rows of Destroyed snapshots stay this long, for whoever asks what became of them. */
const keepDestroyedSeconds = 30 * 86_400;

/** States in which a snapshot rests; all others are listed in the `by-state` index for garbage collection. */
const settledStates: ReadonlySet<SnapshotState> = new Set(["BackedUp", "Destroyed"]);

/** Snapshots that are BackedUp wait in this one queue for the next look at their backups. */
const checkQueue = "backups";

/** A row as the domain knows it, without the attributes that only serve indexes. */
export function readSnapshot(row: Row): Snapshot {
  const {
    volumeKey: _volumeKey,
    vmKey: _vmKey,
    unsettled: _unsettled,
    checkQueue: _checkQueue,
    checkedAt: _checkedAt,
    expiresAt: _expiresAt,
    readers,
    ...snapshot
  } = row;
  return { ...snapshot, readers: [...((readers as Set<string> | undefined) ?? [])].sort() } as unknown as Snapshot;
}

/** Partition of an index within one tenant. */
function keyWithin(tenant: string, id: string): string {
  return `${tenant}#${id}`;
}

export async function getSnapshot(database: Database, tenant: string, id: string): Promise<Snapshot | undefined> {
  const row = await getRow(database, database.tables.snapshots, { tenant, id });
  return row && readSnapshot(row);
}

/** Of one volume, of one VM, or of all. */
interface Whose {
  readonly volumeId?: string;
  readonly vmId?: string;
}

/** Newest first. Destroyed ones are listed only when `state` asks for them. `after` is the id that the page before ended with. */
export function listSnapshots(
  database: Database,
  tenant: string,
  filter: Whose & { state?: SnapshotState; limit: number; after?: string },
): Promise<Page<Snapshot>> {
  return pageOfRows(
    database,
    { TableName: database.tables.snapshots, ...partitionOf(tenant, filter), sortKey: "id" },
    {
      limit: filter.limit,
      after: filter.after,
      accept: ({ state }) => (filter.state === undefined ? state !== "Destroyed" : state === filter.state),
      read: readSnapshot,
    },
  );
}

function partitionOf(tenant: string, { volumeId, vmId }: Whose): { IndexName?: string; partition: [string, string] } {
  if (vmId !== undefined) return { IndexName: "by-vm", partition: ["vmKey", keyWithin(tenant, vmId)] };
  if (volumeId !== undefined) return { IndexName: "by-volume", partition: ["volumeKey", keyWithin(tenant, volumeId)] };
  return { partition: ["tenant", tenant] };
}

/** Newest first, of every tenant, oldest ids last. */
export async function* snapshotsOfVolume(
  database: Database,
  tenant: string,
  volumeId: string,
): AsyncGenerator<Snapshot> {
  const rows = queryRows(database, {
    TableName: database.tables.snapshots,
    IndexName: "by-volume",
    KeyConditionExpression: "volumeKey = :key",
    ExpressionAttributeValues: { ":key": keyWithin(tenant, volumeId) },
    ScanIndexForward: false,
  });
  for await (const row of rows) yield readSnapshot(row);
}

/** All snapshots, of every tenant, that are in an unsettled state. Eventually consistent: read the row again before acting on it. */
export async function* snapshotsInState(database: Database, state: SnapshotState): AsyncGenerator<Snapshot> {
  const rows = queryRows(database, {
    TableName: database.tables.snapshots,
    IndexName: "by-state",
    KeyConditionExpression: "unsettled = :state",
    ExpressionAttributeValues: { ":state": state },
  });
  for await (const row of rows) yield readSnapshot(row);
}

export function insertSnapshot(database: Database, snapshot: Omit<Snapshot, "readers">): TransactionItem {
  const { tenant, volumeId, vmId, state } = snapshot;
  const ofVm = vmId === undefined ? {} : { vmKey: keyWithin(tenant, vmId) };
  return {
    Put: {
      TableName: database.tables.snapshots,
      Item: { ...snapshot, volumeKey: keyWithin(tenant, volumeId), ...ofVm, unsettled: state },
      ConditionExpression: "attribute_not_exists(id)",
    },
  };
}

/** A snapshot whose backup is there already. It waits for its first check. An update, so that who makes it needs no right to replace rows. */
export function insertBackedUp(
  database: Database,
  { tenant, id, ...snapshot }: Omit<Snapshot, "readers">,
): TransactionItem {
  const waiting = { volumeKey: keyWithin(tenant, snapshot.volumeId), checkQueue, checkedAt: snapshot.updatedAt };
  return {
    Update: {
      TableName: database.tables.snapshots,
      Key: { tenant, id },
      ...updateExpression({ ...snapshot, ...waiting }),
      ConditionExpression: "attribute_not_exists(id)",
    },
  };
}

export interface SnapshotMove {
  readonly to: SnapshotState;
  /** The job that owns the snapshot from now on. */
  readonly jobId: string;
  /** `jobId` of the attempt that makes this change; the owner if absent. */
  readonly by?: string;
  readonly attempt: number;
  readonly now: string;
  readonly set?: Partial<Omit<Snapshot, "tenant" | "id" | "state" | "readers">>;
}

/** The write that makes the move, on condition that the row is still the one that the decision was made on. */
export function moveSnapshot(database: Database, snapshot: Snapshot, move: SnapshotMove): TransactionItem {
  const update = updateExpression({
    ...move.set,
    state: move.to,
    unsettled: settledStates.has(move.to) ? undefined : move.to,
    checkQueue: move.to === "BackedUp" ? checkQueue : undefined,
    checkedAt: move.to === "BackedUp" ? move.now : undefined,
    updateCount: snapshot.updateCount + 1,
    lastChange: changeId(move.by ?? move.jobId, move.to, move.attempt),
    jobId: move.jobId,
    attempt: move.attempt,
    updatedAt: move.now,
    expiresAt: move.to === "Destroyed" ? Math.floor(Date.parse(move.now) / 1000) + keepDestroyedSeconds : undefined,
  });
  const unread = move.to === "Destroying" ? " AND attribute_not_exists(readers)" : "";
  return {
    Update: {
      TableName: database.tables.snapshots,
      Key: { tenant: snapshot.tenant, id: snapshot.id },
      ...update,
      ConditionExpression: `updateCount = :expectedCount${unread}`,
      ExpressionAttributeValues: { ...update.ExpressionAttributeValues, ":expectedCount": snapshot.updateCount },
    },
  };
}

/** Condition of another write: this job is creating the snapshot. */
export function requireCreating(
  database: Database,
  snapshot: Pick<Snapshot, "tenant" | "id">,
  jobId: string,
): TransactionItem {
  return {
    ConditionCheck: {
      TableName: database.tables.snapshots,
      Key: { tenant: snapshot.tenant, id: snapshot.id },
      ConditionExpression: "#state = :creating AND jobId = :job",
      ExpressionAttributeNames: { "#state": "state" },
      ExpressionAttributeValues: { ":creating": "Creating", ":job": jobId },
    },
  };
}

/** How much room the frozen state takes on primary now; no change of state. */
export async function recordPhysicalBytes(
  database: Database,
  snapshot: Pick<Snapshot, "tenant" | "id">,
  physicalBytes: number,
): Promise<void> {
  await database.client.send(
    new UpdateCommand({
      TableName: database.tables.snapshots,
      Key: { tenant: snapshot.tenant, id: snapshot.id },
      UpdateExpression: "SET physicalBytes = :bytes",
      ConditionExpression: "attribute_exists(id)",
      ExpressionAttributeValues: { ":bytes": physicalBytes },
    }),
  );
}

/** A snapshot whose backup is to be looked at. `checkedAt` is when that was last begun, or when the backup was made; ISO 8601. */
export interface DueCheck {
  readonly tenant: string;
  readonly id: string;
  readonly checkedAt: string;
}

/** Snapshots of every tenant that are BackedUp and were not looked at since `before`, the longest unseen first. Eventually consistent. */
export async function* checksDue(database: Database, before: string): AsyncGenerator<DueCheck> {
  const rows = queryRows(database, {
    TableName: database.tables.snapshots,
    IndexName: "by-check",
    KeyConditionExpression: "checkQueue = :queue AND checkedAt < :before",
    ExpressionAttributeValues: { ":queue": checkQueue, ":before": before },
  });
  for await (const row of rows) yield row as unknown as DueCheck;
}

/** Puts the snapshot at the end of the queue of checks. False when it is no longer BackedUp, or another run has taken it. */
export function claimCheck(database: Database, due: DueCheck, now: string): Promise<boolean> {
  return updateWhile(database, due, { checkedAt: now }, { checkedAt: due.checkedAt });
}

/** Writes down what a check has found. False when the snapshot is no longer BackedUp: then it means nothing. */
export function recordCheck(
  database: Database,
  snapshot: Pick<Snapshot, "tenant" | "id">,
  lastCheck: BackupCheck,
): Promise<boolean> {
  return updateWhile(database, snapshot, { lastCheck }, { state: "BackedUp" });
}

/** Writes down that the hypervisor's hints were wrong. False when the snapshot no longer belongs to that job. */
export function recordHintMismatch(
  database: Database,
  snapshot: Pick<Snapshot, "tenant" | "id">,
  hintMismatch: FoundHintMismatch,
): Promise<boolean> {
  return updateWhile(database, snapshot, { hintMismatch }, { state: "BackingUp", jobId: hintMismatch.jobId });
}

/** Writes down that the snapshot's backup is encrypted. False when the snapshot no longer belongs to that job. */
export function recordEncrypted(
  database: Database,
  snapshot: Pick<Snapshot, "tenant" | "id">,
  jobId: string,
): Promise<boolean> {
  return updateWhile(database, snapshot, { encrypted: true }, { state: "BackingUp", jobId });
}

/**
 * Writes down a later end of the lock on the backup in that store. False when the row has one as late, is of another store, or is no longer BackedUp.
 * `lockedUntil` is ISO 8601 in UTC with milliseconds, as rows have it: such times compare as text.
 */
export async function recordLongerLock(
  database: Database,
  { tenant, id, storeId }: Pick<Snapshot, "tenant" | "id" | "storeId">,
  lockedUntil: string,
): Promise<boolean> {
  return isMade(
    database.client.send(
      new UpdateCommand({
        TableName: database.tables.snapshots,
        Key: { tenant, id },
        UpdateExpression: "SET lockedUntil = :lockedUntil",
        ConditionExpression:
          "#state = :backedUp AND storeId = :storeId AND (attribute_not_exists(lockedUntil) OR lockedUntil < :lockedUntil)",
        ExpressionAttributeNames: { "#state": "state" },
        ExpressionAttributeValues: { ":lockedUntil": lockedUntil, ":backedUp": "BackedUp", ":storeId": storeId },
      }),
    ),
  );
}

/** A change that is none of state, made only while the row has these values. Answers whether it was made. */
async function updateWhile(
  database: Database,
  { tenant, id }: Pick<Snapshot, "tenant" | "id">,
  change: Readonly<Row>,
  expected: Readonly<Record<string, string>>,
): Promise<boolean> {
  const names = Object.keys(expected);
  const update = updateExpression(change);
  return updateIf(
    database,
    database.tables.snapshots,
    { tenant, id },
    {
      ...update,
      ExpressionAttributeNames: {
        ...update.ExpressionAttributeNames,
        ...Object.fromEntries(names.map((name) => [`#while_${name}`, name])),
      },
    },
    names.map((name) => `#while_${name} = :while_${name}`).join(" AND "),
    Object.fromEntries(names.map((name) => [`:while_${name}`, expected[name]])),
  );
}

/** Takes a reader's lease: only while the snapshot is BackedUp. */
export function addReader(
  database: Database,
  snapshot: Pick<Snapshot, "tenant" | "id">,
  jobId: string,
): TransactionItem {
  return {
    Update: {
      TableName: database.tables.snapshots,
      Key: { tenant: snapshot.tenant, id: snapshot.id },
      UpdateExpression: "ADD readers :reader",
      ConditionExpression: "#state = :backedUp",
      ExpressionAttributeNames: { "#state": "state" },
      ExpressionAttributeValues: { ":reader": new Set([jobId]), ":backedUp": "BackedUp" },
    },
  };
}

/** Gives the lease back; given back already is success. */
export function removeReader(
  database: Database,
  snapshot: Pick<Snapshot, "tenant" | "id">,
  jobId: string,
): TransactionItem {
  return {
    Update: {
      TableName: database.tables.snapshots,
      Key: { tenant: snapshot.tenant, id: snapshot.id },
      UpdateExpression: "DELETE readers :reader",
      ConditionExpression: "attribute_exists(id)",
      ExpressionAttributeValues: { ":reader": new Set([jobId]) },
    },
  };
}

/** Removes a row whose hypervisor or store is forgotten: nothing can be done with the snapshot any more. Gone is success. */
export async function forgetSnapshot(database: Database, snapshot: Pick<Snapshot, "tenant" | "id">): Promise<void> {
  await database.client.send(
    new DeleteCommand({
      TableName: database.tables.snapshots,
      Key: { tenant: snapshot.tenant, id: snapshot.id },
    }),
  );
}
