/** One connection to an NBD server: several requests in flight, answers in any order. */
import { once } from "node:events";
import type { Duplex } from "node:stream";
import { connectionLost, onBytes, ParserFeed } from "./byte-parser.ts";
import { NbdConnectionLost, NbdError, NbdProtocolError, NbdRequestInvalid, NbdTimedOut } from "./errors.ts";
import type { ExportInfo } from "./export-info.ts";
import { handshake, type Session } from "./handshake.ts";
import { PendingRead, PendingRequest, PendingStatus, type Range, type StatusExtent } from "./pending-request.ts";
import { parseReplies } from "./reply-parser.ts";
import type { TlsSettings } from "./tls.ts";
import { command, requestMagic } from "./wire.ts";

export interface NbdOptions {
  /** The server's default export if there is none. */
  readonly exportName?: string;
  /** What {@link NbdConnection.blockStatus} shall tell of, as `base:allocation`. Those that the server lacks are left out. */
  readonly metaContexts?: readonly string[];
  /** With it the connection is encrypted or fails; without it plain. */
  readonly tls?: TlsSettings;
  /** Until the export is open. Default 15 s. */
  readonly handshakeTimeoutMs?: number;
  /** For each request from its sending to the end of its answer. Default 60 s: 32 MiB at 550 KB/s. */
  readonly requestTimeoutMs?: number;
}

const defaultHandshakeTimeoutMs = 15_000;
const defaultRequestTimeoutMs = 60_000;
/** How long an orderly end may take. */
const closeTimeoutMs = 2_000;
/** QEMU works on as many requests of a connection at once. */
const maxInFlight = 16;
/** For commands without data: below 2^31, where some servers end, and a multiple of every block size. */
const maxRangeBytes = 2 ** 30;

/**
 * Opens an export on a stream that is connected to a server. The stream is the connection's from now on, and destroyed when this fails.
 *
 * @throws NbdRefused, NbdTlsFailed, NbdTimedOut, NbdProtocolError, NbdConnectionLost
 */
export async function openNbd(stream: Duplex, options: NbdOptions = {}): Promise<NbdConnection> {
  const timeoutMs = options.handshakeTimeoutMs ?? defaultHandshakeTimeoutMs;
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => reject(new NbdTimedOut(`The NBD server did not open the export within ${timeoutMs} ms.`)),
    timeoutMs,
  );
  // Errors are taken up where the stream is read; between two readings somebody has to listen.
  stream.on("error", () => {});
  const { exportName = "", metaContexts = [], tls } = options;
  const opening = handshake(stream, { exportName, metaContexts, ...(tls && { tls }) });
  try {
    const session = await Promise.race([opening, late]);
    return new NbdConnection(session, options.requestTimeoutMs ?? defaultRequestTimeoutMs);
  } catch (error) {
    stream.destroy();
    // A channel of SSH is closed once it is read to its end, and the handshake leaves it paused, also one that ends behind its time.
    void Promise.allSettled([opening]).then(() => stream.resume());
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

interface SentRequest {
  readonly request: PendingRequest;
  /** Of `performance.now()`. */
  readonly deadline: number;
}

export class NbdConnection {
  readonly info: ExportInfo;
  /** Names of the meta contexts that the server has. */
  readonly metaContexts: readonly string[];
  readonly #session: Session;
  readonly #requestTimeoutMs: number;
  /** In the order of sending, so that the first is the one that waits longest. */
  readonly #sent = new Map<bigint, SentRequest>();
  /** Requests that wait until fewer are in flight. */
  readonly #waiting: (() => void)[] = [];
  #inFlight = 0;
  #nextCookie = 1n;
  #timer: NodeJS.Timeout | undefined;
  #failure: NbdError | undefined;
  #closed: Promise<void> | undefined;
  #whenIdle: (() => void) | undefined;

  /** {@link openNbd} makes connections. */
  constructor(session: Session, requestTimeoutMs: number) {
    this.info = session.info;
    this.metaContexts = [...session.metaContexts.values()];
    this.#session = session;
    this.#requestTimeoutMs = requestTimeoutMs;
    const feed = new ParserFeed(
      parseReplies(
        { find: (cookie) => this.#find(cookie), finish: (cookie) => this.#finish(cookie) },
        session.structuredReplies,
      ),
    );
    session.stream.on("error", () => {});
    onBytes(session.stream, {
      bytes: (bytes) => {
        if (this.#failure) return;
        try {
          feed.push(bytes);
        } catch (error) {
          this.#fail(
            error instanceof NbdError
              ? error
              : new NbdProtocolError("The server's answer cannot be read.", { cause: error }),
          );
        }
      },
      ended: (error) => this.#fail(connectionLost(error)),
    });
  }

  /** Why no request can be sent any more; undefined while the connection is alive. */
  get failure(): NbdError | undefined {
    return this.#failure;
  }

  /**
   * Fills `target` with the bytes from `offset` on. What is longer than the server takes at once goes in several requests. After a
   * failure of the request the target may be filled in part; nothing is written to it after the call has ended.
   *
   * @throws NbdRequestFailed, NbdRequestInvalid, NbdTimedOut, NbdProtocolError, NbdConnectionLost
   */
  async read(target: Uint8Array, offset: number): Promise<void> {
    this.#assertRange({ offset, length: target.length });
    await this.#inParts({ offset, length: target.length }, this.#session.blockSizes.maximumPayloadBytes, (part) => {
      const start = part.offset - offset;
      return this.#send(new PendingRead(target.subarray(start, start + part.length), part.offset));
    });
  }

  /** Writes all of `data` at `offset`; durable after {@link flush}. `data` must not change meanwhile. Throws as {@link read}. */
  async write(data: Uint8Array, offset: number): Promise<void> {
    const range = { offset, length: data.length };
    this.#assertWritable(range);
    await this.#inParts(range, this.#session.blockSizes.maximumPayloadBytes, (part) => {
      const start = part.offset - offset;
      return this.#send(new PendingRequest("write", part), data.subarray(start, start + part.length));
    });
  }

  /** Makes a range read as zeros. Throws as {@link read}. */
  async writeZeroes(range: Range): Promise<void> {
    this.#assertWritable(range);
    if (!this.info.canWriteZeroes) throw new NbdRequestInvalid("The NBD server has no command to write zeros.");
    await this.#inParts(range, maxRangeBytes, (part) => this.#send(new PendingRequest("writeZeroes", part)));
  }

  /** Tells the server that a range is not needed; what it holds afterwards is unknown. Throws as {@link read}. */
  async trim(range: Range): Promise<void> {
    this.#assertWritable(range);
    if (!this.info.canTrim) throw new NbdRequestInvalid("The NBD server has no command to trim.");
    await this.#inParts(range, maxRangeBytes, (part) => this.#send(new PendingRequest("trim", part)));
  }

  /** Makes durable what was written; without effect on a server that always does. Throws as {@link read}. */
  async flush(): Promise<void> {
    if (this.info.canFlush) await this.#send(new PendingRequest("flush", { offset: 0, length: 0 }));
  }

  /**
   * What every agreed meta context says of the beginning of a range, by its name. Each list is in order and without gaps from
   * `range.offset`; it may end before the range does, and never behind it. Throws as {@link read}.
   */
  async blockStatus(range: Range): Promise<ReadonlyMap<string, readonly StatusExtent[]>> {
    this.#assertRange(range);
    if (range.length === 0) return new Map();
    if (this.metaContexts.length === 0)
      throw new NbdRequestInvalid("No meta context was agreed on with the NBD server.");
    const length = Math.min(range.length, maxRangeBytes);
    const request = new PendingStatus({ offset: range.offset, length }, this.#session.metaContexts);
    await this.#send(request);
    return request.extents;
  }

  /** What one meta context says of a whole range, in order and without gaps. Throws as {@link read}. */
  async *statusOf(metaContext: string, range: Range): AsyncGenerator<StatusExtent> {
    if (!this.metaContexts.includes(metaContext)) {
      throw new NbdRequestInvalid(`The NBD server does not know ${metaContext}.`);
    }
    const end = range.offset + range.length;
    for (let offset = range.offset; offset < end; ) {
      const extents = (await this.blockStatus({ offset, length: end - offset })).get(metaContext) ?? [];
      for (const extent of extents) {
        yield extent;
        offset = extent.offset + extent.length;
      }
    }
  }

  /** Waits for the requests that were made, says good-bye and ends the stream. Takes no requests meanwhile. A repetition waits with the first. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    if (this.#inFlight > 0) await new Promise<void>((resolve) => (this.#whenIdle = resolve));
    if (this.#failure) return;
    const { stream } = this.#session;
    this.#write(command.disconnect, 0n, { offset: 0, length: 0 });
    this.#failure = closedByUs();
    // A stream that is not a socket of this machine may never say that it is closed.
    const closed = once(stream, "close", { signal: AbortSignal.timeout(closeTimeoutMs) }).catch(() => {});
    stream.end();
    await closed;
    stream.destroy();
  }

  /** Ends at once. Requests in flight fail with NbdConnectionLost. */
  destroy(): void {
    this.#fail(new NbdConnectionLost("The connection to the NBD server was given up."));
  }

  async #inParts(range: Range, most: number, send: (part: Range) => Promise<void>): Promise<void> {
    const end = range.offset + range.length;
    const parts: Promise<void>[] = [];
    for (let offset = range.offset; offset < end; offset += most) {
      parts.push(send({ offset, length: Math.min(most, end - offset) }));
    }
    // All have ended when the call ends: nothing is written to a caller's buffer later.
    const results = await Promise.allSettled(parts);
    for (const result of results) if (result.status === "rejected") throw result.reason;
  }

  #assertRange({ offset, length }: Range): void {
    const valid = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
    if (!valid || offset + length > this.info.sizeBytes) {
      throw new NbdRequestInvalid(
        `${length} bytes at ${offset} lie outside of the export of ${this.info.sizeBytes} bytes.`,
      );
    }
    const { minimumBytes } = this.#session.blockSizes;
    if (offset % minimumBytes !== 0 || length % minimumBytes !== 0) {
      throw new NbdRequestInvalid(
        `The NBD server takes only multiples of ${minimumBytes} bytes, not ${length} bytes at ${offset}.`,
      );
    }
  }

  #assertWritable(range: Range): void {
    this.#assertRange(range);
    if (this.info.readOnly) throw new NbdRequestInvalid("The export is read-only.");
  }

  async #send(request: PendingRequest, data?: Uint8Array): Promise<void> {
    if (this.#failure) throw this.#failure;
    if (this.#closed) throw closedByUs();
    if (this.#inFlight >= maxInFlight) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#inFlight++;
    try {
      if (this.#failure) throw this.#failure;
      const cookie = this.#nextCookie++;
      this.#sent.set(cookie, { request, deadline: performance.now() + this.#requestTimeoutMs });
      this.#timer ??= setTimeout(() => this.#lookAtTime(), this.#requestTimeoutMs);
      this.#write(command[request.command], cookie, request.range, data);
      await request.done;
    } finally {
      // Whoever waits takes the place over.
      const next = this.#waiting.shift();
      if (next) next();
      else if (--this.#inFlight === 0) this.#whenIdle?.();
    }
  }

  #write(type: number, cookie: bigint, range: Range, data?: Uint8Array): void {
    const header = Buffer.alloc(28);
    header.writeUInt32BE(requestMagic, 0);
    header.writeUInt16BE(type, 6);
    header.writeBigUInt64BE(cookie, 8);
    header.writeBigUInt64BE(BigInt(range.offset), 16);
    header.writeUInt32BE(range.length, 24);
    const { stream } = this.#session;
    stream.cork();
    stream.write(header);
    if (data) stream.write(data);
    process.nextTick(() => stream.uncork());
  }

  #lookAtTime(): void {
    this.#timer = undefined;
    const [oldest] = this.#sent.values();
    if (!oldest) return;
    const remaining = oldest.deadline - performance.now();
    if (remaining > 0) this.#timer = setTimeout(() => this.#lookAtTime(), remaining);
    else
      this.#fail(
        new NbdTimedOut(`The NBD server did not answer ${oldest.request.command} within ${this.#requestTimeoutMs} ms.`),
      );
  }

  #find(cookie: bigint): PendingRequest {
    const sent = this.#sent.get(cookie);
    if (!sent) throw new NbdProtocolError("The server answers a request that was not made.");
    return sent.request;
  }

  #finish(cookie: bigint): void {
    const request = this.#find(cookie);
    request.finish();
    this.#sent.delete(cookie);
    if (this.#sent.size === 0 && this.#waiting.length === 0) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
    }
  }

  #fail(failure: NbdError): void {
    if (this.#failure) return;
    this.#failure = failure;
    this.#session.stream.destroy();
    clearTimeout(this.#timer);
    const unanswered = [...this.#sent.values()];
    this.#sent.clear();
    for (const { request } of unanswered) request.fail(failure);
  }
}

function closedByUs(): NbdConnectionLost {
  return new NbdConnectionLost("The connection to the NBD server is closed.");
}
