import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import type { StoreLimits } from "../domain/inventory.ts";
import type { Reservation, Slice } from "../tables/store-rates.ts";
import { StoreLimiter } from "./store-limiter.ts";

const MiB = 2 ** 20;
const never = () => false;

/** Workers that share one table of meters and one clock, which moves on when all of them sleep. */
class Workers {
  limits: StoreLimits;
  now = 1_000_000;
  reservations = 0;
  readonly #meters = new Map<string, number>();
  #sleepers: { at: number; wake: () => void }[] = [];

  constructor(limits: StoreLimits) {
    this.limits = limits;
  }

  limiter(): StoreLimiter {
    return new StoreLimiter("acme/store", {
      limits: async () => this.limits,
      reserve: async (meter, slice) => this.#reserve(meter, slice),
      now: () => this.now,
      sleep: (milliseconds) => new Promise<void>((wake) => this.#sleepers.push({ at: this.now + milliseconds, wake })),
    });
  }

  /** As the table does it. */
  #reserve(meter: string, { milliseconds, now, aheadMilliseconds }: Slice): Reservation {
    const until = Math.max(this.#meters.get(meter) ?? 0, now);
    if (until > now + aheadMilliseconds) return { kind: "full", until };
    this.reservations++;
    this.#meters.set(meter, until + milliseconds);
    return { kind: "reserved", from: until };
  }

  /** Lets the clock run until the work is done; answers how many seconds it took. */
  async run(work: readonly Promise<unknown>[]): Promise<number> {
    const begin = this.now;
    let done = false;
    const all = Promise.all(work).finally(() => {
      done = true;
    });
    while (!done) {
      await turn();
      const next = this.#sleepers.sort((one, other) => one.at - other.at).shift();
      if (next === undefined) continue;
      this.now = Math.max(this.now, next.at);
      next.wake();
    }
    await all;
    return (this.now - begin) / 1000;
  }
}

async function copy(limiter: StoreLimiter, bodies: readonly number[], until = never): Promise<void> {
  for (const bytes of bodies) await limiter.acquire({ bytes, requests: 1 }, until);
}

function between(value: number, least: number, most: number): void {
  assert.ok(value >= least && value <= most, `${value} is not from ${least} to ${most}`);
}

describe("a limited store", () => {
  it("is not held back without limits", async () => {
    const workers = new Workers({});
    assert.equal(await workers.run([copy(workers.limiter(), [16 * MiB, 16 * MiB])]), 0);
    assert.equal(workers.reservations, 0);
  });

  it("takes as long as its bytes do, whatever their sizes", async () => {
    for (const body of [16 * MiB, MiB, 64 * 1024, 1000]) {
      const workers = new Workers({ bytesPerSecond: MiB });
      const bodies = Array.from({ length: Math.ceil((32 * MiB) / body) }, () => body);
      between(await workers.run([copy(workers.limiter(), bodies)]), 30, 32.5);
      assert.ok(workers.reservations < 200, `${workers.reservations} writes`);
    }
  });

  it("takes as long as its requests do", async () => {
    const workers = new Workers({ requestsPerSecond: 10 });
    between(
      await workers.run([
        copy(
          workers.limiter(),
          Array.from({ length: 100 }, () => 5),
        ),
      ]),
      9,
      10.5,
    );
  });

  it("keeps its limit however many workers there are, and lets none of them starve", async () => {
    const workers = new Workers({ bytesPerSecond: 4 * MiB });
    const ends: number[] = [];
    const each = Array.from({ length: 16 }, async () => {
      await copy(workers.limiter(), [8 * MiB]);
      ends.push(workers.now);
    });
    const seconds = await workers.run(each);
    between(seconds, 30, 34);
    // Alone, the first would have been done after 2 s.
    assert.ok((Math.min(...ends) - 1_000_000) / 1000 > 4, "one worker took it all");
  });

  it("gives small users what they ask for beside a large one", async () => {
    const workers = new Workers({ bytesPerSecond: 1000 * MiB });
    const large = copy(
      workers.limiter(),
      Array.from({ length: 100 }, () => 16 * MiB),
    );
    const small = copy(
      workers.limiter(),
      Array.from({ length: 100 }, () => 1000),
    );
    between(await workers.run([large, small]), 0.5, 3);
  });

  it("is felt to be faster, slower or unlimited within 5 seconds", async () => {
    for (const bytesPerSecond of [64 * MiB, undefined]) {
      const workers = new Workers({ bytesPerSecond: MiB });
      const copying = copy(workers.limiter(), [64 * MiB]);
      const changing = copy(new Workers({}).limiter(), []).then(async () => {
        while (workers.now < 1_010_000) await turn();
        workers.limits = bytesPerSecond === undefined ? {} : { bytesPerSecond };
      });
      between(await workers.run([copying, changing]), 10, 15);
    }
    const workers = new Workers({});
    const limiter = workers.limiter();
    await workers.run([copy(limiter, [64 * MiB])]);
    workers.limits = { bytesPerSecond: MiB };
    workers.now += 5000;
    between(await workers.run([copy(limiter, [10 * MiB])]), 9, 11);
  });

  it("lets a worker go on whose time is up, at the cost of those who come after", async () => {
    const workers = new Workers({ bytesPerSecond: MiB });
    const upAt = workers.now + 4000;
    const seconds = await workers.run([copy(workers.limiter(), [16 * MiB], () => workers.now >= upAt)]);
    between(seconds, 4, 6.5);
    between(await workers.run([copy(workers.limiter(), [MiB])]), 16 - seconds, 18 - seconds);
  });

  it("serves the bodies of one worker in the order in which they came", async () => {
    const workers = new Workers({ bytesPerSecond: MiB });
    const limiter = workers.limiter();
    const order: number[] = [];
    const bodies = [4 * MiB, 1, 2 * MiB, 1];
    await workers.run(
      bodies.map((bytes, at) => limiter.acquire({ bytes, requests: 1 }, never).then(() => order.push(at))),
    );
    assert.deepEqual(order, [0, 1, 2, 3]);
  });

  it("does not stay shut after a failure to reserve", async () => {
    const workers = new Workers({ requestsPerSecond: 1 });
    let failing = true;
    const limiter = new StoreLimiter("acme/store", {
      limits: async () => {
        if (failing) throw new Error("throttled");
        return workers.limits;
      },
      reserve: async (_meter, { now }) => ({ kind: "reserved", from: now }),
      now: () => workers.now,
      sleep: async () => {},
    });
    await assert.rejects(limiter.acquire({ bytes: 1, requests: 1 }, never), /throttled/);
    failing = false;
    await limiter.acquire({ bytes: 1, requests: 1 }, never);
  });
});
