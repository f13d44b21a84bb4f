/** The server's side of an NBD connection, played by a test: it reads what the client sends and answers whatever the test wants. */

import { once } from "node:events";
import { type Duplex, duplexPair } from "node:stream";
import { optionRequest } from "../../lambdas/protocols/nbd/option-reply.ts";
import {
  chunkDone,
  greetingMagic,
  newstyleMagic,
  option,
  optionReply,
  optionReplyMagic,
  requestMagic,
  simpleReplyMagic,
  structuredReplyMagic,
} from "../../lambdas/protocols/nbd/wire.ts";

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

export interface ReceivedRequest {
  readonly flags: number;
  readonly type: number;
  readonly cookie: bigint;
  readonly offset: number;
  readonly length: number;
}

export class NbdPeer {
  readonly stream: Duplex;
  #held: Uint8Array[] | undefined;

  constructor(stream: Duplex) {
    this.stream = stream;
    stream.on("error", () => {});
  }

  /** Throws when the client has ended first. */
  async take(length: number): Promise<Buffer> {
    for (;;) {
      const bytes: Buffer | null = length === 0 ? Buffer.alloc(0) : this.stream.read(length);
      if (bytes && bytes.length === length) return bytes;
      if (this.stream.readableEnded || this.stream.destroyed) throw new Error("The client has ended.");
      const waiting = new AbortController();
      const signals = ["readable", "end", "close"].map((event) => once(this.stream, event, { signal: waiting.signal }));
      await Promise.race(signals).finally(() => waiting.abort());
    }
  }

  send(...parts: readonly Uint8Array[]): void {
    if (this.#held) this.#held.push(...parts);
    else this.stream.write(Buffer.concat(parts));
  }

  /** What is sent meanwhile, instead of sending it. */
  gather(send: () => void): Buffer {
    this.#held = [];
    try {
      send();
      return Buffer.concat(this.#held);
    } finally {
      this.#held = undefined;
    }
  }

  async greet(flags = 3): Promise<void> {
    this.send(u64(greetingMagic), u64(newstyleMagic), u16(flags));
    await this.take(4);
  }

  async takeOption(): Promise<{ number: number; data: Buffer }> {
    const header = await this.take(16);
    if (!header.subarray(0, 8).equals(optionRequest(0).subarray(0, 8))) throw new Error("This is no option.");
    return { number: header.readUInt32BE(8), data: await this.take(header.readUInt32BE(12)) };
  }

  replyToOption(number: number, type: number, data: Uint8Array = Buffer.alloc(0)): void {
    this.send(u64(optionReplyMagic), u32(number), u32(type), u32(data.length), data);
  }

  /** Answers options until the export is open: all is granted. */
  async open(settings: { size?: number; flags?: number; structured?: boolean; contexts?: readonly string[] }) {
    const { size = 1 << 20, flags = 0xffff & ~2, structured = true, contexts = [] } = settings;
    await this.greet();
    for (;;) {
      const { number } = await this.takeOption();
      if (number === option.structuredReply) this.replyToOption(number, structured ? optionReply.ack : 0x8000_0001);
      if (number === option.setMetaContext) {
        for (const [id, name] of contexts.entries()) {
          this.replyToOption(number, optionReply.metaContext, Buffer.concat([u32(id + 1), Buffer.from(name)]));
        }
        this.replyToOption(number, optionReply.ack);
      }
      if (number === option.go) {
        this.replyToOption(number, optionReply.info, Buffer.concat([u16(0), u64(size), u16(flags)]));
        this.replyToOption(number, optionReply.ack);
        return;
      }
    }
  }

  async takeRequest(): Promise<ReceivedRequest> {
    const header = await this.take(28);
    if (header.readUInt32BE(0) !== requestMagic) throw new Error("This is no request.");
    return {
      flags: header.readUInt16BE(4),
      type: header.readUInt16BE(6),
      cookie: header.readBigUInt64BE(8),
      offset: Number(header.readBigUInt64BE(16)),
      length: header.readUInt32BE(24),
    };
  }

  simple(cookie: bigint, error = 0, data: Uint8Array = Buffer.alloc(0)): void {
    this.send(u32(simpleReplyMagic), u32(error), u64(cookie), data);
  }

  chunk(cookie: bigint, type: number, payload: Uint8Array, done: boolean): void {
    this.send(
      u32(structuredReplyMagic),
      u16(done ? chunkDone : 0),
      u16(type),
      u64(cookie),
      u32(payload.length),
      payload,
    );
  }
}

/** A client's stream whose other end is played by `script`. The script's own failure destroys the stream and is told by `played`. */
export function playNbdServer(script: (peer: NbdPeer) => Promise<void>): { stream: Duplex; played: Promise<void> } {
  const [stream, other] = duplexPair();
  const played = script(new NbdPeer(other)).catch((error: unknown) => {
    other.destroy();
    throw error;
  });
  played.catch(() => {});
  return { stream, played };
}
