import { test } from "node:test";
import { objectLockContract, objectStoreContract } from "../../test/contract/object-store.ts";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { preflightStore } from "./preflight.ts";

objectStoreContract("the double in memory", async () => new MemoryObjectStore());
objectLockContract("the double in memory", async (objectLock) => {
  const store = new MemoryObjectStore({ objectLock });
  return { store, retentionOf: async (key) => store.retentionOf(key) };
});

test("the double in memory passes the preflight", () => preflightStore(new MemoryObjectStore()));
