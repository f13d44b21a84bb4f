/** Whether a store does what the repository relies on, before it is trusted with backups. */
import { randomBytes } from "node:crypto";
import { StoreUnfit } from "../domain/errors.ts";
import type { ObjectStore } from "./object-store.ts";

/** A store that can be asked whether it checks what it receives. */
interface ChecksumProbe {
  rejectsWrongChecksum(key: string): Promise<boolean>;
}

function isChecksumProbe(store: object): store is ChecksumProbe {
  return "rejectsWrongChecksum" in store && typeof store.rejectsWrongChecksum === "function";
}

/** Writes, reads and deletes small objects below `probes/`. Throws StoreUnfit with what the store does wrong, and whatever the store throws. */
export async function preflightStore(store: ObjectStore): Promise<void> {
  const key = `probes/${randomBytes(16).toString("hex")}`;
  const keys = { whole: key, damaged: `${key}-damaged`, raced: `${key}-raced` };
  try {
    await probeWriting(store, keys.whole);
    await probeRace(store, keys.raced);
    if (isChecksumProbe(store) && !(await store.rejectsWrongChecksum(keys.damaged))) {
      throw new StoreUnfit(
        "The store accepts an object whose bytes are not what their SHA-256 tells (x-amz-checksum-sha256 has no effect).",
      );
    }
  } finally {
    await store.deleteEveryVersion(Object.values(keys));
  }
  if (await store.head(key)) throw new StoreUnfit("The store still shows an object that was deleted.");
}

async function probeWriting(store: ObjectStore, key: string): Promise<void> {
  const body = randomBytes(1000);
  if ((await store.put(key, body, { ifAbsent: true })) !== "written") {
    throw new StoreUnfit("The store says that a new object exists already.");
  }
  if ((await store.put(key, Buffer.from("overwritten"), { ifAbsent: true })) !== "exists") {
    throw new StoreUnfit(
      "The store overwrites an object although it was told not to (If-None-Match: * has no effect).",
    );
  }
  const part = await store.get(key, { offset: 100, length: 200 });
  if (!part || !body.subarray(100, 300).equals(part))
    throw new StoreUnfit("The store does not return the range of an object asked for.");
  if ((await store.head(key))?.size !== body.length)
    throw new StoreUnfit("The store does not tell the size of an object.");
  if (!(await isListed(store, key))) throw new StoreUnfit("The store does not list an object that was just written.");
}

/** Enough that a store which looks first and writes then is caught more often than not. */
const racers = 8;

async function probeRace(store: ObjectStore, key: string): Promise<void> {
  const outcomes = await Promise.all(
    Array.from({ length: racers }, (_, n) => store.put(key, Buffer.from([n]), { ifAbsent: true })),
  );
  if (outcomes.filter((outcome) => outcome === "written").length !== 1) {
    throw new StoreUnfit("The store lets several of those win that write one new object at once (If-None-Match: *).");
  }
}

async function isListed(store: ObjectStore, key: string): Promise<boolean> {
  for await (const listed of store.list("probes/")) if (listed.key === key) return true;
  return false;
}
