/** An object store that is used no faster than a limiter allows. */
import type { ByteRange, ListedObject, ObjectHead, ObjectStore, PutOptions, Retention } from "./object-store.ts";

/** What a request costs. */
export interface RequestCost {
  /** Of bodies, both ways. */
  readonly bytes: number;
  readonly requests: number;
}

export interface RateLimiter {
  /** Comes back when the cost may be spent; first come, first served. */
  acquire(cost: RequestCost): Promise<void>;
}

/** S3's page of a listing, and of a deletion. */
const keysPerRequest = 1000;
/** Versions are listed, and then deleted. */
const requestsPerDeletion = 2;

/**
 * Asks the limiter before each request. Bodies that are written and ranges that are asked for are charged before, whole objects after they have come, as nobody
 * knows their length before. Listings and deletions are charged by S3's pages of 1,000. Repetitions after a fault are not charged. What the limiter throws, the operation throws.
 */
export class RateLimitedStore implements ObjectStore {
  readonly #store: ObjectStore;
  readonly #limiter: RateLimiter;

  constructor(store: ObjectStore, limiter: RateLimiter) {
    this.#store = store;
    this.#limiter = limiter;
  }

  async put(key: string, body: Uint8Array, options?: PutOptions): Promise<"written" | "exists"> {
    await this.#limiter.acquire({ bytes: body.length, requests: 1 });
    return this.#store.put(key, body, options);
  }

  async get(key: string, range?: ByteRange, most?: number): Promise<Uint8Array | undefined> {
    await this.#limiter.acquire({ bytes: range?.length ?? 0, requests: 1 });
    const bytes = await this.#store.get(key, range, most);
    if (!range && bytes && bytes.length > 0) await this.#limiter.acquire({ bytes: bytes.length, requests: 0 });
    return bytes;
  }

  async head(key: string): Promise<ObjectHead | undefined> {
    await this.#request();
    return this.#store.head(key);
  }

  async *list(prefix: string, options?: { startAfter?: string }): AsyncGenerator<ListedObject> {
    await this.#request();
    let count = 0;
    for await (const listed of this.#store.list(prefix, options)) {
      if (count > 0 && count % keysPerRequest === 0) await this.#request();
      count++;
      yield listed;
    }
  }

  async deleteEveryVersion(keys: readonly string[]): Promise<void> {
    await this.#request(requestsPerDeletion * pages(keys.length));
    await this.#store.deleteEveryVersion(keys);
  }

  async deleteEveryVersionBelow(
    prefix: string,
    options?: { until?: () => boolean; last?: string },
  ): Promise<{ deleted: number; finished: boolean }> {
    await this.#request(requestsPerDeletion + (options?.last === undefined ? 0 : 1));
    const outcome = await this.#store.deleteEveryVersionBelow(prefix, options);
    const further = pages(outcome.deleted) - 1;
    if (further > 0) await this.#request(requestsPerDeletion * further);
    return outcome;
  }

  /** The retention that is there is read first. */
  async retain(key: string, retention: Retention): Promise<void> {
    await this.#request(2);
    await this.#store.retain(key, retention);
  }

  async retainedUntil(key: string): Promise<Date | undefined> {
    await this.#request();
    return this.#store.retainedUntil(key);
  }

  async objectLockEnabled(): Promise<boolean> {
    await this.#request();
    return this.#store.objectLockEnabled();
  }

  #request(requests = 1): Promise<void> {
    return this.#limiter.acquire({ bytes: 0, requests });
  }
}

function pages(keys: number): number {
  return Math.max(1, Math.ceil(keys / keysPerRequest));
}
