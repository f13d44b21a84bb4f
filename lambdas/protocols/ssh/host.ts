/** A host whose connection is made when it is first needed and shared by all who need it. */
import { SshConnection, type SshSettings } from "./connection.ts";

export class SshHost {
  readonly #settings: SshSettings;
  #connection: Promise<SshConnection> | undefined;

  constructor(settings: SshSettings) {
    this.#settings = settings;
  }

  /** The open connection, or a fresh one in place of none or of one that broke. Throws as {@link SshConnection.open}. */
  async connect(): Promise<SshConnection> {
    const before = this.#connection;
    const existing = await before?.catch(() => undefined);
    if (existing && !existing.closed) return existing;
    // Of those who found it broken at the same time, the first opens another.
    if (this.#connection === before) this.#connection = SshConnection.open(this.#settings);
    return this.#connection!;
  }

  /** Ends the connection, if there is one. A repetition does nothing; {@link connect} opens another. */
  async close(): Promise<void> {
    const connection = await this.#connection?.catch(() => undefined);
    this.#connection = undefined;
    await connection?.close();
  }
}
