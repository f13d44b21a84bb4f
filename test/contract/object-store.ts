/** What every `ObjectStore` does, the double in memory as well as the real thing. */
import assert from "node:assert/strict";
import { hash, randomBytes } from "node:crypto";
import { describe, test } from "node:test";
import { ObjectLocked, RepositoryDamaged, StoreUnfit } from "../../lambdas/domain/errors.ts";
import type { ObjectStore, Retention } from "../../lambdas/repository/object-store.ts";

export async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const collected: T[] = [];
  for await (const item of items) collected.push(item);
  return collected;
}

export interface ContractOptions {
  /** Whether `a` and `a/b` can both be objects: not where objects are files in folders. The repository has no such keys. Default true. */
  readonly nestedKeys?: boolean;
}

/** `makeStore` gives an empty store. */
export function objectStoreContract(
  name: string,
  makeStore: () => Promise<ObjectStore>,
  { nestedKeys = true }: ContractOptions = {},
): void {
  describe(`${name} as an object store`, () => {
    test("an object or a range that is larger than it may be is damage, where the caller brings no memory for it", async () => {
      const store = await makeStore();
      await store.put("a/object", randomBytes(1000));
      const range = { offset: 5, length: 500 };
      assert.equal((await store.get("a/object", undefined, 1000))?.length, 1000);
      assert.equal((await store.get("a/object", { ...range, into: new Uint8Array(500) }, 499))?.length, 500);
      const names = (bytes: number) => (error: unknown) =>
        error instanceof RepositoryDamaged &&
        error.message.includes(`a/object is damaged: the store has ${bytes} bytes`);
      await assert.rejects(store.get("a/object", undefined, 999), names(1000));
      await assert.rejects(store.get("a/object", range, 499), names(500));
    });

    test("an object comes back whole, in ranges, and with size and checksum", async () => {
      const store = await makeStore();
      const body = randomBytes(100_000);
      assert.equal(await store.put("a/object", body), "written");
      assert.deepEqual(Buffer.from((await store.get("a/object"))!), body);
      assert.deepEqual(Buffer.from((await store.get("a/object", { offset: 5, length: 10 }))!), body.subarray(5, 15));
      const head = await store.head("a/object");
      assert.equal(head?.size, body.length);
      if (head?.sha256 !== undefined) assert.equal(head.sha256, hash("sha256", body, "hex"));
    });

    test("a range comes into memory that is lent, as far as the object goes, and touches nothing else", async () => {
      const store = await makeStore();
      await store.put("lent", Buffer.from("0123456789"));
      const into = Buffer.alloc(8, "x");
      const bytes = await store.get("lent", { offset: 7, length: 5, into });
      assert.equal(Buffer.from(bytes!).toString(), "789");
      assert.equal(into.toString(), "789xxxxx");
      assert.equal(bytes!.buffer, into.buffer);
      assert.equal(await store.get("nothing", { offset: 0, length: 1, into }), undefined);
      assert.equal((await store.get("lent", { offset: 10, length: 1, into }))?.length, 0);
    });

    test("a range that reaches past the end brings what is there", async () => {
      const store = await makeStore();
      await store.put("short", Buffer.from("0123456789"));
      assert.equal(Buffer.from((await store.get("short", { offset: 8, length: 10 }))!).toString(), "89");
      assert.equal((await store.get("short", { offset: 10, length: 10 }))?.length, 0);
      assert.equal((await store.get("short", { offset: 3, length: 0 }))?.length, 0);
    });

    test("an object may be empty", async () => {
      const store = await makeStore();
      await store.put("empty", new Uint8Array());
      assert.equal((await store.get("empty"))?.length, 0);
      assert.equal((await store.head("empty"))?.size, 0);
    });

    test("what is not there is undefined", async () => {
      const store = await makeStore();
      assert.equal(await store.get("nothing"), undefined);
      assert.equal(await store.get("nothing", { offset: 0, length: 1 }), undefined);
      assert.equal(await store.get("nothing", { offset: 0, length: 0 }), undefined);
      assert.equal(await store.head("nothing"), undefined);
    });

    test("a put with ifAbsent leaves an existing object alone, one without replaces it", async () => {
      const store = await makeStore();
      assert.equal(await store.put("key", Buffer.from("first"), { ifAbsent: true }), "written");
      assert.equal(await store.put("key", Buffer.from("second"), { ifAbsent: true }), "exists");
      assert.equal(Buffer.from((await store.get("key"))!).toString(), "first");
      assert.equal(await store.put("key", Buffer.from("third")), "written");
      assert.equal(Buffer.from((await store.get("key"))!).toString(), "third");
    });

    test("of several puts with ifAbsent at once one wins", async () => {
      const store = await makeStore();
      const outcomes = await Promise.all(
        [1, 2, 3, 4].map((n) => store.put("race", Buffer.from([n]), { ifAbsent: true })),
      );
      assert.equal(outcomes.filter((outcome) => outcome === "written").length, 1);
    });

    test("listing is ascending, current objects only, and can start anywhere", async () => {
      const store = await makeStore();
      const keys = [...(nestedKeys ? ["l/a"] : []), "l/a-b", "l/a/b", "l/a0", "l/b"];
      for (const key of [...keys].reverse()) await store.put(key, Buffer.from(key));
      await store.put("m", Buffer.from("other"));
      await store.put("l/c", Buffer.from("gone"));
      await store.deleteEveryVersion(["l/c"]);
      const listed = await collect(store.list("l/"));
      assert.deepEqual(
        listed.map(({ key }) => key),
        keys,
      );
      assert.deepEqual(
        listed.map(({ size }) => size),
        keys.map((key) => key.length),
      );
      assert.ok(listed.every(({ lastModified }) => Math.abs(lastModified.getTime() - Date.now()) < 600_000));
      const rest = await collect(store.list("l/", { startAfter: "l/a/b" }));
      assert.deepEqual(
        rest.map(({ key }) => key),
        ["l/a0", "l/b"],
      );
    });

    test("deleting takes every version of exactly the named objects; gone is success", async () => {
      const store = await makeStore();
      for (const key of ["d/a", "d/a", "d/a", "d/ab", "d/b", "d/c"]) await store.put(key, Buffer.from(key));
      await store.deleteEveryVersion(["d/c", "d/a", "d/nothing", "d/a"]);
      await store.deleteEveryVersion(["d/a"]);
      assert.deepEqual(
        (await collect(store.list("d/"))).map(({ key }) => key),
        ["d/ab", "d/b"],
      );
      assert.equal((await store.deleteEveryVersionBelow("d/a")).deleted, 1);
      await store.deleteEveryVersion([]);
    });

    test("deleting below a prefix counts versions and leaves the rest", async () => {
      const store = await makeStore();
      for (const key of ["p/x/1", "p/x/2", "p/x/2", "p/y"]) await store.put(key, Buffer.from(key));
      assert.deepEqual(await store.deleteEveryVersionBelow("p/x/"), { deleted: 3, finished: true });
      assert.deepEqual(await store.deleteEveryVersionBelow("p/x/"), { deleted: 0, finished: true });
      assert.deepEqual(
        (await collect(store.list("p/"))).map(({ key }) => key),
        ["p/y"],
      );
      assert.equal((await store.deleteEveryVersionBelow("p/", { until: () => true })).finished, false);
      for (const key of ["p/x", "p/y", "p/z"]) await store.put(key, Buffer.from(key));
      assert.deepEqual(await store.deleteEveryVersionBelow("p/", { last: "p/y" }), { deleted: 4, finished: true });
      assert.deepEqual(await collect(store.list("p/")), []);
    });

    test("more than a thousand objects are listed and deleted", async () => {
      const store = await makeStore();
      const keys = Array.from({ length: 1_050 }, (_, n) => `many/${String(n).padStart(5, "0")}`);
      for (let at = 0; at < keys.length; at += 50) {
        await Promise.all(keys.slice(at, at + 50).map((key) => store.put(key, Buffer.from("x"))));
      }
      assert.deepEqual(
        (await collect(store.list("many/"))).map(({ key }) => key),
        keys,
      );
      await store.deleteEveryVersion(keys.filter((_, n) => n % 100 === 7));
      assert.equal((await collect(store.list("many/"))).length, keys.length - 11);
      assert.deepEqual(await store.deleteEveryVersionBelow("many/"), { deleted: keys.length - 11, finished: true });
    });
  });
}

export interface LockableStore {
  readonly store: ObjectStore;
  /** How long the service says that the object's current version is retained. */
  retentionOf(key: string): Promise<Retention | undefined>;
}

/**
 * `makeStore` gives an empty store, with Object Lock or without. Nothing that the contract locks stays locked for longer than a few seconds,
 * but it does stay for these.
 */
export function objectLockContract(name: string, makeStore: (locks: boolean) => Promise<LockableStore>): void {
  const inSeconds = (seconds: number) => new Date(Date.now() + seconds * 1000);

  describe(`${name} with Object Lock`, () => {
    test("tells whether objects can be retained", async () => {
      assert.equal(await (await makeStore(true)).store.objectLockEnabled(), true);
      const { store } = await makeStore(false);
      assert.equal(await store.objectLockEnabled(), false);
      await store.put("key", Buffer.from("value"));
      await assert.rejects(store.retain("key", { mode: "GOVERNANCE", until: inSeconds(5) }), StoreUnfit);
    });

    test("what is retained cannot be deleted until then, and what is beside it can", async () => {
      const { store, retentionOf } = await makeStore(true);
      for (const key of ["r/free", "r/kept"]) await store.put(key, Buffer.from(key));
      const until = inSeconds(4);
      await store.retain("r/kept", { mode: "COMPLIANCE", until });
      const known = await retentionOf("r/kept");
      assert.equal(known?.mode, "COMPLIANCE");
      assert.equal(known.until.getTime(), Math.ceil(until.getTime() / 1000) * 1000);
      const isLocked = (error: unknown) => {
        assert.ok(error instanceof ObjectLocked, String(error));
        assert.match(error.message, /r\/kept/);
        assert.equal(error.until?.getTime(), known.until.getTime());
        return true;
      };
      await assert.rejects(store.deleteEveryVersion(["r/free", "r/kept"]), isLocked);
      await store.put("r/a-mark", Buffer.from("goes when all else has gone"));
      await assert.rejects(store.deleteEveryVersionBelow("r/", { last: "r/a-mark" }), isLocked);
      assert.ok(await store.get("r/a-mark"));
      await assert.rejects(store.deleteEveryVersionBelow("r/"), isLocked);
      assert.equal(Buffer.from((await store.get("r/kept"))!).toString(), "r/kept");
      assert.equal(await store.get("r/free"), undefined);
      assert.equal(await store.get("r/a-mark"), undefined);
      await new Promise((resolve) => setTimeout(resolve, known.until.getTime() - Date.now() + 1_000));
      await store.deleteEveryVersion(["r/kept"]);
      assert.equal(await store.get("r/kept"), undefined);
    });

    test("a retention is extended and never shortened or weakened", async () => {
      const { store, retentionOf } = await makeStore(true);
      await store.put("key", Buffer.from("value"));
      const steps: [Retention["mode"], number, Retention["mode"], number][] = [
        ["GOVERNANCE", 20, "GOVERNANCE", 20],
        ["GOVERNANCE", 10, "GOVERNANCE", 20],
        ["GOVERNANCE", 30, "GOVERNANCE", 30],
        ["COMPLIANCE", 5, "COMPLIANCE", 30],
        ["GOVERNANCE", 35, "COMPLIANCE", 35],
        ["COMPLIANCE", 35, "COMPLIANCE", 35],
      ];
      const start = Math.ceil(Date.now() / 1000) * 1000;
      for (const [mode, seconds, expectedMode, expectedSeconds] of steps) {
        await store.retain("key", { mode, until: new Date(start + seconds * 1000) });
        const known = await retentionOf("key");
        assert.deepEqual([known?.mode, known?.until.getTime()], [expectedMode, start + expectedSeconds * 1000]);
      }
    });

    test("tells until when an object is retained, and of nothing else that it is", async () => {
      const { store, retentionOf } = await makeStore(true);
      for (const key of ["t/free", "t/kept"]) await store.put(key, Buffer.from(key));
      await store.retain("t/kept", { mode: "GOVERNANCE", until: inSeconds(5) });
      assert.deepEqual(await store.retainedUntil("t/kept"), (await retentionOf("t/kept"))?.until);
      assert.ok((await store.retainedUntil("t/kept")) instanceof Date);
      assert.equal(await store.retainedUntil("t/free"), undefined);
      assert.equal(await store.retainedUntil("t/nothing"), undefined);
      const without = (await makeStore(false)).store;
      await without.put("t/free", Buffer.from("value"));
      assert.equal(await without.retainedUntil("t/free"), undefined);
    });

    test("what is missing is named", async () => {
      const { store } = await makeStore(true);
      await assert.rejects(store.retain("no/such", { mode: "GOVERNANCE", until: inSeconds(5) }), (error) => {
        assert.ok(error instanceof RepositoryDamaged, String(error));
        return /no\/such/.test(error.message);
      });
    });
  });
}
