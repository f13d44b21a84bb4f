/**
 * Keeps all workers together below a store's limits. Budget is reserved in slices of about half a second (tables/store-rates.ts) and spent
 * here. Limits are read again every two seconds, and nobody sleeps for more than two: a change is felt within five.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { StoreLimits } from "../domain/inventory.ts";
import type { RequestCost } from "../repository/rate-limited-store.ts";
import type { Database } from "../tables/database.ts";
import { farthestAheadMilliseconds, type Reservation, reserveSlice, type Slice } from "../tables/store-rates.ts";
import { getStoreOptions } from "../tables/stores.ts";

/** What the limiter reaches outside; tests pass others. */
export interface LimiterSurroundings {
  readonly limits: () => Promise<StoreLimits>;
  readonly reserve: (meter: string, slice: Slice) => Promise<Reservation>;
  readonly now: () => number;
  readonly sleep: (milliseconds: number) => Promise<unknown>;
}

/** The most that one worker reserves at once: longer slices would let it hold up the others, shorter ones cost more writes. */
const sliceMilliseconds = 500;
/** How far ahead workers queue: four slices, in the order in which they come. Who finds no place comes again. */
const queueMilliseconds = 2_000;
const longestSleepMilliseconds = 2_000;
const keepLimitsMilliseconds = 2_000;

/** The limits of one store, for this process. */
export class StoreLimiter {
  readonly #surroundings: LimiterSurroundings;
  readonly #bytes: Budget;
  readonly #requests: Budget;
  #reading: { readonly limits: Promise<StoreLimits>; readonly until: number } | undefined;

  constructor(store: string, surroundings: LimiterSurroundings) {
    this.#surroundings = surroundings;
    this.#bytes = new Budget(`${store}#bytes`, surroundings, async () => (await this.#limits()).bytesPerSecond);
    this.#requests = new Budget(
      `${store}#requests`,
      surroundings,
      async () => (await this.#limits()).requestsPerSecond,
    );
  }

  /**
   * Answers when the store may be used at this cost. When `until` says that the worker's time is up it answers at once: the worker needs
   * the rest of its time to leave things in order. What it takes then is taken from the budget of those who come after.
   */
  async acquire({ requests, bytes }: RequestCost, until: () => boolean): Promise<void> {
    await this.#requests.spend(requests, until);
    await this.#bytes.spend(bytes, until);
  }

  #limits(): Promise<StoreLimits> {
    const now = this.#surroundings.now();
    if (this.#reading === undefined || this.#reading.until <= now) {
      const limits = this.#surroundings.limits();
      this.#reading = { limits, until: now + keepLimitsMilliseconds };
      limits.catch(() => {
        this.#reading = undefined;
      });
    }
    return this.#reading.limits;
  }
}

/** One limit. Whoever asks first is served first. */
class Budget {
  readonly #name: string;
  readonly #surroundings: LimiterSurroundings;
  readonly #limit: () => Promise<number | undefined>;
  /** Reserved and not spent yet. */
  #left = 0;
  #lastSlice = 0;
  #lastReadyAt = 0;
  #turn: Promise<void> = Promise.resolve();

  constructor(name: string, surroundings: LimiterSurroundings, limit: () => Promise<number | undefined>) {
    this.#name = name;
    this.#surroundings = surroundings;
    this.#limit = limit;
  }

  spend(amount: number, until: () => boolean): Promise<void> {
    const turn = this.#turn.then(() => this.#spendInTurn(amount, until));
    this.#turn = turn.catch(() => {});
    return turn;
  }

  async #spendInTurn(amount: number, until: () => boolean): Promise<void> {
    let missing = amount;
    for (;;) {
      const limit = await this.#limit();
      if (limit === undefined) return;
      const spent = Math.min(missing, this.#left);
      this.#left -= spent;
      missing -= spent;
      if (missing <= 0) return;
      await this.#reserve(missing, limit, until());
    }
  }

  /** Each limit has a meter of its own: what was reserved under another one is not waited for. */
  async #reserve(missing: number, limit: number, hurry: boolean): Promise<void> {
    const { reserve, now } = this.#surroundings;
    const amount = hurry ? missing : Math.min(Math.max(missing, this.#usual()), (limit * sliceMilliseconds) / 1000);
    const slice = {
      milliseconds: (amount / limit) * 1000,
      now: now(),
      aheadMilliseconds: hurry ? farthestAheadMilliseconds : queueMilliseconds,
    };
    const reservation = await reserve(`${this.#name}#${limit}`, slice);
    if (reservation.kind === "full" && !hurry)
      return this.#pause(reservation.until - queueMilliseconds, sliceMilliseconds);
    this.#left += amount;
    this.#lastSlice = amount;
    this.#lastReadyAt = reservation.kind === "reserved" ? reservation.from : slice.now;
    if (!hurry) await this.#pause(this.#lastReadyAt, slice.milliseconds);
  }

  /** About what half a second takes: twice the last slice if that was spent sooner, else half of it. */
  #usual(): number {
    const spentSoon = this.#surroundings.now() - this.#lastReadyAt < sliceMilliseconds;
    return spentSoon ? this.#lastSlice * 2 : this.#lastSlice / 2;
  }

  /** Up to a slice longer, by chance: else whoever was served would come first again, always. That loses nothing, as the queue is longer. */
  async #pause(until: number, jitter: number): Promise<void> {
    const { now, sleep } = this.#surroundings;
    const milliseconds = until - now();
    if (milliseconds <= 0) return;
    await sleep(Math.min(milliseconds + Math.random() * jitter, longestSleepMilliseconds));
  }
}

/** The limiter of a tenant's store, its budget shared with all other workers. */
export function storeLimiter(database: Database, tenant: string, id: string): StoreLimiter {
  return new StoreLimiter(`${tenant}/${id}`, {
    limits: () => getStoreOptions(database, tenant, id),
    reserve: (meter, slice) => reserveSlice(database, meter, slice),
    now: Date.now,
    sleep,
  });
}
