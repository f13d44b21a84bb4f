import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { type RateLimits, TokenBucket } from "./rate-limiter.ts";

/** Time that passes only while somebody sleeps. */
function fakeClock() {
  let time = 0;
  return {
    now: () => time,
    sleep: async (milliseconds: number) => {
      time += milliseconds;
    },
  };
}

/** A bucket, and the milliseconds that each cost had to wait until. */
function bucketOf(limits: () => RateLimits) {
  const clock = fakeClock();
  const bucket = new TokenBucket({ limits: async () => limits(), clock });
  const starts = async (costs: readonly { bytes: number; requests: number }[]) => {
    const times: number[] = [];
    for (const cost of costs) {
      await bucket.acquire(cost);
      times.push(clock.now());
    }
    return times;
  };
  return { clock, bucket, starts };
}

const mebibyte = 1024 * 1024;
const body = (bytes: number) => ({ bytes, requests: 1 });

describe("a token bucket", () => {
  test("holds bytes and requests to their limits over time", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ bytes: fc.nat(20_000), requests: fc.integer({ min: 0, max: 5 }) }), { minLength: 1 }),
        async (costs) => {
          const limits = { bytesPerSecond: 1_000, requestsPerSecond: 3 };
          const { starts } = bucketOf(() => limits);
          const times = await starts(costs);
          let bytes = 0;
          let requests = 0;
          for (const [at, cost] of costs.entries()) {
            const seconds = times[at]! / 1000;
            assert.ok(bytes <= limits.bytesPerSecond * (seconds + 1) + 1e-6);
            assert.ok(requests <= limits.requestsPerSecond * (seconds + 1) + 1e-6);
            bytes += cost.bytes;
            requests += cost.requests;
          }
          // It does not wait for longer than what was spent is worth, with waits for bytes and for requests one after the other.
          const last = costs.at(-1)!;
          const worth = (bytes - last.bytes) / 1_000 + (requests - last.requests) / 3;
          assert.ok(times.at(-1)! / 1000 <= worth + 0.002 * costs.length);
        },
      ),
    );
  });

  test("lets a body through that is larger than what it holds, and those after it wait", async () => {
    const { starts } = bucketOf(() => ({ bytesPerSecond: mebibyte }));
    assert.deepEqual(await starts([body(16 * mebibyte), body(1), body(1)]), [0, 15_000, 15_001]);
  });

  test("does not limit what has no limit", async () => {
    const { starts } = bucketOf(() => ({}));
    assert.deepEqual(await starts([body(1e12), body(1e12), body(1e12)]), [0, 0, 0]);
  });

  test("counts a change of the limits while somebody waits", async () => {
    const { clock, bucket } = bucketOf(() => ({ bytesPerSecond: clock.now() < 5_000 ? 1 : 1_000 }));
    await bucket.acquire(body(10_001));
    await bucket.acquire(body(1));
    // 10,000 bytes are owed: one for each of the first 4 s, and from the look at 4 s to the next at 5 s, and on, 1,000 each second.
    const expected = 4_000 + 9_996;
    assert.ok(Math.abs(clock.now() - expected) <= 1, `${clock.now()} ms`);
  });

  test("a limit that is lifted lets go of what waits, and forgets the debt", async () => {
    const { clock, bucket } = bucketOf((): RateLimits => (clock.now() < 2_000 ? { bytesPerSecond: 1 } : {}));
    for (const bytes of [1e9, 1e9, 1e9]) await bucket.acquire(body(bytes));
    assert.equal(clock.now(), 2_000);
  });

  test("a limit of 0 stops until it is raised", async () => {
    const { clock, bucket } = bucketOf(() => ({ requestsPerSecond: clock.now() < 30_000 ? 0 : 10 }));
    await bucket.acquire(body(1));
    assert.equal(clock.now(), 30_000);
  });

  test("serves who came first, and goes on after the limits could not be read", async () => {
    const clock = fakeClock();
    let fails = true;
    const limits = async () => {
      if (fails) throw new Error("no limits");
      return { requestsPerSecond: 1 };
    };
    const bucket = new TokenBucket({ limits, clock });
    await assert.rejects(bucket.acquire(body(1)), /no limits/);
    fails = false;
    const order: number[] = [];
    await Promise.all([1, 2, 3].map((n) => bucket.acquire(body(1)).then(() => order.push(n))));
    assert.deepEqual(order, [1, 2, 3]);
  });
});
