/**
 * Rows of anchors, beside the store references: one for each volume and store. An anchor is the copy on primary of a deleted snapshot, kept
 * so that the next backup is told its changes ([decision 022](../../docs/decisions/022-references-on-primary.md)).
 */
import { DeleteCommand, PutCommand } from "@aws-sdk/lib-dynamodb";
import type { ByteRange } from "../domain/byte-ranges.ts";
import type { Volume } from "../domain/inventory.ts";
import type { Snapshot } from "../domain/snapshot.ts";
import { type Database, isMade, queryRows, type Row } from "./database.ts";

export interface Anchor {
  readonly tenant: string;
  readonly volumeId: string;
  /** The store that its snapshot was backed up to. */
  readonly storeId: string;
  /** The deleted snapshot, whose copy it is. */
  readonly snapshotId: string;
  /** Adapter's words. */
  readonly installPath: string;
  /** A backed up snapshot in the same store, older than the deleted one. */
  readonly baseSnapshotId: string;
  /** What changed between the two: offset and length in turns, bytes, ascending. */
  readonly changed: readonly number[];
  /** What the copy takes on primary, bytes. */
  readonly physicalBytes: number;
}

/** {@link Anchor.changed} as ranges. */
export function* anchorRanges({ changed }: Pick<Anchor, "changed">): Generator<ByteRange> {
  for (let at = 0; at < changed.length; at += 2) yield { offset: changed[at]!, length: changed[at + 1]! };
}

type VolumeKey = Pick<Volume, "tenant" | "id">;

/** Ids of volumes and of snapshots have prefixes of their own: no store reference begins like this. */
function prefixOf(volumeId: string): string {
  return `${volumeId}#Anchor#`;
}

function rowKey({ tenant, volumeId, storeId }: Pick<Anchor, "tenant" | "volumeId" | "storeId">): Row {
  return { tenant, reference: `${prefixOf(volumeId)}${storeId}` };
}

export async function anchorsOf(database: Database, { tenant, id }: VolumeKey): Promise<Anchor[]> {
  const anchors: Anchor[] = [];
  const rows = queryRows(database, {
    TableName: database.tables.storeReferences,
    KeyConditionExpression: "tenant = :tenant AND begins_with(#reference, :prefix)",
    ExpressionAttributeNames: { "#reference": "reference" },
    ExpressionAttributeValues: { ":tenant": tenant, ":prefix": prefixOf(id) },
    ConsistentRead: true,
  });
  for await (const { reference: _reference, ...anchor } of rows) anchors.push(anchor as unknown as Anchor);
  return anchors;
}

/** The one of the snapshot's volume and store. */
export async function anchorFor(
  database: Database,
  { tenant, volumeId, storeId }: Pick<Snapshot, "tenant" | "volumeId" | "storeId">,
): Promise<Anchor | undefined> {
  const anchors = await anchorsOf(database, { tenant, id: volumeId });
  return anchors.find((anchor) => anchor.storeId === storeId);
}

/** Only where there is none of another snapshot. Answers whether it was written. */
export function writeAnchor(database: Database, anchor: Anchor): Promise<boolean> {
  return isMade(
    database.client.send(
      new PutCommand({
        TableName: database.tables.storeReferences,
        Item: { ...rowKey(anchor), ...anchor },
        ConditionExpression: "attribute_not_exists(snapshotId) OR snapshotId = :snapshot",
        ExpressionAttributeValues: { ":snapshot": anchor.snapshotId },
      }),
    ),
  );
}

/** Removes the row. Gone, or of another snapshot by now, is success. */
export async function deleteAnchor(database: Database, anchor: Anchor): Promise<void> {
  await isMade(
    database.client.send(
      new DeleteCommand({
        TableName: database.tables.storeReferences,
        Key: rowKey(anchor),
        ConditionExpression: "attribute_not_exists(snapshotId) OR snapshotId = :snapshot",
        ExpressionAttributeValues: { ":snapshot": anchor.snapshotId },
      }),
    ),
  );
}
