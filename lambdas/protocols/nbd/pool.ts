/** Several connections to one export, for links on which a single stream is not enough. */
import type { Duplex } from "node:stream";
import { type NbdConnection, type NbdOptions, openNbd } from "./connection.ts";
import { NbdConnectionLost, NbdProtocolError } from "./errors.ts";
import type { ExportInfo } from "./export-info.ts";
import type { Range, StatusExtent } from "./pending-request.ts";

export interface NbdPoolOptions extends NbdOptions {
  /** How many connections. Above 1 the server must let as many clients in at once. */
  readonly connections: number;
}

interface Slot {
  connection: NbdConnection;
  /** The connection that is to follow a broken one. */
  opening: Promise<NbdConnection> | undefined;
  /** Requests that were given to it and have not ended. */
  load: number;
  /** Whether something was written through it since the last flush. */
  dirty: boolean;
}

/**
 * Each request goes to the connection that has least to do. A connection that breaks fails its own requests; the next request opens
 * another in its place. Nothing is tried again by itself.
 */
export class NbdPool {
  readonly info: ExportInfo;
  /** Names of the meta contexts that the server has. */
  readonly metaContexts: readonly string[];
  readonly #connect: () => Promise<NbdConnection>;
  readonly #slots: readonly Slot[];
  #closed = false;
  #lostWrites = false;

  /** {@link NbdPool.open} makes pools. */
  private constructor(connect: () => Promise<NbdConnection>, connections: readonly NbdConnection[]) {
    const [first] = connections;
    if (!first) throw new RangeError("A pool needs a connection.");
    this.info = first.info;
    this.metaContexts = first.metaContexts;
    this.#connect = connect;
    this.#slots = connections.map((connection) => ({ connection, opening: undefined, load: 0, dirty: false }));
  }

  /**
   * Opens all connections. When one cannot be opened, all are closed.
   *
   * @param dial makes a fresh stream to the server
   * @throws what `dial` and {@link openNbd} throw
   */
  static async open(dial: () => Promise<Duplex>, options: NbdPoolOptions): Promise<NbdPool> {
    const connect = async () => openNbd(await dial(), options);
    const results = await Promise.allSettled(Array.from({ length: options.connections }, connect));
    const opened = results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
    try {
      for (const result of results) if (result.status === "rejected") throw result.reason;
      for (const connection of opened) assertSameExport(opened[0]!, connection);
      return new NbdPool(connect, opened);
    } catch (error) {
      for (const connection of opened) connection.destroy();
      throw error;
    }
  }

  /** As {@link NbdConnection.read}; also throws what opening a connection does. */
  async read(target: Uint8Array, offset: number): Promise<void> {
    await this.#use(({ connection }) => connection.read(target, offset));
  }

  /** As {@link NbdConnection.write}; also throws what opening a connection does. */
  async write(data: Uint8Array, offset: number): Promise<void> {
    await this.#use((slot) => {
      slot.dirty = true;
      return slot.connection.write(data, offset);
    });
  }

  /** As {@link NbdConnection.writeZeroes}; also throws what opening a connection does. */
  async writeZeroes(range: Range): Promise<void> {
    await this.#use((slot) => {
      slot.dirty = true;
      return slot.connection.writeZeroes(range);
    });
  }

  /**
   * Makes durable what was written through any of the connections: call it when these writes have ended. Once a connection broke with
   * writes that were not flushed, it throws NbdConnectionLost for ever: nobody knows whether the server still has them.
   */
  async flush(): Promise<void> {
    for (const slot of this.#slots) this.#noteLoss(slot);
    if (this.#lostWrites)
      throw new NbdConnectionLost("A connection to the NBD server broke before its writes were durable.");
    const alive = this.#slots.filter(({ connection }) => !connection.failure);
    await Promise.all(alive.map(({ connection }) => connection.flush()));
    for (const slot of alive) slot.dirty = false;
  }

  /** As {@link NbdConnection.statusOf}; also throws what opening a connection does. */
  async *statusOf(metaContext: string, range: Range): AsyncGenerator<StatusExtent> {
    const slot = this.#leastUsed();
    await this.#revive(slot);
    yield* slot.connection.statusOf(metaContext, range);
  }

  /** Waits for the requests that were made. A repetition does nothing. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all(this.#slots.map(({ connection }) => connection.close()));
  }

  /** Ends at once. Requests in flight fail with NbdConnectionLost. */
  destroy(): void {
    this.#closed = true;
    for (const { connection } of this.#slots) connection.destroy();
  }

  async #use(request: (slot: Slot) => Promise<void>): Promise<void> {
    const slot = this.#leastUsed();
    slot.load++;
    try {
      await this.#revive(slot);
      await request(slot);
    } finally {
      slot.load--;
    }
  }

  #leastUsed(): Slot {
    if (this.#closed) throw new NbdConnectionLost("The connections to the NBD server are closed.");
    return this.#slots.reduce((best, other) => (other.load < best.load ? other : best));
  }

  /** Puts a fresh connection in the place of a broken one. */
  async #revive(slot: Slot): Promise<void> {
    if (!slot.connection.failure) return;
    this.#noteLoss(slot);
    slot.opening ??= this.#reopen(slot);
    await slot.opening;
  }

  async #reopen(slot: Slot): Promise<NbdConnection> {
    try {
      const connection = await this.#connect();
      if (this.#closed) connection.destroy();
      else assertSameExport(this, connection);
      slot.connection = connection;
      return connection;
    } finally {
      slot.opening = undefined;
    }
  }

  #noteLoss(slot: Slot): void {
    if (slot.dirty && slot.connection.failure) this.#lostWrites = true;
  }
}

/** The server must show all connections the same export. */
function assertSameExport(expected: { info: ExportInfo; metaContexts: readonly string[] }, found: NbdConnection): void {
  const same =
    expected.info.sizeBytes === found.info.sizeBytes && expected.metaContexts.join() === found.metaContexts.join();
  if (same) return;
  found.destroy();
  throw new NbdProtocolError("The NBD server shows its connections different exports.");
}
