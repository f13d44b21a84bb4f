/** Options of the handshake and their replies. */

import { printable } from "../printable.ts";
import { type ByteParser, take } from "./byte-parser.ts";
import { NbdProtocolError, NbdRefused } from "./errors.ts";
import {
  maxStringBytes,
  newstyleMagic,
  type OptionErrorCode,
  optionErrorBit,
  optionErrors,
  optionReplyMagic,
} from "./wire.ts";

export interface OptionError {
  readonly code: OptionErrorCode;
  /** In brackets with a space before it, for the end of a sentence. */
  readonly detail: string;
}

export interface OptionReply {
  readonly type: number;
  /** Of the data, which is still to be read. That of an error is in `error` already. */
  readonly length: number;
  readonly error?: OptionError;
}

export function optionRequest(number: number, data: Uint8Array = new Uint8Array(0)): Buffer {
  const header = Buffer.alloc(16);
  header.writeBigUInt64BE(newstyleMagic, 0);
  header.writeUInt32BE(number, 8);
  header.writeUInt32BE(data.length, 12);
  return Buffer.concat([header, data]);
}

/** The next reply, which must be one to the option `asked`. */
export function* takeOptionReply(asked: number): ByteParser<OptionReply> {
  const header = yield* take(20);
  if (header.readBigUInt64BE(0) !== optionReplyMagic || header.readUInt32BE(8) !== asked) {
    throw new NbdProtocolError(`The server does not answer option ${asked}.`);
  }
  const type = header.readUInt32BE(12);
  const length = header.readUInt32BE(16);
  if (type < optionErrorBit) return { type, length };
  if (length > maxStringBytes) throw new NbdProtocolError(`The server's refusal has ${length} bytes.`);
  const message = printable((yield* take(length)).toString());
  const code = optionErrors.get(type - optionErrorBit) ?? "OTHER";
  return { type, length: 0, error: { code, detail: ` (${code}${message && `: ${message}`})` } };
}

export function optionsRefusal(error: OptionError, what: string): NbdRefused {
  return new NbdRefused(error.code, `The NBD server refuses ${what}${error.detail}.`);
}
