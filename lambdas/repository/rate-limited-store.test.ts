import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { objectLockContract, objectStoreContract } from "../../test/contract/object-store.ts";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import type { RequestCost } from "./rate-limited-store.ts";
import { RateLimitedStore } from "./rate-limited-store.ts";

const unlimited = { acquire: async () => {} };

objectStoreContract("a store with a limiter", async () => new RateLimitedStore(new MemoryObjectStore(), unlimited));
objectLockContract("a store with a limiter", async (objectLock) => {
  const store = new MemoryObjectStore({ objectLock });
  return { store: new RateLimitedStore(store, unlimited), retentionOf: async (key) => store.retentionOf(key) };
});

/** What an operation was charged, and whether the store was asked before the limiter let it. */
async function charged(work: (store: RateLimitedStore) => Promise<unknown>): Promise<RequestCost[]> {
  const costs: RequestCost[] = [];
  let calls = 0;
  const inner = new MemoryObjectStore({
    objectLock: true,
    before: () => {
      calls++;
    },
  });
  for (let n = 0; n < 2_001; n++) await inner.put(`many/${String(n).padStart(4, "0")}`, Buffer.from("x"));
  await inner.put("key", Buffer.from("0123456789"));
  calls = 0;
  const limiter = {
    acquire: async (cost: RequestCost) => {
      if (costs.length === 0) assert.equal(calls, 0, "the store was asked before the limiter");
      costs.push(cost);
    },
  };
  await work(new RateLimitedStore(inner, limiter));
  return costs;
}

describe("a store with a limiter is charged", () => {
  const free = (requests: number) => ({ bytes: 0, requests });
  const expected: [string, (store: RateLimitedStore) => Promise<unknown>, RequestCost[]][] = [
    ["a put by its body", (store) => store.put("new", Buffer.alloc(7)), [{ bytes: 7, requests: 1 }]],
    ["a range by its length", (s) => s.get("key", { offset: 2, length: 3 }), [{ bytes: 3, requests: 1 }]],
    ["a whole object when it has come", (s) => s.get("key"), [free(1), { bytes: 10, requests: 0 }]],
    ["what is not there by the request", (s) => s.get("nothing"), [free(1)]],
    ["a look by the request", (s) => s.head("key"), [free(1)]],
    ["a listing by its pages", (s) => Array.fromAsync(s.list("many/")), [free(1), free(1), free(1)]],
    ["a deletion by its pages", (s) => s.deleteEveryVersion(["key", "nothing"]), [free(2)]],
    ["a deletion with one that goes last", (s) => s.deleteEveryVersionBelow("k", { last: "key" }), [free(3)]],
    ["a deletion of many as they went", (s) => s.deleteEveryVersionBelow("many/"), [free(2), free(4)]],
    ["a retention", (s) => s.retain("key", { mode: "GOVERNANCE", until: new Date() }), [free(2)]],
    ["a look at a retention", (s) => s.retainedUntil("key"), [free(1)]],
    ["the question for Object Lock", (s) => s.objectLockEnabled(), [free(1)]],
  ];
  for (const [what, work, costs] of expected) {
    test(what, async () => assert.deepEqual(await charged(work), costs));
  }

  test("nothing when the limiter refuses, and the store is not asked", async () => {
    const inner = new MemoryObjectStore();
    const store = new RateLimitedStore(inner, { acquire: () => Promise.reject(new Error("no limits")) });
    await assert.rejects(store.put("key", Buffer.from("value")), /no limits/);
    assert.deepEqual(inner.keys(), []);
  });
});
