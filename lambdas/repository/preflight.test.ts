import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { StoreUnfit } from "../domain/errors.ts";
import { preflightStore } from "./preflight.ts";

/** A store that gets one thing wrong. */
function unfit(
  change: Partial<MemoryObjectStore & { rejectsWrongChecksum(key: string): Promise<boolean> }>,
): MemoryObjectStore {
  return Object.assign(new MemoryObjectStore(), change);
}

/** Lets the first writer of each key win, and everybody else who comes in the same moment. */
function looksBeforeItWrites(): Parameters<typeof unfit>[0] {
  const store = new MemoryObjectStore();
  return {
    put: async (key, body, options) => {
      const isThere = (await store.head(key)) !== undefined;
      await new Promise((resolve) => setImmediate(resolve));
      return options?.ifAbsent && isThere ? "exists" : store.put(key, body);
    },
    get: (key, range) => store.get(key, range),
    head: (key) => store.head(key),
    list: (prefix) => store.list(prefix),
    deleteEveryVersion: (keys) => store.deleteEveryVersion(keys),
  };
}

describe("the preflight", () => {
  const faults: Record<string, [Parameters<typeof unfit>[0], RegExp]> = {
    "overwrites although it was told not to": [{ put: async () => "written" }, /If-None-Match: \* has no effect/],
    "finds objects that are not there": [{ put: async () => "exists" }, /new object exists already/],
    "lets several writers win": [looksBeforeItWrites(), /several of those win/],
    "ignores ranges": [{ get: async () => new Uint8Array(1000) }, /range/],
    "tells wrong sizes": [{ head: async () => ({ size: 1 }) }, /size/],
    "does not list": [{ list: async function* () {} }, /does not list/],
    "does not delete": [{ deleteEveryVersion: async () => {} }, /was deleted/],
    "takes bytes that do not match their checksum": [{ rejectsWrongChecksum: async () => false }, /SHA-256/],
  };
  for (const [fault, [change, words]] of Object.entries(faults)) {
    test(`refuses a store that ${fault}`, async () => {
      await assert.rejects(preflightStore(unfit(change)), (error) => {
        assert.ok(error instanceof StoreUnfit, String(error));
        assert.match(error.message, words);
        return true;
      });
    });
  }

  test("leaves nothing behind", async () => {
    const store = unfit({ rejectsWrongChecksum: async () => true });
    await preflightStore(store);
    assert.deepEqual(store.keys(), []);
  });
});
