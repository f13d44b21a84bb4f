/**
 * A plan: one object with a table of shards in front and each shard's part behind it, so that a worker reads the table and its own
 * part. The SHA-256 of the sealed table names the plan: it covers the hash of every part.
 */
import { RepositoryDamaged } from "../domain/errors.ts";
import { ByteReader, ByteWriter, hashBytes, seal, sha256, unseal } from "./binary.ts";
import { type DomainCipher, openCipher } from "./domain-cipher.ts";
import { areSizesOfDomain, type DomainLocation, type Geometry } from "./domain-record.ts";
import type { ObjectStore } from "./object-store.ts";
import type { JobObject } from "./record.ts";
import { readAgainIfDamaged } from "./reread.ts";

/** More would not fit into one Distributed Map (10,000 concurrent children, and its history). */
export const maxShards = 10_000;

export interface ShardPart {
  /** Bytes of the volume that this shard's worker handles. */
  readonly bytes: number;
  readonly body: Uint8Array;
}

export interface ShardTable {
  readonly hash: string;
  readonly shape: VolumeShape;
  readonly shards: readonly ShardEntry[];
  /** Of an encrypted domain: the plan was written with its key. */
  readonly cipher: DomainCipher | undefined;
  /** The first bytes of the plan, as many as came with the table: most plans are small, and their parts need no request of their own. */
  readonly head: Uint8Array;
}

/** What all shards of a plan have in common. */
export interface VolumeShape {
  readonly sizeBytes: number;
  readonly geometry: Geometry;
  /** Of the domain; empty when it is not encrypted. */
  readonly wrappedKey: Uint8Array;
  /** Whether only what a hint calls changed is read: all else is as in the base. */
  readonly hinted: boolean;
}

interface ShardEntry {
  readonly bytes: number;
  readonly offset: number;
  readonly length: number;
  readonly sha256: string;
}

/** table length u32 in front of the sealed table */
const prefixBytes = 4;
/** bytes u64, length u32, SHA-256 */
const entryBytes = 8 + 4 + hashBytes;
/** Holds the table of up to 5,900 shards, so that one request is mostly enough. */
const firstReadBytes = 256 * 1024;
const maxTableBytes = 16 * 1024 + maxShards * entryBytes;

/** The plan of the job that has `object`; in an encrypted domain nobody writes one without the domain's key. */
export function encodeShardTable(shape: VolumeShape, parts: readonly ShardPart[], { key, cipher }: JobObject): Buffer {
  const { chunkBytes, pageChunks, packBytes } = shape.geometry;
  const writer = new ByteWriter()
    .u64(shape.sizeBytes)
    .u32(chunkBytes)
    .u32(pageChunks)
    .u32(packBytes)
    .u32(shape.wrappedKey.length)
    .bytes(shape.wrappedKey)
    .u8(shape.hinted ? 1 : 0)
    .u32(parts.length);
  for (const part of parts) writer.u64(part.bytes).u32(part.body.length).hex(sha256(part.body));
  if (shape.wrappedKey.length > 0) {
    if (!cipher) throw new TypeError("The plan of an encrypted domain needs the domain's cipher.");
    writer.hex(cipher.authenticateJobObject(key, writer.finish()));
  }
  const table = seal("plan", writer.finish());
  const prefix = new ByteWriter().u32(table.length).finish();
  return Buffer.concat([prefix, table, ...parts.map((part) => part.body)]);
}

export function totalBytes(table: ShardTable): number {
  return table.shards.reduce((sum, shard) => sum + shard.bytes, 0);
}

/** The table of a whole plan that was just written. */
export function decodeShardTable(plan: Uint8Array, { key, cipher }: JobObject): ShardTable {
  const length = new ByteReader(plan, key).u32();
  return { ...decodeTable(plan.subarray(prefixBytes, prefixBytes + length), key).openedBy(cipher), head: plan };
}

/**
 * Undefined when there is no such plan. Throws EncryptionKeyUnavailable, and RepositoryDamaged, also for a plan that was not written with the key of its
 * domain, and for one of a domain that is not encrypted where it has to be.
 */
export function readShardTable(source: DomainLocation, key: string): Promise<ShardTable | undefined> {
  return readAgainIfDamaged(async () => {
    const read = await readTable(source.store, key);
    return read && { ...read.table.openedBy(await openCipher(source, read.table.wrappedKey)), head: read.head };
  });
}

async function readTable(
  store: ObjectStore,
  key: string,
): Promise<{ readonly table: ClosedTable; readonly head: Uint8Array } | undefined> {
  const head = await store.get(key, { offset: 0, length: firstReadBytes });
  if (!head) return undefined;
  const length = new ByteReader(head, key).u32();
  if (length > maxTableBytes) throw new RepositoryDamaged(`The object ${key} is damaged: its table is too long.`);
  const bytes = head.subarray(prefixBytes, prefixBytes + length);
  const table = bytes.length === length ? bytes : await store.get(key, { offset: prefixBytes, length });
  return table && { table: decodeTable(table, key), head };
}

/** A table of which is not known yet whether it is authentic. */
interface ClosedTable {
  readonly wrappedKey: Uint8Array;
  /** Throws RepositoryDamaged when it was not written with that key. */
  openedBy(cipher: DomainCipher | undefined): Omit<ShardTable, "head">;
}

function decodeTable(bytes: Uint8Array, key: string): ClosedTable {
  const reader = unseal("plan", bytes, key);
  const sizeBytes = reader.u64();
  const geometry = { chunkBytes: reader.u32(), pageChunks: reader.u32(), packBytes: reader.u32() };
  if (!areSizesOfDomain(geometry)) throw reader.damaged("its sizes make no sense");
  const wrappedKey = Uint8Array.from(reader.bytes(reader.count(1)));
  const shape = { sizeBytes, geometry, wrappedKey, hinted: reader.u8() === 1 };
  let offset = prefixBytes + bytes.length;
  const shards = Array.from({ length: reader.count(entryBytes, maxShards) }, () => {
    const entry = { bytes: reader.u64(), offset, length: reader.u32(), sha256: reader.hex(hashBytes) };
    offset += entry.length;
    return entry;
  });
  const authenticated = reader.past();
  const authentication = wrappedKey.length > 0 ? reader.hex(hashBytes) : undefined;
  reader.end();
  return {
    wrappedKey,
    openedBy(cipher) {
      if (cipher && authentication !== cipher.authenticateJobObject(key, authenticated))
        throw reader.damaged("it was not written with the domain's key");
      return { hash: sha256(bytes), shape, shards, cipher };
    },
  };
}

/** A reader of one shard's part. Throws RepositoryDamaged when it is not what the table says. */
export async function readShardPart(
  store: ObjectStore,
  key: string,
  table: ShardTable,
  shard: number,
): Promise<ByteReader> {
  const entry = table.shards[shard];
  if (!entry) throw new RangeError(`The plan ${key} has no shard ${shard}.`);
  const known = table.head.subarray(entry.offset, entry.offset + entry.length);
  if (known.length === entry.length && sha256(known) === entry.sha256) return new ByteReader(known, key);
  return readAgainIfDamaged(async () => {
    const body = await store.get(key, { offset: entry.offset, length: entry.length });
    if (!body || sha256(body) !== entry.sha256) {
      throw new RepositoryDamaged(`The object ${key} is damaged: its part for shard ${shard} is not what was written.`);
    }
    return new ByteReader(body, key);
  });
}
