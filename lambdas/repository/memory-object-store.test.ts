import { test } from "node:test";
import { objectStoreContract } from "../../test/contract/object-store.ts";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { preflightStore } from "./preflight.ts";

objectStoreContract("the double in memory", async () => new MemoryObjectStore());

test("the double in memory passes the preflight", () => preflightStore(new MemoryObjectStore()));
