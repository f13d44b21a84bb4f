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

describe("the preflight", () => {
  const faults: Record<string, Parameters<typeof unfit>[0]> = {
    "overwrites although it was told not to": { put: async () => "written" },
    "finds objects that are not there": { put: async () => "exists" },
    "ignores ranges": { get: async () => new Uint8Array(1000) },
    "tells wrong sizes": { head: async () => ({ size: 1 }) },
    "does not list": { list: async function* () {} },
    "does not delete": { deleteEveryVersion: async () => {} },
    "takes bytes that do not match their checksum": { rejectsWrongChecksum: async () => false },
  };
  for (const [fault, change] of Object.entries(faults)) {
    test(`refuses a store that ${fault}`, async () => {
      await assert.rejects(preflightStore(unfit(change)), StoreUnfit);
    });
  }

  test("leaves nothing behind", async () => {
    const store = unfit({ rejectsWrongChecksum: async () => true });
    await preflightStore(store);
    assert.deepEqual(store.keys(), []);
  });
});
