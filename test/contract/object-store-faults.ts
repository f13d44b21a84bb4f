/** What a store client makes of a service that misbehaves: every fault once, so that it has to be got over, and for good, so that it has to be told in words. */
import assert from "node:assert/strict";
import { hash, randomBytes } from "node:crypto";
import { describe, test } from "node:test";
import { isRetryable, StoreFull, StoreUnavailable, Throttled } from "../../lambdas/domain/errors.ts";
import type { ObjectStore } from "../../lambdas/repository/object-store.ts";
import type { Fault, FaultProxy, NamedFault, ProxiedRequest, Refusal } from "../support/s3-fault-proxy.ts";
import { type ContractOptions, collect, objectStoreContract } from "./object-store.ts";

export interface FaultyStore {
  /** An empty store that is reached through the proxy, and gives up waiting after about a second. */
  readonly store: ObjectStore;
  /** The same store without the proxy. */
  readonly direct: ObjectStore;
  readonly proxy: FaultProxy;
  /** How many versions and delete markers the service keeps of a key. */
  countVersions(key: string): Promise<number>;
}

const slowDown: Refusal = { status: 503, code: "SlowDown", message: "Please reduce your request rate." };
const internalError: Refusal = { status: 500, code: "InternalError" };
const conflict: Refusal = { status: 409, code: "ConditionalRequestConflict" };

/** Faults that every operation has to get over when they come once. */
const everywhere: Readonly<Record<string, Fault>> = {
  "503 SlowDown": slowDown,
  "500 InternalError": internalError,
  "a connection that is cut before the request is read": "reset",
};

/** Answers of a store without room as they are seen in the wild. */
const full: Readonly<Record<string, Refusal>> = {
  "Ceph's and versitygw's quota": { status: 403, code: "QuotaExceeded" },
  "versitygw's full disk": { status: 507, code: "InsufficientStorage", message: "No space left on device." },
  "MinIO's full disk": { status: 507, code: "XMinioStorageFull" },
  "MinIO's full disk in old releases": { status: 500, code: "XMinioStorageFull" },
  "MinIO's quota": { status: 400, code: "XMinioAdminBucketQuotaExceeded", message: "Bucket quota exceeded" },
  "a disk that fills up meanwhile": { status: 500, code: "InternalError", message: "write: no space left on device" },
  "Garage's quota": { status: 403, code: "AccessDenied", message: "Forbidden: Bucket size quota is reached" },
  "any other code with status 507": { status: 507, code: "EntityTooLarge" },
};

const text = (bytes: Uint8Array | undefined) => bytes && Buffer.from(bytes).toString();
const writes = ({ method }: ProxiedRequest) => method === "PUT";
const reads = ({ method, query }: ProxiedRequest) => method === "GET" && !query.includes("list-type");
const lists = ({ method, query }: ProxiedRequest) => method === "GET" && query.includes("list-type");
const any = () => true;

/** Breaks the first `times` requests of a kind. */
function breaking(which: (request: ProxiedRequest) => boolean, fault: Fault, times = 1): (r: ProxiedRequest) => Fault {
  let left = times;
  return (request) => (which(request) && left-- > 0 ? fault : "pass");
}

const always = Number.POSITIVE_INFINITY;

/** `open` gives a store of its own each time; the caller ends the proxies. */
export function objectStoreUnderFaults(
  name: string,
  open: () => Promise<FaultyStore>,
  options: ContractOptions = {},
): void {
  describe(`${name} under faults`, () => {
    for (const [fault, kind] of Object.entries(everywhere)) {
      test(`${fault}, once, is got over by every operation`, async () => {
        const { store, proxy } = await open();
        const next = () => {
          proxy.fault = breaking(any, kind);
        };
        next();
        assert.equal(await store.put("a/1", Buffer.from("first")), "written");
        next();
        assert.equal(await store.put("a/2", Buffer.from("second"), { ifAbsent: true }), "written");
        next();
        assert.equal(text(await store.get("a/1")), "first");
        next();
        assert.equal(text(await store.get("a/1", { offset: 1, length: 2 })), "ir");
        assert.equal(text(await store.get("a/1", { offset: 1, length: 2, into: Buffer.alloc(2) })), "ir");
        next();
        assert.equal((await store.head("a/1"))?.size, 5);
        next();
        assert.equal((await collect(store.list("a/"))).length, 2);
        next();
        await store.deleteEveryVersion(["a/1"]);
        next();
        assert.deepEqual(await store.deleteEveryVersionBelow("a/"), { deleted: 1, finished: true });
      });
    }

    test("faults that do not end are told by name, and are worth another attempt", async () => {
      const { store, direct, proxy } = await open();
      await direct.put("key", Buffer.from("value"));
      const lasting: [Fault, new (message: string) => Error][] = [
        [slowDown, Throttled],
        [internalError, StoreUnavailable],
        ["reset", StoreUnavailable],
        [conflict, StoreUnavailable],
      ];
      for (const [fault, errorClass] of lasting) {
        proxy.fault = () => fault;
        await assert.rejects(store.put("new", Buffer.from("value"), { ifAbsent: true }), (error) => {
          assert.ok(error instanceof errorClass, `${JSON.stringify(fault)}: ${error}`);
          return isRetryable(error);
        });
        if (fault !== conflict) await assert.rejects(store.get("key"), errorClass);
      }
      assert.equal(await direct.get("new"), undefined);
    });

    test("a conflict with another writer of the key passes", async () => {
      const { store, proxy } = await open();
      proxy.fault = breaking(writes, conflict, 2);
      assert.equal(await store.put("key", Buffer.from("value"), { ifAbsent: true }), "written");
    });

    test("a body that breaks off on its way to the store is sent again", async () => {
      const { store, direct, proxy } = await open();
      const body = randomBytes(3_000_000);
      proxy.fault = breaking(writes, "reset-request");
      assert.equal(await store.put("key", body, { ifAbsent: true }), "written");
      assert.deepEqual(Buffer.from((await direct.get("key"))!), body);
      proxy.fault = breaking(writes, "reset-request", always);
      await assert.rejects(store.put("other", body), StoreUnavailable);
      assert.equal(await direct.get("other"), undefined);
    });

    test("bytes that change on their way to the store are noticed there, and sent again", async () => {
      const { store, direct, proxy } = await open();
      const body = randomBytes(100_000);
      proxy.fault = breaking(writes, "corrupt-request");
      assert.equal(await store.put("key", body), "written");
      assert.deepEqual(Buffer.from((await direct.get("key"))!), body);
      proxy.fault = breaking(writes, "corrupt-request", always);
      await assert.rejects(store.put("other", body), StoreUnavailable);
      assert.equal(await direct.get("other"), undefined);
    });

    const broken: NamedFault[] = ["reset-reply", "truncate-reply", "trickle-reply"];
    for (const fault of broken) {
      test(`an answer is read again after ${fault}, and is StoreUnavailable in the end`, async () => {
        const { store, direct, proxy } = await open();
        const body = randomBytes(50_000);
        await direct.put("l/key", body);
        const range = { offset: 100, length: 40_000 };
        proxy.fault = breaking(reads, fault);
        assert.deepEqual(Buffer.from((await store.get("l/key"))!), body);
        proxy.fault = breaking(reads, fault);
        assert.deepEqual(Buffer.from((await store.get("l/key", range))!), body.subarray(100, 40_100));
        const lent = { ...range, into: new Uint8Array(new SharedArrayBuffer(50_000)) };
        proxy.fault = breaking(reads, fault);
        assert.deepEqual(Buffer.from((await store.get("l/key", lent))!), body.subarray(100, 40_100));
        proxy.fault = breaking(reads, fault, always);
        await assert.rejects(store.get("l/key", range), StoreUnavailable);
        await assert.rejects(store.get("l/key", lent), StoreUnavailable);
      });
    }

    for (const fault of ["reset-reply", "truncate-reply"] as const) {
      test(`a listing is asked for again after ${fault}, and never ends early`, async () => {
        const { store, direct, proxy } = await open();
        const keys = Array.from({ length: 20 }, (_, n) => `l/${n + 10}`);
        await Promise.all(keys.map((key) => direct.put(key, Buffer.from("x"))));
        proxy.fault = breaking(lists, fault);
        const listed = await collect(store.list("l/"));
        assert.deepEqual(
          listed.map(({ key }) => key),
          keys,
        );
        proxy.fault = breaking(lists, fault, always);
        await assert.rejects(collect(store.list("l/")), StoreUnavailable);
      });
    }

    test("a whole object with wrong bytes is read once more; then its reader is to say what is wrong", async () => {
      const { store, direct, proxy } = await open();
      const body = randomBytes(10_000);
      await direct.put("key", body);
      assert.ok((await direct.head("key"))?.sha256, "the service keeps checksums");
      proxy.fault = breaking(reads, "corrupt-reply");
      assert.deepEqual(Buffer.from((await store.get("key"))!), body);
      proxy.requests.length = 0;
      proxy.fault = breaking(reads, "corrupt-reply", always);
      const wrong = await store.get("key");
      assert.equal(wrong?.length, body.length);
      assert.notEqual(hash("sha256", wrong, "hex"), hash("sha256", body, "hex"));
      assert.equal(proxy.requests.length, 2);
    });

    test("an answer that does not begin is asked for again", async () => {
      const { store, direct, proxy } = await open();
      await direct.put("key", Buffer.from("value"));
      const never = new Promise<void>(() => {});
      proxy.fault = breaking(any, never);
      assert.equal(text(await store.get("key")), "value");
      proxy.fault = breaking(any, never);
      assert.equal(await store.put("other", Buffer.from("value")), "written");
    });

    test("a write whose reply is lost is known as our own", async () => {
      const { store, proxy, countVersions } = await open();
      for (const size of [0, 10, 1_000_000]) {
        const body = randomBytes(size);
        proxy.fault = breaking(writes, "lose-reply");
        assert.equal(await store.put(`own/${size}`, body, { ifAbsent: true }), "written");
        assert.equal(await countVersions(`own/${size}`), 1);
        assert.deepEqual(Buffer.from((await store.get(`own/${size}`))!), body);
      }
    });

    test("so it is where the store tells no checksum: the bytes are read back", async () => {
      const { store, proxy } = await open();
      proxy.fault = (request) => (request.method === "HEAD" ? { without: ["x-amz-checksum-sha256"] } : lose(request));
      const lose = breaking(writes, "lose-reply", 2);
      assert.equal(await store.put("own", Buffer.from("value"), { ifAbsent: true }), "written");
      assert.ok(proxy.requests.some(reads));
      assert.equal(await store.put("own", Buffer.from("other"), { ifAbsent: true }), "exists");
    });

    test("an object of somebody else is not taken for our own after a lost reply", async () => {
      const { store, direct, proxy } = await open();
      await direct.put("theirs", Buffer.from("their"));
      for (const ours of ["other", "longer than theirs"]) {
        proxy.fault = breaking(writes, "lose-reply");
        assert.equal(await store.put("theirs", Buffer.from(ours), { ifAbsent: true }), "exists");
      }
      assert.equal(text(await direct.get("theirs")), "their");
    });

    test("a deletion whose reply is lost is done", async () => {
      const { store, direct, proxy } = await open();
      for (const key of ["d/1", "d/2", "d/2", "e"]) await direct.put(key, Buffer.from(key));
      const deletes = ({ method, query }: ProxiedRequest) => method === "POST" && query.includes("delete");
      proxy.fault = breaking(deletes, "lose-reply");
      await store.deleteEveryVersion(["d/1"]);
      proxy.fault = breaking(deletes, "lose-reply");
      assert.deepEqual(await store.deleteEveryVersionBelow("d/"), { deleted: 2, finished: true });
      assert.deepEqual(
        (await collect(direct.list(""))).map(({ key }) => key),
        ["e"],
      );
    });

    for (const [what, refusal] of Object.entries(full)) {
      test(`${what} (${refusal.status} ${refusal.code}) is StoreFull`, async () => {
        const { store, proxy } = await open();
        proxy.fault = (request) => (writes(request) ? refusal : "pass");
        await assert.rejects(store.put("key", Buffer.from("value")), (error) => {
          assert.ok(error instanceof StoreFull, String(error));
          return isRetryable(error);
        });
      });
    }
  });

  const inStorm = async () => {
    const { store, proxy } = await open();
    proxy.fault = storm();
    return store;
  };
  objectStoreContract(`${name} whose every request meets a fault`, inStorm, options);
}

/** Enough for every test of the contract but the one with a thousand objects, which would take half a minute. */
const stormRequests = 200;

/** A fault for the first request of each kind on each key: one after the other, as far as they apply. */
export function storm(): (request: ProxiedRequest) => Fault {
  const seen = new Set<string>();
  return (request) => {
    const id = `${request.method} ${request.path}?${request.query} ${request.headers.range ?? ""}`;
    if (seen.has(id) || seen.size === stormRequests) return "pass";
    seen.add(id);
    const faults = faultsFor(request);
    return faults[seen.size % faults.length] ?? "pass";
  };
}

/** Without what nobody can notice: wrong bytes of a range or a listing. */
function faultsFor({ method, query, headers }: ProxiedRequest): readonly Fault[] {
  const common: Fault[] = [slowDown, internalError, "reset"];
  if (method === "HEAD") return common;
  if (method === "POST") return [...common, "lose-reply"];
  if (method === "PUT") {
    const body: Fault[] = [...common, "reset-request", "corrupt-request"];
    return "if-none-match" in headers ? [...body, conflict, "lose-reply"] : body;
  }
  const reply: Fault[] = [...common, "reset-reply"];
  const isWholeObject = query.includes("x-id=GetObject") && headers.range === undefined;
  return isWholeObject || query.includes("list-type") ? [...reply, "truncate-reply"] : reply;
}
