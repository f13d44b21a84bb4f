/** An object store as one worker sees it that dies in the middle of its work. */
import type { ObjectStore } from "../../lambdas/repository/object-store.ts";

/** What every request of a dead worker throws. */
export class WorkerDied extends Error {}

export interface Death {
  /** Requests that the worker makes before the one that it dies in. */
  readonly after: number;
  /** Whether that request still takes effect: the worker dies before it hears of it. */
  readonly tookEffect: boolean;
}

export class DyingStore implements ObjectStore {
  readonly #store: ObjectStore;
  readonly #death: Death | undefined;
  #requests = 0;

  /** Without `death` the worker lives. */
  constructor(store: ObjectStore, death: Death | undefined) {
    this.#store = store;
    this.#death = death;
  }

  /** Lets others have their turn, so that whatever runs at once takes turns request by request. */
  async #request<T>(run: () => Promise<T>): Promise<T> {
    await new Promise((resolve) => setImmediate(resolve));
    const before = this.#requests++;
    const isLast = before === this.#death?.after;
    if (this.#death && before >= this.#death.after && !(isLast && this.#death.tookEffect)) throw new WorkerDied();
    const answer = await run();
    if (isLast) throw new WorkerDied();
    return answer;
  }

  put(...request: Parameters<ObjectStore["put"]>) {
    return this.#request(() => this.#store.put(...request));
  }

  get(...request: Parameters<ObjectStore["get"]>) {
    return this.#request(() => this.#store.get(...request));
  }

  head(...request: Parameters<ObjectStore["head"]>) {
    return this.#request(() => this.#store.head(...request));
  }

  async *list(...request: Parameters<ObjectStore["list"]>) {
    const listed = await this.#request(() => Array.fromAsync(this.#store.list(...request)));
    yield* listed;
  }

  /** One request for each key, so that a worker can die between two of them. */
  async deleteEveryVersion(keys: readonly string[]) {
    for (const key of keys) await this.#request(() => this.#store.deleteEveryVersion([key]));
  }

  deleteEveryVersionBelow(...request: Parameters<ObjectStore["deleteEveryVersionBelow"]>) {
    return this.#request(() => this.#store.deleteEveryVersionBelow(...request));
  }

  retain(...request: Parameters<ObjectStore["retain"]>) {
    return this.#request(() => this.#store.retain(...request));
  }

  retainedUntil(...request: Parameters<ObjectStore["retainedUntil"]>) {
    return this.#request(() => this.#store.retainedUntil(...request));
  }

  objectLockEnabled() {
    return this.#request(() => this.#store.objectLockEnabled());
  }
}
