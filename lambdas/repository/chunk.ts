/** One chunk: the unit that is hashed, compared, compressed and stored. */
import { promisify } from "node:util";
import { constants, zstdCompress, zstdDecompress } from "node:zlib";
import { sha256 } from "./binary.ts";

const compress = promisify(zstdCompress);
const decompress = promisify(zstdDecompress);

/** How a chunk's bytes lie in its pack. */
export const encodings = { raw: 0, zstd: 1 } as const;
export type Encoding = (typeof encodings)[keyof typeof encodings];

export function isEncoding(value: number): value is Encoding {
  return value === encodings.raw || value === encodings.zstd;
}

/**
 * Level 3 makes 8 % less to store than level 1 at 60 % of its speed (223 to 393 MB/s on one core): the bytes are paid for every
 * month, the second of CPU once.
 */
const compressionLevel = 3;

/** Frames may ask a reader for a window of at most 8 MiB, so that a damaged or hostile frame costs no more. */
const maxWindowLog = 23;

/** The largest output that zstd can make of `length` bytes (ZSTD_COMPRESSBOUND). */
function compressBound(length: number): number {
  const small = 128 * 1024;
  return length + (length >> 8) + (length < small ? (small - length) >> 11 : 0);
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

/** A chunk's identity: SHA-256, hex. */
export function chunkHash(bytes: Uint8Array): string {
  return sha256(bytes);
}

export interface EncodedChunk {
  readonly encoding: Encoding;
  readonly bytes: Uint8Array;
}

/** Compresses on the thread pool; what does not get smaller is kept as it is (and then shares memory with `bytes`). */
export async function encodeChunk(bytes: Uint8Array): Promise<EncodedChunk> {
  const compressed = await compress(bytes, {
    chunkSize: Math.max(compressBound(bytes.length), 64),
    pledgedSrcSize: bytes.length,
    params: { [constants.ZSTD_c_compressionLevel]: compressionLevel },
  });
  return compressed.length < bytes.length
    ? { encoding: encodings.zstd, bytes: compressed }
    : { encoding: encodings.raw, bytes };
}

/** The chunk of `length` bytes with this hash, or undefined when `stored` does not hold it. Allocates no more than `length`. */
export async function decodeChunk(
  stored: EncodedChunk,
  expected: { hash: string; length: number },
): Promise<Uint8Array | undefined> {
  const bytes = stored.encoding === encodings.raw ? stored.bytes : await inflate(stored.bytes, expected.length);
  if (bytes?.length !== expected.length || chunkHash(bytes) !== expected.hash) return undefined;
  return bytes;
}

async function inflate(bytes: Uint8Array, length: number): Promise<Uint8Array | undefined> {
  try {
    return await decompress(bytes, {
      chunkSize: Math.max(length, 64),
      maxOutputLength: Math.max(length, 64),
      params: { [constants.ZSTD_d_windowLogMax]: maxWindowLog },
    });
  } catch {
    return undefined;
  }
}
