/** Frames of libvirt's RPC: a length, a header of six words, and what the procedure has. */
import { LibvirtArgumentInvalid, LibvirtProtocolError } from "./errors.ts";

export const messageType = { call: 0, reply: 1, event: 2 } as const;
export const messageStatus = { ok: 0, error: 1 } as const;

export interface Header {
  readonly program: number;
  readonly procedure: number;
  readonly type: number;
  readonly serial: number;
  readonly status: number;
}

export interface Message {
  readonly header: Header;
  readonly payload: Buffer;
}

/** All programs have this version. */
const version = 1;
const headerBytes = 28;
/** The protocol's bound, with the length itself. */
const maxMessageBytes = 32 * 1024 * 1024 + 4;

/** Throws LibvirtArgumentInvalid for a payload that is too long. */
export function frame({ program, procedure, type, serial, status }: Header, payload: Buffer): Buffer {
  const length = headerBytes + payload.length;
  if (length > maxMessageBytes) throw new LibvirtArgumentInvalid(`A call of ${length} bytes is too long.`);
  const header = Buffer.alloc(headerBytes);
  for (const [index, word] of [length, program, version, procedure, type, serial, status].entries()) {
    header.writeUInt32BE(word, 4 * index);
  }
  return Buffer.concat([header, payload]);
}

/** Room for the usual message; what a larger one took is given back after it. */
const usualBytes = 64 * 1024;

/** Puts messages together from the pieces of a stream. Memory follows what has come, not what a length announces. */
export class MessageFeed {
  #buffer = Buffer.alloc(usualBytes);
  /** What has come and is not taken yet lies between these. */
  #start = 0;
  #end = 0;

  /** The messages that are whole with these bytes. Throws LibvirtProtocolError. */
  *push(bytes: Buffer): Generator<Message> {
    this.#append(bytes);
    while (this.#end - this.#start >= 4) {
      const length = this.#buffer.readUInt32BE(this.#start);
      if (length < headerBytes || length > maxMessageBytes) {
        throw new LibvirtProtocolError(`A message of ${length} bytes is none of libvirt's.`);
      }
      if (this.#end - this.#start < length) return;
      // A copy: the buffer is used again.
      const message = Buffer.from(this.#buffer.subarray(this.#start, this.#start + length));
      this.#start += length;
      yield parse(message);
    }
  }

  #append(bytes: Buffer): void {
    const kept = this.#end - this.#start;
    const needed = kept + bytes.length;
    const fits = needed <= this.#buffer.length && (kept > 0 || this.#buffer.length === usualBytes);
    const capacity = needed <= usualBytes ? usualBytes : Math.max(needed, 2 * kept);
    const target = fits ? this.#buffer : Buffer.alloc(capacity);
    this.#buffer.copy(target, 0, this.#start, this.#end);
    bytes.copy(target, kept);
    this.#buffer = target;
    this.#start = 0;
    this.#end = needed;
  }
}

function parse(message: Buffer): Message {
  if (message.readUInt32BE(8) !== version) throw new LibvirtProtocolError("The peer is no libvirt of a known version.");
  const header = {
    program: message.readUInt32BE(4),
    procedure: message.readUInt32BE(12),
    type: message.readUInt32BE(16),
    serial: message.readUInt32BE(20),
    status: message.readUInt32BE(24),
  };
  return { header, payload: message.subarray(headerBytes) };
}
