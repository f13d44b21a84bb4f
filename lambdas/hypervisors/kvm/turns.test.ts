import assert from "node:assert/strict";
import { it } from "node:test";
import { Turns } from "./turns.ts";

it("at most so many run at once, in the order in which they came, also after failures", async () => {
  const turns = new Turns(2);
  const started: number[] = [];
  let running = 0;
  let most = 0;
  const work = (number: number) => async () => {
    started.push(number);
    most = Math.max(most, ++running);
    await new Promise((resolve) => setImmediate(resolve));
    running--;
    if (number % 2 === 0) throw new Error(`${number}`);
    return number;
  };
  const results = await Promise.allSettled([0, 1, 2, 3, 4].map((number) => turns.take(work(number))));
  assert.deepEqual(
    results.map(({ status }) => status),
    ["rejected", "fulfilled", "rejected", "fulfilled", "rejected"],
  );
  assert.deepEqual([started, most], [[0, 1, 2, 3, 4], 2]);
});
