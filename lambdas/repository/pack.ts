/** A pack: many chunks in one immutable object. Bodies, then an index of them, then a footer that finds the index. */
import { RepositoryDamaged, UnsupportedFormat } from "../domain/errors.ts";
import { ByteReader, ByteWriter, hashBytes, magicBytes, magicOf, repositoryFormat, sha256 } from "./binary.ts";
import { type EncodedChunk, type Encoding, isEncoding } from "./chunk.ts";
import { encryptAt, tagBytes } from "./domain-cipher.ts";
import { borrowBuffer } from "./memory.ts";

/** Where a chunk lies in its pack, bytes; in an encrypted domain the stored bytes end in a tag. */
export interface PackedChunk {
  readonly hash: string;
  readonly offset: number;
  readonly length: number;
  readonly encoding: Encoding;
}

/** hash, offset u32, length u32, encoding u8 */
const entryBytes = hashBytes + 4 + 4 + 1;
/** format u16, entries u32, SHA-256 of the index, magic */
export const packFooterBytes = 2 + 4 + hashBytes + magicBytes;

/** Bytes out of shared memory are copied eight at a time where both places allow it, else one by one: a hundredth of a backup's CPU. */
const chunkAlignment = 8;

/** Keeps an index below 200 KiB even when chunks compress to next to nothing. */
const maxEntries = 4096;
/** The most that index and footer take: 164 KiB. */
export const maxPackTailBytes = maxEntries * entryBytes + packFooterBytes;
/** Of a domain with the largest `packBytes` and chunks that one can have: the last chunk may reach over by its own length. */
export const maxPackBytes = (64 + 16) * 1024 * 1024 + tagBytes + chunkAlignment + maxPackTailBytes;

/** Fills one buffer with chunks and seals it into a pack. The buffer may be used again once the pack is uploaded. */
export class PackBuilder {
  readonly #buffer: Buffer;
  readonly #packKey: Uint8Array | undefined;
  readonly #entries: PackedChunk[] = [];
  #length = 0;

  /** `buffer` comes from {@link packBuffer}. With `packKey` the chunks are encrypted. */
  constructor(buffer: Buffer, packKey?: Uint8Array) {
    this.#buffer = buffer;
    this.#packKey = packKey;
  }

  get isEmpty(): boolean {
    return this.#entries.length === 0;
  }

  isFull(packBytes: number): boolean {
    return this.#length >= packBytes || this.#entries.length >= maxEntries;
  }

  append(hash: string, chunk: EncodedChunk): PackedChunk {
    const offset = this.#length;
    const stored = this.#packKey ? encryptAt(this.#packKey, offset, chunk.bytes) : chunk.bytes;
    const entry = { hash, offset, length: stored.length, encoding: chunk.encoding };
    this.#buffer.set(stored, offset);
    this.#length = this.#aligned(offset + stored.length);
    this.#entries.push(entry);
    return entry;
  }

  /** Where the next chunk begins, with zeros before it: the buffer may hold another pack's bytes. */
  #aligned(end: number): number {
    const next = Math.ceil(end / chunkAlignment) * chunkAlignment;
    this.#buffer.fill(0, end, next);
    return next;
  }

  /** The whole object; shares memory with the buffer. */
  seal(): Buffer {
    const index = encodePackIndex(this.#entries);
    const footer = encodePackFooter(this.#entries.length, index);
    this.#buffer.set(index, this.#length);
    this.#buffer.set(footer, this.#length + index.length);
    return this.#buffer.subarray(0, this.#length + index.length + footer.length);
  }
}

/**
 * Room for a pack that is sealed once `packBytes` are reached: the last chunk may reach over by its own length. May go to
 * `returnBuffer`.
 */
export function packBuffer(packBytes: number, chunkBytes: number): Buffer {
  return borrowBuffer(packBytes + chunkBytes + tagBytes + chunkAlignment + maxPackTailBytes);
}

export function encodePackIndex(entries: readonly PackedChunk[]): Buffer {
  const writer = new ByteWriter();
  for (const entry of entries) writer.hex(entry.hash).u32(entry.offset).u32(entry.length).u8(entry.encoding);
  return writer.finish();
}

/** What makes a pack, and what makes the compacted form of one. */
export type PackKind = "pack" | "compactedPack";

export function encodePackFooter(entries: number, index: Uint8Array, kind: PackKind = "pack"): Buffer {
  return new ByteWriter().u16(repositoryFormat).u32(entries).hex(sha256(index)).bytes(magicOf(kind)).finish();
}

interface PackFooter {
  readonly entries: number;
  readonly indexBytes: number;
  readonly indexHash: string;
}

/** What the last {@link packFooterBytes} of a pack say. */
export function decodePackFooter(bytes: Uint8Array, name: string, kind: PackKind = "pack"): PackFooter {
  const reader = new ByteReader(bytes, name);
  const format = reader.u16();
  const entries = reader.u32();
  const indexHash = reader.hex(hashBytes);
  if (!reader.bytes(magicBytes).equals(magicOf(kind))) throw reader.damaged("it is not a pack");
  reader.end();
  if (format !== repositoryFormat) throw new UnsupportedFormat(`The pack ${name} has format ${format}.`);
  if (entries > maxEntries) throw reader.damaged("its index is too large");
  return { entries, indexBytes: entries * entryBytes, indexHash };
}

/** The chunks that a pack's index lists; `bodyBytes` is what lies before the index. */
export function decodePackIndex(bytes: Uint8Array, footer: PackFooter, bodyBytes: number, name: string): PackedChunk[] {
  if (sha256(bytes) !== footer.indexHash) throw new RepositoryDamaged(`The index of the pack ${name} is damaged.`);
  const reader = new ByteReader(bytes, name);
  const chunks = Array.from({ length: footer.entries }, () => decodeEntry(reader, bodyBytes));
  reader.end();
  return chunks;
}

function decodeEntry(reader: ByteReader, bodyBytes: number): PackedChunk {
  const hash = reader.hex(hashBytes);
  const offset = reader.u32();
  const length = reader.u32();
  const encoding = reader.u8();
  if (!isEncoding(encoding)) throw reader.damaged(`the encoding ${encoding} is unknown`);
  if (offset + length > bodyBytes) throw reader.damaged("its index points outside of it");
  return { hash, offset, length, encoding };
}
