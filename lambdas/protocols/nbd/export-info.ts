/** What the server tells of an export before the first request. */
import type { ByteParser } from "./byte-parser.ts";
import { take } from "./byte-parser.ts";
import { NbdProtocolError } from "./errors.ts";
import { maxPayloadBytes, transmissionFlag } from "./wire.ts";

export interface ExportInfo {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly canFlush: boolean;
  readonly canTrim: boolean;
  readonly canWriteZeroes: boolean;
  /** Whether what is written through one connection is seen through all others after a flush. */
  readonly canMultiConnect: boolean;
}

export interface BlockSizes {
  /** Offsets and lengths of requests are multiples of it. */
  readonly minimumBytes: number;
  /** The longest read or write. */
  readonly maximumPayloadBytes: number;
}

/** A server that names no block sizes takes requests of any alignment. */
export const freeBlockSizes: BlockSizes = { minimumBytes: 1, maximumPayloadBytes: maxPayloadBytes };

/** The specification's bounds of the smallest block. */
const largestMinimumBytes = 64 * 1024;

/** Size and flags, as EXPORT_NAME and the information of GO have them. */
export function* takeExportInfo(): ByteParser<ExportInfo> {
  const bytes = yield* take(10);
  const size = bytes.readBigUInt64BE(0);
  const flags = bytes.readUInt16BE(8);
  if (size > BigInt(Number.MAX_SAFE_INTEGER))
    throw new NbdProtocolError(`An export of ${size} bytes is beyond all bounds.`);
  return {
    sizeBytes: Number(size),
    readOnly: (flags & transmissionFlag.readOnly) !== 0,
    canFlush: (flags & transmissionFlag.flush) !== 0,
    canTrim: (flags & transmissionFlag.trim) !== 0,
    canWriteZeroes: (flags & transmissionFlag.writeZeroes) !== 0,
    canMultiConnect: (flags & transmissionFlag.multipleConnections) !== 0,
  };
}

export function* takeBlockSizes(): ByteParser<BlockSizes> {
  const bytes = yield* take(12);
  const minimumBytes = bytes.readUInt32BE(0);
  const maximum = bytes.readUInt32BE(8);
  const isPowerOfTwo = minimumBytes > 0 && (minimumBytes & (minimumBytes - 1)) === 0;
  if (!isPowerOfTwo || minimumBytes > largestMinimumBytes || maximum < minimumBytes) {
    throw new NbdProtocolError(`Blocks of ${minimumBytes} to ${maximum} bytes are not possible.`);
  }
  const whole = Math.min(maximum, maxPayloadBytes);
  return { minimumBytes, maximumPayloadBytes: whole - (whole % minimumBytes) };
}
