/** A connection that is made when it is first needed, shared by all who need it, and made anew once it broke. */
export class Reconnecting<T> {
  readonly #open: () => Promise<T>;
  readonly #isAlive: (connection: T) => boolean;
  #current: Promise<T> | undefined;

  constructor(open: () => Promise<T>, isAlive: (connection: T) => boolean) {
    this.#open = open;
    this.#isAlive = isAlive;
  }

  /** Throws what opening does; the next call tries again. */
  async connect(): Promise<T> {
    const before = this.#current;
    const existing = await before?.catch(() => undefined);
    if (existing !== undefined && this.#isAlive(existing)) return existing;
    // Of those who found it broken at the same time, the first opens another.
    if (this.#current === before) this.#current = this.#open();
    return this.#current!;
  }

  /** Hands the connection out, if there is one, to be closed; {@link connect} opens another. */
  async forget(): Promise<T | undefined> {
    const connection = this.#current;
    this.#current = undefined;
    return connection?.catch(() => undefined);
  }
}
