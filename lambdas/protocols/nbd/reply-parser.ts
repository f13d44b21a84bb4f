/** Replies of the transmission phase: simple ones, and structured ones whose chunks may come in any order and between those of others. */

import { printable } from "../printable.ts";
import { type ByteParser, take } from "./byte-parser.ts";
import { NbdProtocolError, NbdRequestFailed } from "./errors.ts";
import type { PendingRequest } from "./pending-request.ts";
import {
  chunk,
  chunkDone,
  chunkErrorBit,
  maxStringBytes,
  requestErrors,
  simpleReplyMagic,
  structuredReplyMagic,
} from "./wire.ts";

export interface PendingRequests {
  /** The request with this cookie. Throws NbdProtocolError when there is none. */
  find(cookie: bigint): PendingRequest;
  /** The request's answer has come whole. */
  finish(cookie: bigint): void;
}

/** Extents are read in pieces of this many, so that memory follows what has come and not what is announced. */
const extentsAtOnce = 1024;
const extentBytes = 8;
/** The longest answers known: nbdkit sends up to 2^20 extents. */
const maxStatusBytes = 4 + 2 ** 20 * extentBytes;

/** Reads replies for ever. */
export function* parseReplies(requests: PendingRequests, structured: boolean): ByteParser<never> {
  const magic = Buffer.alloc(4);
  for (;;) {
    yield magic;
    const value = magic.readUInt32BE();
    if (value === simpleReplyMagic) yield* simpleReply(requests, structured);
    else if (value === structuredReplyMagic && structured) yield* structuredChunk(requests);
    else throw new NbdProtocolError("What the server sent is no reply.");
  }
}

function* simpleReply(requests: PendingRequests, structured: boolean): ByteParser<void> {
  const header = yield* take(12);
  const error = header.readUInt32BE(0);
  const cookie = header.readBigUInt64BE(4);
  const request = requests.find(cookie);
  const { command, range } = request;
  if (command === "blockStatus" || (command === "read" && structured)) {
    throw new NbdProtocolError(`The server's answer to ${command} has no structure, although that was agreed on.`);
  }
  if (error !== 0) request.note(requestFailure(request, error, ""));
  else if (command === "read") yield request.bufferFor(range.offset, range.length);
  requests.finish(cookie);
}

function* structuredChunk(requests: PendingRequests): ByteParser<void> {
  const header = yield* take(16);
  const flags = header.readUInt16BE(0);
  const type = header.readUInt16BE(2);
  const cookie = header.readBigUInt64BE(4);
  const length = header.readUInt32BE(12);
  const request = requests.find(cookie);
  if ((type & chunkErrorBit) !== 0) yield* errorChunk(request, type, length);
  else if (type === chunk.offsetData) yield* dataChunk(request, length);
  else if (type === chunk.offsetHole) yield* holeChunk(request, length);
  else if (type === chunk.blockStatus) yield* statusChunk(request, length);
  else if (type !== chunk.none || length !== 0 || (flags & chunkDone) === 0) {
    throw new NbdProtocolError(
      `The server's answer to ${request.command} has a chunk of type ${type} and ${length} bytes.`,
    );
  }
  if ((flags & chunkDone) !== 0) requests.finish(cookie);
}

function* dataChunk(request: PendingRequest, length: number): ByteParser<void> {
  if (length <= 8) throw new NbdProtocolError("The server sent a data chunk without data.");
  const offset = yield* takeOffset();
  yield request.bufferFor(offset, length - 8);
}

function* holeChunk(request: PendingRequest, length: number): ByteParser<void> {
  if (length !== 12) throw new NbdProtocolError(`The server sent a hole chunk of ${length} bytes.`);
  const offset = yield* takeOffset();
  request.zeroes(offset, (yield* take(4)).readUInt32BE());
}

function* statusChunk(request: PendingRequest, length: number): ByteParser<void> {
  const count = (length - 4) / extentBytes;
  if (count < 1 || !Number.isInteger(count) || length > maxStatusBytes) {
    throw new NbdProtocolError(`The server sent a block status of ${length} bytes.`);
  }
  const add = request.extentsOf((yield* take(4)).readUInt32BE());
  for (let done = 0; done < count; done += extentsAtOnce) {
    const bytes = yield* take(Math.min(extentsAtOnce, count - done) * extentBytes);
    for (let at = 0; at < bytes.length; at += extentBytes) add(bytes.readUInt32BE(at), bytes.readUInt32BE(at + 4));
  }
}

/** Also for types of errors that are not known: all begin with number and message. */
function* errorChunk(request: PendingRequest, type: number, length: number): ByteParser<void> {
  if (length < 6 || length > 6 + maxStringBytes + 8)
    throw new NbdProtocolError(`The server sent an error of ${length} bytes.`);
  const bytes = yield* take(length);
  const messageLength = bytes.readUInt16BE(4);
  const end = 6 + messageLength;
  const hasOffset = type === chunk.errorOffset;
  if (end + (hasOffset ? 8 : 0) > length) throw new NbdProtocolError("The server sent a malformed error.");
  const message = printable(bytes.toString("utf8", 6, end));
  const offset = hasOffset ? Number(bytes.readBigUInt64BE(end)) : undefined;
  request.note(requestFailure(request, bytes.readUInt32BE(0), message, offset));
}

function* takeOffset(): ByteParser<number> {
  return Number((yield* take(8)).readBigUInt64BE());
}

function requestFailure(request: PendingRequest, number: number, message: string, at?: number): NbdRequestFailed {
  const code = requestErrors.get(number) ?? "OTHER";
  const { command, range } = request;
  const shown = code === "OTHER" ? `error ${number}` : code;
  const text = `The NBD server failed ${command} of ${range.length} bytes at ${range.offset}: ${shown}${message && ` (${message})`}.`;
  return new NbdRequestFailed(code, text, at);
}
