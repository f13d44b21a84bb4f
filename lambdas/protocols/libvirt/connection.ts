/** A connection to libvirt: calls side by side, each answered by its serial number, and events of block jobs. */
import { once } from "node:events";
import type { Duplex } from "node:stream";
import { printable } from "../printable.ts";
import {
  LibvirtCallFailed,
  LibvirtConnectionLost,
  LibvirtError,
  LibvirtLoginRequired,
  LibvirtProtocolError,
  LibvirtTimedOut,
} from "./errors.ts";
import { eventId } from "./flags.ts";
import { Keepalive } from "./keepalive.ts";
import { frame, type Message, MessageFeed, messageStatus, messageType } from "./message.ts";
import {
  type Args,
  blockJobEvent,
  errorMessage,
  type Procedure,
  type ProcedureName,
  procedures,
  programs,
  type Result,
} from "./procedures.ts";
import { decode, encode, type Value } from "./xdr.ts";

export interface LibvirtOptions {
  /** What to open. Default `qemu:///system`. */
  readonly uri?: string;
  /** For each call that does not name its own. Default 30 s. */
  readonly callTimeoutMs?: number;
  /** How long libvirt may be silent before it is asked for a sign of life. Default 5 s, as libvirt's own. */
  readonly keepaliveIntervalMs?: number;
}

export interface CallOptions {
  readonly timeoutMs?: number;
}

/** A change of a block job; `type` and `status` as in `flags.ts`. */
export type BlockJobEvent = Omit<Value<typeof blockJobEvent.message>, "callback">;

const defaultUri = "qemu:///system";
const defaultCallTimeoutMs = 30_000;
const defaultKeepaliveIntervalMs = 5_000;
/** As libvirt's own clients: with 5 s each a dead peer is noticed after half a minute. */
const keepaliveMisses = 5;
/** Of what libvirt does not take: above, no keepalive is written. A peer that asks without reading would fill the memory with answers. */
const maxUnsentBytes = 64 * 1024;
/** For each step of an orderly end; what does not come then is not waited for. */
const closeTimeoutMs = 2_000;
/** Serial numbers are 32 bits wide and begin anew. */
const maxSerial = 2 ** 32 - 1;

/** Of `remote_auth_type`. */
const login = { none: 0, polkit: 2 } as const;
/** Of libvirt's internal features: that this client answers keepalive, so that libvirt ends connections of dead ones. */
const keepaliveFeature = 10;

interface PendingCall {
  settle(message: Message): void;
  fail(error: LibvirtError): void;
}

/**
 * Opens libvirt on a stream that is connected to its socket for reading and writing. The stream is the connection's from now on, and
 * destroyed when this fails.
 *
 * @throws LibvirtLoginRequired, LibvirtCallFailed, LibvirtTimedOut, LibvirtProtocolError, LibvirtConnectionLost
 */
export async function openLibvirt(stream: Duplex, options: LibvirtOptions = {}): Promise<LibvirtConnection> {
  const connection = new LibvirtConnection(stream, options);
  try {
    const { types } = await connection.call("authList", undefined);
    if (!types.includes(login.none)) await logIn(connection, types);
    await connection.call("connectOpen", { name: options.uri ?? defaultUri, flags: 0 });
    await connection.call("connectSupportsFeature", { feature: keepaliveFeature });
    return connection;
  } catch (error) {
    connection.destroy();
    throw error;
  }
}

/** polkit decides by who is at the other end of the socket: nothing has to be sent. */
async function logIn(connection: LibvirtConnection, types: readonly number[]): Promise<void> {
  if (!types.includes(login.polkit)) {
    throw new LibvirtLoginRequired(
      "libvirt's socket asks for a login by SASL, which is not supported: set auth_unix_rw to polkit or none.",
    );
  }
  try {
    await connection.call("authPolkit", undefined);
  } catch (cause) {
    if (!(cause instanceof LibvirtCallFailed)) throw cause;
    throw new LibvirtLoginRequired(
      `The user may not manage libvirt: make it a member of the group libvirt. ${cause.message}`,
      { cause },
    );
  }
}

export class LibvirtConnection {
  readonly #stream: Duplex;
  readonly #callTimeoutMs: number;
  readonly #keepalive: Keepalive;
  readonly #feed = new MessageFeed();
  readonly #pending = new Map<number, PendingCall>();
  /** Calls that nobody waits for any more, but whose answers will come. */
  readonly #abandoned = new Set<number>();
  readonly #blockJobListeners = new Set<(event: BlockJobEvent) => void>();
  #blockJobCallback: Promise<number> | undefined;
  #serial = 0;
  #failure: LibvirtError | undefined;

  /** {@link openLibvirt} makes connections. */
  constructor(stream: Duplex, options: LibvirtOptions) {
    this.#stream = stream;
    this.#callTimeoutMs = options.callTimeoutMs ?? defaultCallTimeoutMs;
    const ended = () => this.#fail(lost(stream.errored));
    this.#keepalive = new Keepalive(
      { intervalMs: options.keepaliveIntervalMs ?? defaultKeepaliveIntervalMs, misses: keepaliveMisses },
      (bytes) => {
        if (stream.writableLength <= maxUnsentBytes) stream.write(bytes);
      },
      () => this.#fail(new LibvirtConnectionLost("libvirt gives no sign of life any more.")),
    );
    stream.on("data", (bytes: Buffer) => this.#take(bytes));
    stream
      .on("error", (error) => this.#fail(lost(error)))
      .on("end", ended)
      .on("close", ended);
    if (stream.destroyed || stream.readableEnded) ended();
  }

  /** Why no call can be made any more; undefined while the connection is alive. */
  get failure(): LibvirtError | undefined {
    return this.#failure;
  }

  /**
   * Calls one of {@link procedures}.
   *
   * @throws LibvirtCallFailed, LibvirtArgumentInvalid, LibvirtTimedOut, LibvirtProtocolError, LibvirtConnectionLost
   */
  async call<P extends ProcedureName>(name: P, args: Args<P>, options: CallOptions = {}): Promise<Result<P>> {
    const procedure = procedures[name] as unknown as Procedure<Args<P>, Result<P>>;
    const payload = encode(procedure.args, args);
    if (this.#failure) throw this.#failure;
    const { timeoutMs = this.#callTimeoutMs } = options;
    const { promise, resolve, reject } = Promise.withResolvers<Result<P>>();
    const serial = this.#nextSerial();
    const timer = setTimeout(() => {
      if (this.#pending.delete(serial)) this.#abandoned.add(serial);
      reject(new LibvirtTimedOut(`libvirt did not answer ${name} within ${timeoutMs} ms.`));
    }, timeoutMs);
    this.#pending.set(serial, {
      settle: (message) => resolve(resultOf(name, procedure, message)),
      fail: reject,
    });
    const { program, number } = procedure;
    const header = { program, procedure: number, type: messageType.call, serial, status: messageStatus.ok };
    this.#stream.write(frame(header, payload));
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Hears of the block jobs of all VMs until the returned function is called. A listener must not throw. Throws as {@link call}.
   */
  async onBlockJob(listener: (event: BlockJobEvent) => void): Promise<() => void> {
    // Before libvirt is asked: the first event may come together with its answer.
    this.#blockJobListeners.add(listener);
    this.#blockJobCallback ??= this.call("eventRegister", { event: eventId.blockJob, domain: undefined }).then(
      ({ callback }) => callback,
    );
    try {
      await this.#blockJobCallback;
    } catch (error) {
      this.#blockJobListeners.delete(listener);
      this.#blockJobCallback = undefined;
      throw error;
    }
    return () => this.#blockJobListeners.delete(listener);
  }

  /** Says good-bye and ends the stream; calls that run fail with LibvirtConnectionLost. A repetition does nothing. */
  async close(): Promise<void> {
    if (this.#failure) return;
    await this.call("connectClose", undefined, { timeoutMs: closeTimeoutMs }).catch(() => {});
    if (this.#failure) return;
    // A stream that is not a socket of this machine may never say that it is closed.
    const closed = once(this.#stream, "close", { signal: AbortSignal.timeout(closeTimeoutMs) }).catch(() => {});
    this.#fail(new LibvirtConnectionLost("The connection to libvirt is closed."));
    await closed;
  }

  /** Ends at once. Calls that run fail with LibvirtConnectionLost. */
  destroy(): void {
    this.#fail(new LibvirtConnectionLost("The connection to libvirt was given up."));
  }

  #nextSerial(): number {
    do this.#serial = this.#serial === maxSerial ? 1 : this.#serial + 1;
    while (this.#pending.has(this.#serial) || this.#abandoned.has(this.#serial));
    return this.#serial;
  }

  #take(bytes: Buffer): void {
    if (this.#failure) return;
    this.#keepalive.heard();
    try {
      for (const message of this.#feed.push(bytes)) this.#dispatch(message);
    } catch (error) {
      const isNamed = error instanceof LibvirtError;
      this.#fail(isNamed ? error : new LibvirtProtocolError("What libvirt sent cannot be read.", { cause: error }));
    }
  }

  #dispatch(message: Message): void {
    const { program, procedure, type, serial } = message.header;
    if (program === programs.keepalive && type === messageType.event) this.#keepalive.take(procedure);
    else if (type === messageType.reply) this.#answer(serial, message);
    else if (type === messageType.event && program === programs.remote) this.#takeEvent(procedure, message.payload);
    else throw new LibvirtProtocolError(`libvirt sent a message of type ${type} of program ${program}.`);
  }

  #answer(serial: number, message: Message): void {
    if (this.#abandoned.delete(serial)) return;
    const call = this.#pending.get(serial);
    if (!call) throw new LibvirtProtocolError("libvirt answers a call that was not made.");
    this.#pending.delete(serial);
    try {
      call.settle(message);
    } catch (error) {
      const failure =
        error instanceof LibvirtError ? error : new LibvirtProtocolError("An answer of libvirt cannot be read.");
      call.fail(failure);
      // The call alone has failed; what cannot be read puts all that follows in doubt.
      if (!(failure instanceof LibvirtCallFailed)) throw failure;
    }
  }

  /** Events of other kinds were not asked for, and do no harm. */
  #takeEvent(procedure: number, payload: Buffer): void {
    if (procedure !== blockJobEvent.number) return;
    const { callback: _, ...event } = decode(blockJobEvent.message, payload);
    for (const listener of this.#blockJobListeners) listener(event);
  }

  #fail(failure: LibvirtError): void {
    if (this.#failure) return;
    this.#failure = failure;
    this.#keepalive.stop();
    this.#stream.destroy();
    const unanswered = [...this.#pending.values()];
    this.#pending.clear();
    this.#abandoned.clear();
    for (const call of unanswered) call.fail(failure);
  }
}

/** Throws LibvirtCallFailed for an error, LibvirtProtocolError for what is no answer to this procedure. */
function resultOf<R>(name: string, procedure: Procedure<unknown, R>, { header, payload }: Message): R {
  if (header.program !== procedure.program || header.procedure !== procedure.number) {
    throw new LibvirtProtocolError(`libvirt answers ${name} with another procedure.`);
  }
  if (header.status === messageStatus.ok) return decode(procedure.result, payload);
  if (header.status !== messageStatus.error)
    throw new LibvirtProtocolError(`libvirt answers ${name} with status ${header.status}.`);
  const { code, domain, message } = decode(errorMessage, payload);
  throw new LibvirtCallFailed(name, code, domain, message ?? "");
}

function lost(cause: Error | null): LibvirtConnectionLost {
  if (!cause) return new LibvirtConnectionLost("libvirt closed the connection.");
  return new LibvirtConnectionLost(`The connection to libvirt broke: ${printable(cause.message)}.`, { cause });
}
