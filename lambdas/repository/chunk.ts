/** One chunk: the unit that is named, compared, compressed and stored. Runs in the codec's threads, so all of it is synchronous. */
import { hmacHex, sha256 } from "./binary.ts";
import { compress, decompress, decompressInto } from "./zstd.ts";

/** How a chunk's bytes lie in its pack. */
export const encodings = { raw: 0, zstd: 1 } as const;
export type Encoding = (typeof encodings)[keyof typeof encodings];

export function isEncoding(value: number): value is Encoding {
  return value === encodings.raw || value === encodings.zstd;
}

const zeros = Buffer.alloc(256 * 1024);

/** Whether all bytes are zero. Compares with a block of zeros: one memcmp, which stops at the first other byte. */
export function isZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at += zeros.length) {
    const length = Math.min(zeros.length, bytes.length - at);
    if (zeros.compare(bytes, at, at + length, 0, length) !== 0) return false;
  }
  return true;
}

/** A chunk's identity, hex: SHA-256, in an encrypted domain HMAC-SHA-256 under the domain's key for names. */
export function chunkHash(bytes: Uint8Array, chunkIdKey?: Uint8Array): string {
  return chunkIdKey ? hmacHex(chunkIdKey, bytes) : sha256(bytes);
}

export interface EncodedChunk {
  readonly encoding: Encoding;
  readonly bytes: Uint8Array;
}

/** What does not get smaller is kept as it is (and then shares memory with `bytes`). What does is in `room`, if there is any, until that is used again. */
export function encodeChunk(bytes: Uint8Array, room?: Uint8Array): EncodedChunk {
  const compressed = compress(bytes, room);
  return compressed.length < bytes.length
    ? { encoding: encodings.zstd, bytes: compressed }
    : { encoding: encodings.raw, bytes };
}

/** Puts the chunk of that hash, as long as `target`, there. False when `stored` does not hold it; what `target` holds then is of no use. */
export function decodeChunk(
  { encoding, bytes }: EncodedChunk,
  hash: string,
  target: Uint8Array,
  chunkIdKey?: Uint8Array,
): boolean {
  if (encoding === encodings.zstd) return decompressInto(target, bytes) && chunkHash(target, chunkIdKey) === hash;
  if (bytes.length !== target.length) return false;
  target.set(bytes);
  return chunkHash(target, chunkIdKey) === hash;
}

/** Whether `stored` is the chunk of that hash, of whatever length up to `maxLength`: for who knows no place of it in a volume. */
export function holdsChunk(
  { encoding, bytes: stored }: EncodedChunk,
  hash: string,
  { maxLength, chunkIdKey }: { readonly maxLength: number; readonly chunkIdKey?: Uint8Array | undefined },
): boolean {
  const bytes = encoding === encodings.raw ? stored : decompress(stored, maxLength);
  return bytes !== undefined && bytes.length <= maxLength && chunkHash(bytes, chunkIdKey) === hash;
}
