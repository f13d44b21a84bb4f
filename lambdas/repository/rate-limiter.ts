/** How fast a store may be used, and a limiter for one process. */

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

/** A limit that is undefined does not limit. */
export interface RateLimits {
  readonly bytesPerSecond?: number | undefined;
  readonly requestsPerSecond?: number | undefined;
}

export interface Clock {
  /** Milliseconds. */
  now(): number;
  sleep(milliseconds: number): Promise<void>;
}

export interface TokenBucketOptions {
  /** Asked before each request, and again while one waits: a change counts within {@link lookAgainMs}. */
  readonly limits: () => Promise<RateLimits>;
  readonly clock?: Clock;
}

/** A bucket holds what comes in this time, so that short pauses are not lost. */
const burstSeconds = 1;
/** A request that waits asks for the limits anew this often. */
const lookAgainMs = 1_000;

const systemClock: Clock = {
  now: () => performance.now(),
  sleep: (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds)),
};

/**
 * A token bucket for bytes and one for requests. A request starts as soon as neither owes anything, and may leave a debt: so one that costs more
 * than a bucket holds gets through too, and those after it wait for it. Over time the limits hold.
 */
export class TokenBucket implements RateLimiter {
  readonly #limits: TokenBucketOptions["limits"];
  readonly #clock: Clock;
  readonly #bytes = new Level();
  readonly #requests = new Level();
  #last: Promise<void> = Promise.resolve();

  constructor({ limits, clock = systemClock }: TokenBucketOptions) {
    this.#limits = limits;
    this.#clock = clock;
  }

  acquire(cost: RequestCost): Promise<void> {
    const turn = this.#last.then(() => this.#take(cost));
    // Who comes next does not care what the limits' source threw at this one.
    this.#last = turn.catch(() => undefined);
    return turn;
  }

  async #take({ bytes, requests }: RequestCost): Promise<void> {
    for (;;) {
      const { bytesPerSecond, requestsPerSecond } = await this.#limits();
      const now = this.#clock.now();
      const wait = Math.max(this.#bytes.fill(bytesPerSecond, now), this.#requests.fill(requestsPerSecond, now));
      if (wait === 0) break;
      await this.#clock.sleep(Math.min(wait, lookAgainMs));
    }
    this.#bytes.spend(bytes);
    this.#requests.spend(requests);
  }
}

/** What may be spent of one thing; below zero it is a debt. */
class Level {
  #amount: number | undefined;
  #at = 0;

  /** Lets in what has come since the last time; answers the milliseconds until nothing is owed. A limit of 0 or less is never reached: it stops. */
  fill(perSecond: number | undefined, now: number): number {
    const seconds = (now - this.#at) / 1000;
    this.#at = now;
    if (perSecond === undefined) {
      this.#amount = undefined;
      return 0;
    }
    const rate = Math.max(0, perSecond);
    const burst = rate * burstSeconds;
    this.#amount = Math.min(burst, (this.#amount ?? burst) + seconds * rate);
    if (rate === 0) return lookAgainMs;
    return this.#amount >= 0 ? 0 : Math.ceil((-this.#amount / rate) * 1000);
  }

  spend(amount: number): void {
    if (this.#amount !== undefined) this.#amount -= amount;
  }
}
