/** The few things that the repository asks of an object store. */
import { RepositoryDamaged } from "../domain/errors.ts";

/**
 * What a store may send of an object that is not a pack: whoever runs the store could else take all memory. The largest that is written are a branch whose pages
 * refer to 1,000,000 packs (32 bytes each, and 4 for each of 1,024 × 1,024 chunks: 35 MiB) and the result of a shard whose 2,048 pages refer to the 262,144
 * packs of 4 TiB (29 MiB of names, 13 MiB of pages).
 */
export const mostBytes = 64 * 1024 * 1024;

/** For an object of which the store sends more than `most` bytes. */
export function tooLarge(key: string, bytes: number, most: number): RepositoryDamaged {
  return new RepositoryDamaged(
    `The object ${key} is damaged: the store has ${bytes} bytes of it, and nothing that was written there has more than ${most}.`,
  );
}

/** `s3-object-store.ts` does all of it on any S3-compatible service. */
export interface ObjectStore {
  /**
   * Writes an object whole. The store checks the bytes against a SHA-256 that is sent along.
   * With `ifAbsent`, an existing object is left alone and the answer is `exists`. A store whose reply was lost is asked again; when the object is
   * there by then and has these bytes, the answer is `written`. So writers that need to know which of them won write different bytes.
   */
  put(key: string, body: Uint8Array, options?: PutOptions): Promise<"written" | "exists">;
  /**
   * The object, or `range` of it, which ends early where the object does. Undefined when there is no such object. A whole object whose bytes are not what the store's own checksum
   * tells is read once more, and is then returned as it is: what reads it has a hash of its own, and says what is damaged. Throws RepositoryDamaged, before it
   * makes room, when that is more than `most` bytes ({@link mostBytes} if absent) for which the caller brings no memory.
   */
  get(key: string, range?: ByteRange, most?: number): Promise<Uint8Array | undefined>;
  /** Size and the store's own SHA-256 of the object (hex, where the store kept one). Undefined when there is no such object. */
  head(key: string): Promise<ObjectHead | undefined>;
  /** Current objects below `prefix`, ascending by key. */
  list(prefix: string, options?: { startAfter?: string }): AsyncIterable<ListedObject>;
  /** Deletes these objects with every version and delete marker. Gone is success. Throws ObjectLocked when a version may not be deleted yet. */
  deleteEveryVersion(keys: readonly string[]): Promise<void>;
  /**
   * Deletes all below `prefix` with every version and delete marker, the object `last` once all else is gone, and aborts multipart uploads there; returns how
   * many versions went.
   */
  deleteEveryVersionBelow(
    prefix: string,
    options?: { until?: () => boolean; last?: string },
  ): Promise<{ deleted: number; finished: boolean }>;
  /**
   * Keeps anybody from deleting the object's current version before `retention.until` (rounded up to seconds). Extends an earlier retention, and never shortens
   * or weakens one: a repetition, or a shorter one, does nothing. Throws RepositoryDamaged when there is no such object, StoreUnfit without Object Lock.
   */
  retain(key: string, retention: Retention): Promise<void>;
  /**
   * Until when the store refuses to delete the object's current version; may be past. Undefined where nothing retains it, there is no such object, or
   * the store has no Object Lock. Throws StoreRefused without the right to ask.
   */
  retainedUntil(key: string): Promise<Date | undefined>;
  /** Whether objects of the store can be retained. */
  objectLockEnabled(): Promise<boolean>;
}

/** Bytes of an object. */
export interface ByteRange {
  readonly offset: number;
  readonly length: number;
  /** Memory of at least `length` bytes, where the answer is put: whoever reads much reads into the same memory again. */
  readonly into?: Uint8Array;
}

/** `GOVERNANCE`: who has a right of its own may lift it. `COMPLIANCE`: nobody may, the account's owner neither. */
export interface Retention {
  readonly mode: "GOVERNANCE" | "COMPLIANCE";
  readonly until: Date;
}

export interface PutOptions {
  readonly ifAbsent?: boolean;
  /** SHA-256 of the body, hex, where the caller knows it already: hashing 1 GiB takes 0.7 s. */
  readonly sha256?: string;
}

export interface ObjectHead {
  readonly size: number;
  readonly sha256?: string;
}

export interface ListedObject {
  readonly key: string;
  readonly size: number;
  readonly lastModified: Date;
}

/** The first object of a listing, if there is any. */
export async function firstBelow(
  store: ObjectStore,
  prefix: string,
  options?: Parameters<ObjectStore["list"]>[1],
): Promise<ListedObject | undefined> {
  for await (const object of store.list(prefix, options)) return object;
  return undefined;
}
