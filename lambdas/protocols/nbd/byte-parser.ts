/**
 * Parsers that read a stream as straight-line code and without a copy more than needed: a generator that yields the buffer that it wants
 * filled next and goes on once it is full. Buffers are the parser's own, so a peer's lengths never decide what is allocated before the
 * parser has judged them.
 */
import type { Duplex } from "node:stream";
import { printable } from "../printable.ts";
import { NbdConnectionLost } from "./errors.ts";

/** `T` is what the parser has found when it is at its end. */
export type ByteParser<T> = Generator<Uint8Array, T, void>;

/** Gives a parser the bytes of a stream in the pieces that they come in. Errors of the parser pass through. */
export class ParserFeed<T> {
  readonly #parser: ByteParser<T>;
  #wanted: Uint8Array = new Uint8Array(0);
  #filled = 0;
  #result: { readonly value: T } | undefined;

  constructor(parser: ByteParser<T>) {
    this.#parser = parser;
    this.#advance();
  }

  /** What the parser returned, once it has. */
  get result(): { readonly value: T } | undefined {
    return this.#result;
  }

  /** Takes bytes; the rest that comes back is what follows the parser's end. */
  push(bytes: Uint8Array): Uint8Array {
    let at = 0;
    while (this.#result === undefined && at < bytes.length) {
      const length = Math.min(this.#wanted.length - this.#filled, bytes.length - at);
      this.#wanted.set(bytes.subarray(at, at + length), this.#filled);
      this.#filled += length;
      at += length;
      this.#advance();
    }
    return bytes.subarray(at);
  }

  /** Runs the parser until it wants bytes that have not come yet. */
  #advance(): void {
    while (this.#filled === this.#wanted.length) {
      const next = this.#parser.next();
      if (next.done) {
        this.#result = { value: next.value };
        return;
      }
      this.#wanted = next.value;
      this.#filled = 0;
    }
  }
}

/**
 * Runs a parser on a stream and leaves the stream paused. `rest` is what came in one piece with the parser's end, behind it; what comes
 * later stays in the stream.
 *
 * @throws NbdConnectionLost the stream ended first; what the parser throws
 */
export async function parseStream<T>(stream: Duplex, parser: ByteParser<T>): Promise<{ value: T; rest: Uint8Array }> {
  if (stream.destroyed || stream.readableEnded) throw connectionLost(stream.errored);
  const feed = new ParserFeed(parser);
  const { promise, resolve, reject } = Promise.withResolvers<{ value: T; rest: Uint8Array }>();
  // At once: another piece may come before anybody who waits for the promise has a turn.
  const leave = () => {
    stream.pause();
    detach();
  };
  const detach = onBytes(stream, {
    bytes: (bytes) => {
      try {
        const rest = feed.push(bytes);
        if (!feed.result) return;
        leave();
        resolve({ value: feed.result.value, rest });
      } catch (error) {
        leave();
        reject(error);
      }
    },
    ended: (error) => {
      leave();
      reject(connectionLost(error));
    },
  });
  return promise;
}

interface ByteListener {
  bytes(bytes: Uint8Array): void;
  /** The stream is at its end or broken; may come more than once. */
  ended(error: Error | null): void;
}

/** Listens to a stream until the returned function is called. */
export function onBytes(stream: Duplex, listener: ByteListener): () => void {
  const failed = (error: Error) => listener.ended(error);
  const ended = () => listener.ended(stream.errored);
  stream.on("data", listener.bytes).on("error", failed).on("end", ended).on("close", ended);
  stream.resume();
  return () => stream.off("data", listener.bytes).off("error", failed).off("end", ended).off("close", ended);
}

export function connectionLost(cause: Error | null | undefined): NbdConnectionLost {
  if (!cause) return new NbdConnectionLost("The NBD server closed the connection.");
  return new NbdConnectionLost(`The connection to the NBD server broke: ${printable(cause.message)}.`, { cause });
}

/** The next `length` bytes, in a buffer of their own. */
export function* take(length: number): Generator<Uint8Array, Buffer, void> {
  const buffer = Buffer.alloc(length);
  yield buffer;
  return buffer;
}
