import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { apiEvent, type EventOptions, issuer, lambdaContext } from "../../test/support/api-event.ts";
import { HypervisorUnavailable, StateConflict } from "../domain/errors.ts";
import { newId } from "../domain/ids.ts";
import type { Job } from "../domain/job.ts";
import { type ApiOptions, apiHandler, publicRoute, type Route, route } from "./api-handler.ts";
import { encodeCursor } from "./cursor.ts";
import type { ApiResponse } from "./http.ts";
import { type Operation, operations } from "./operations.ts";
import { Problem, type ProblemBody } from "./problem.ts";

/** What {@link echo} makes of a request. */
interface Echoed {
  readonly body: Readonly<Record<string, unknown>>;
  readonly query: Readonly<Record<string, unknown>>;
  readonly idempotencyKey?: string;
}

interface Answer {
  readonly status: number;
  readonly headers: Record<string, string>;
  readonly body: Partial<ProblemBody> & { readonly request?: Echoed };
}

const logged: { message: string; entry: Record<string, unknown> }[] = [];
const logger = {
  info: (message: string, entry: Record<string, unknown>) => logged.push({ message, entry }),
  error: (message: string, entry: Record<string, unknown>) => logged.push({ message, entry }),
} as unknown as ApiOptions["logger"];

const acme = await issuer();
const volume = newId("volume");
const job = newId("job");
const createPath = `/volumes/${volume}/snapshots`;

function echo(operation: Operation): Route {
  const answer = async (request: unknown): Promise<ApiResponse> => ({ status: 200, body: { request } });
  return operation.access === "public" ? publicRoute(operation as never, () => answer({})) : route(operation, answer);
}

async function send(
  options: EventOptions,
  routes = Object.values(operations).map(echo),
  readJob = async () => undefined as Job | undefined,
): Promise<Answer> {
  const handler = apiHandler(routes, { logger, tokens: acme.settings, readJob });
  const authorization = `Bearer ${await acme.token({ role: "admin" })}`;
  const headers = {
    authorization,
    ...(options.body ? { "Content-Type": "application/json" } : {}),
    ...options.headers,
  };
  const result = await handler(apiEvent({ ...options, headers }), lambdaContext());
  return {
    status: result.statusCode,
    headers: result.headers as Record<string, string>,
    body: JSON.parse(result.body),
  };
}

function assertProblem(answer: Answer, status: number, kind: string): void {
  assert.equal(answer.status, status, JSON.stringify(answer.body));
  assert.equal(answer.headers["Content-Type"], "application/problem+json");
  assert.equal(answer.body.type, `/problems/${kind}`);
  assert.equal(answer.body.status, status);
  assert.equal(answer.body.requestId, "request-1");
  assert.ok(answer.body.title && answer.body.detail && answer.body.instance?.startsWith("/v1"));
}

describe("routes", () => {
  for (const [name, operation] of Object.entries(operations) as [string, Operation][])
    test(`${operation.method} ${operation.path} reaches ${name}`, async () => {
      const path = operation.path.replace("{id}", newId(operation.id ?? "job"));
      const body = operation.body && !operation.body.safeParse({}).success ? null : operation.body ? "{}" : null;
      const answer = await send({ method: operation.method, path, body });
      assert.ok(answer.status === 200 || answer.status === 400, JSON.stringify(answer));
    });

  test("an unknown path is a 404 problem", async () => {
    for (const path of ["", "/nothing", "/volumes/x/y/z", "/", "//", "/jobs/a/b"])
      assertProblem(await send({ path }), 404, "not-found");
  });

  test("a wrong method is a 405 problem that allows the right ones", async () => {
    const answer = await send({ method: "PUT", path: `/snapshots/${newId("snapshot")}` });
    assertProblem(answer, 405, "method-not-allowed");
    assert.equal(answer.headers.Allow, "DELETE, GET");
    assert.equal((await send({ method: "GET", path: createPath })).headers.Allow, "POST");
  });

  test("an id of the wrong shape is a 404, whatever it holds", async () => {
    for (const id of [
      "x",
      "vol_",
      `${volume}x`,
      volume.toLowerCase(),
      newId("job"),
      "%00",
      "..",
      "%E0%A4%A",
      "__proto__",
    ])
      assertProblem(await send({ method: "GET", path: `/volumes/${id}` }), 404, "not-found");
  });

  test("an answer is JSON that nobody may cache", async () => {
    const { headers } = await send({ path: "/jobs" });
    assert.equal(headers["Content-Type"], "application/json");
    assert.equal(headers["Cache-Control"], "no-store");
  });
});

describe("who may call", () => {
  test("public operations need no token, all others do", async () => {
    for (const operation of Object.values(operations) as Operation[]) {
      const path = operation.path.replace("{id}", newId(operation.id ?? "job"));
      const answer = await send({ method: operation.method, path, headers: { authorization: "" } });
      if (operation.access === "public") assert.equal(answer.status, 200, path);
      else {
        assertProblem(answer, 401, "unauthorized");
        assert.match(answer.headers["WWW-Authenticate"] ?? "", /^Bearer/);
      }
    }
  });

  test("each operation is refused to the role below the one that it needs", async () => {
    for (const operation of Object.values(operations) as Operation[]) {
      const lesser = { public: undefined, reader: undefined, operator: "reader", admin: "operator" }[operation.access];
      if (lesser === undefined) continue;
      const path = operation.path.replace("{id}", newId(operation.id ?? "job"));
      const authorization = `Bearer ${await acme.token({ role: lesser })}`;
      assertProblem(await send({ method: operation.method, path, headers: { authorization } }), 403, "forbidden");
    }
  });
});

describe("bodies", () => {
  const post = (body: string | null, more: EventOptions = {}) =>
    send({ method: "POST", path: createPath, body, ...more });

  test("no body, an empty one and {} are the same: defaults", async () => {
    for (const body of [null, "", "  ", "{}"]) {
      const answer = await post(body);
      assert.deepEqual(answer.body.request?.body, {
        asyncBackup: false,
        storeId: "default",
        tags: {},
        verify: "checksum",
        full: false,
      });
    }
  });

  test("what is no JSON is a 400", async () => {
    for (const body of [
      "{",
      "nope",
      "{'a':1}",
      '{"a":NaN}',
      '{"name":undefined}',
      "\u0000",
      '{"a":1}}',
      "[".repeat(200_000),
    ])
      assertProblem(await post(body), 400, "malformed-json");
  });

  test("what is no object is a 400 at the root", async () => {
    for (const [body, was] of [
      ["null", "null"],
      ["[]", "a list"],
      ['"x"', '"x"'],
      ["1", "1"],
      ["true", "true"],
    ] as const) {
      const answer = await post(body);
      assertProblem(answer, 400, "invalid-request");
      assert.deepEqual(answer.body.errors, [{ pointer: "", detail: `must be an object, not ${was}` }]);
    }
  });

  test("wrong and unknown fields are named, with what was probably meant", async () => {
    const answer = await post('{"asyncBackup":"yes","asyncBakcup":true,"wholly":1}');
    assert.equal(answer.body.detail, "3 fields are wrong.");
    assert.deepEqual(answer.body.errors, [
      { pointer: "/asyncBackup", detail: 'must be true or false, not "yes"' },
      { pointer: "/asyncBakcup", detail: "is not a field of this request; did you mean asyncBackup?" },
      { pointer: "/wholly", detail: "is not a field of this request" },
    ]);
  });

  test("names that JavaScript treats as its own are refused like any other", async () => {
    for (const body of [
      '{"__proto__":{"admin":true}}',
      '{"tags":{"__proto__":"x"}}',
      '{"constructor":{"prototype":{}}}',
    ])
      assertProblem(await post(body), 400, "invalid-request");
    assert.equal((await post('{"tags":{"constructor":"x","toString":"y"}}')).status, 200);
  });

  test("a repeated field counts as its last value", async () => {
    assert.equal((await post('{"name":"a","name":"b"}')).body.request?.body.name, "b");
  });

  test("deep JSON is refused, not followed", async () => {
    const deep = `{"name":${"[".repeat(50_000)}${"]".repeat(50_000)}}`;
    assert.equal((await post(deep)).status, 400);
  });

  test("more than 256 KiB is a 413", async () => {
    assertProblem(await post(JSON.stringify({ name: "x".repeat(256 * 1024) })), 413, "too-large");
  });

  test("another content type is a 415, also none", async () => {
    for (const type of ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"])
      assertProblem(await post("{}", { headers: { "Content-Type": type } }), 415, "unsupported-media-type");
    assert.equal((await post("{}", { headers: { "content-type": "application/json; charset=utf-8" } })).status, 200);
  });

  test("base64 bodies are decoded; what is no UTF-8 is a 400", async () => {
    const encoded = (bytes: Uint8Array | string) => Buffer.from(bytes as string).toString("base64");
    assert.equal((await post(encoded('{"name":"ä"}'), { base64: true })).body.request?.body.name, "ä");
    assertProblem(
      await post(Buffer.from([0x7b, 0xff, 0xfe, 0x7d]).toString("base64"), { base64: true }),
      400,
      "malformed-json",
    );
  });

  test("whatever JSON comes, no field of any operation makes an internal error", async () => {
    const taking = (Object.values(operations) as Operation[]).filter((operation) => operation.body);
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...taking),
        fc.oneof(fc.json(), fc.string(), fieldsOfRequests()),
        async (operation, body) => {
          const path = operation.path.replace("{id}", newId(operation.id ?? "job"));
          const { status } = await send({
            method: operation.method,
            path,
            body,
            headers: { "Content-Type": "application/json" },
          });
          assert.ok([200, 400].includes(status), `${status} for ${body}`);
        },
      ),
      { numRuns: 300 },
    );
  });
});

/** Bodies with the right names and values of every kind. */
function fieldsOfRequests(): fc.Arbitrary<string> {
  const names = [
    "name",
    "description",
    "asyncBackup",
    "storeId",
    "limits",
    "objectLock",
    "tags",
    "target",
    "kind",
    "directory",
    "tenantRules",
    "bucket",
    "endpoint",
    "secretId",
    "prefix",
    "region",
  ];
  return fc.dictionary(fc.constantFrom(...names), fc.jsonValue()).map((value) => JSON.stringify(value));
}

describe("query parameters", () => {
  const list = (query: EventOptions["query"]) => send({ path: "/snapshots", query });

  test("wrong ones are named as parameters", async () => {
    const answer = await list({ limit: "0", state: "Backedup", cursor: "!!", volumeId: "x", limti: "3" });
    assertProblem(answer, 400, "invalid-request");
    const byName: Record<string, string> = Object.fromEntries(
      (answer.body.errors ?? []).map((error) => ["parameter" in error ? error.parameter : "", error.detail]),
    );
    assert.equal(byName.limit, 'must be a whole number from 1 to 100, not "0"');
    assert.match(byName.state ?? "", /^must be "Allocated", .* or "Destroyed", not "Backedup"$/);
    assert.equal(byName.cursor, "is no cursor of this list");
    assert.match(byName.volumeId ?? "", /^must be the id of a volume/);
    assert.equal(byName.limti, "is not a parameter of this request; did you mean limit?");
  });

  test("the limit is a plain number from 1 to 100, 25 if absent", async () => {
    assert.equal((await list({})).body.request?.query.limit, 25);
    assert.equal((await list({ limit: "100" })).body.request?.query.limit, 100);
    for (const limit of ["101", "-1", "1.5", "1e1", "", " 5", "five", "０"])
      assert.equal((await list({ limit })).status, 400, limit);
  });

  test("a cursor leads on in its own list only", async () => {
    const cursor = encodeCursor(newId("snapshot"));
    assert.equal((await list({ cursor })).status, 200);
    assert.equal((await send({ path: "/jobs", query: { cursor } })).status, 400);
    assert.equal((await list({ cursor: encodeCursor("zzz") })).status, 400);
  });

  test("a parameter given twice is refused", async () => {
    const answer = await list({ limit: ["1", "2"] });
    assert.deepEqual(answer.body.errors, [{ parameter: "limit", detail: "is given more than once" }]);
  });

  test("an operation without parameters takes none", async () => {
    assert.equal((await send({ path: `/jobs/${job}`, query: { verbose: "1" } })).status, 400);
  });
});

describe("errors of what is behind the routes", () => {
  const failing = (error: unknown) =>
    send({ path: "/jobs" }, [route(operations.listJobs, () => Promise.reject(error))]);

  test("a problem is answered as it is", async () => {
    const answer = await failing(new Problem("hypervisor-in-use", "It is in use.", { members: { jobs: ["a"] } }));
    assertProblem(answer, 409, "hypervisor-in-use");
    assert.deepEqual(answer.body.jobs, ["a"]);
  });

  test("a conflict of states is a 409 in words", async () => {
    const answer = await failing(new StateConflict("snap_1 is Destroying", "job_1"));
    assertProblem(answer, 409, "conflict");
    assert.equal(answer.body.detail, "snap_1 is Destroying.");
  });

  test("all else is a 500 that tells the log and not the caller", async () => {
    for (const error of [
      new Error("secret thing"),
      new HypervisorUnavailable("secret thing"),
      "secret thing",
      undefined,
      null,
    ]) {
      logged.length = 0;
      const answer = await failing(error);
      assertProblem(answer, 500, "internal-error");
      assert.ok(!JSON.stringify(answer.body).includes("secret thing"));
      assert.equal(logged.length, 1);
      assert.equal(logged[0]?.entry.requestId, "request-1");
      assert.equal(logged[0]?.entry.tenant, "acme");
    }
  });

  test("the log never holds tokens, bodies or query parameters", async () => {
    logged.length = 0;
    await send({ method: "POST", path: createPath, body: '{"description":"very-private"}' });
    await send({ path: "/snapshots", query: { cursor: "very-private" } });
    assert.equal(logged.length, 2);
    assert.ok(!/Bearer|eyJ|very-private/.test(JSON.stringify(logged)));
  });
});

describe("Prefer: wait", () => {
  const row = (state: Job["state"]) => ({ id: job, state }) as Job;
  const pendingRoute = route(operations.cancelJob, async () => {
    const answer = async () => ({ status: 202, body: { fresh: true } });
    return { status: 202, body: { fresh: false }, pending: { jobId: job, answer } };
  });
  const path = `/jobs/${job}/cancel`;

  test("answers 200 and anew when the job has ended meanwhile", async () => {
    let looks = 0;
    const readJob = async () => row(looks++ < 2 ? "Running" : "Succeeded");
    const answer = await send({ method: "POST", path, headers: { Prefer: "wait=5" } }, [pendingRoute], readJob);
    assert.equal(answer.status, 200);
    assert.deepEqual(answer.body, { fresh: true });
    assert.equal(answer.headers["Preference-Applied"], "wait=5");
    assert.equal(looks, 3);
  });

  test("answers 202 when the time is over first", async () => {
    const answer = await send({ method: "POST", path, headers: { Prefer: "wait=0" } }, [pendingRoute], async () =>
      row("Running"),
    );
    assert.equal(answer.status, 202);
    assert.equal(answer.headers["Preference-Applied"], "wait=0");
  });

  test("without the header, or with one that makes no sense, nothing is waited for", async () => {
    for (const headers of [{}, { Prefer: "wait=soon" }, { Prefer: "respond-async" }] as Record<string, string>[]) {
      const answer = await send({ method: "POST", path, headers }, [pendingRoute], async () => row("Running"));
      assert.equal(answer.status, 202);
      assert.equal(answer.headers["Preference-Applied"], undefined);
    }
  });
});

describe("Idempotency-Key", () => {
  test("must be visible ASCII of at most 255 characters", async () => {
    for (const key of ["", "a b", "ü", "x".repeat(256)]) {
      const answer = await send({ method: "POST", path: createPath, headers: { "Idempotency-Key": key } });
      assertProblem(answer, 400, "invalid-request");
      const [error] = answer.body.errors ?? [];
      assert.equal(error && "header" in error && error.header, "Idempotency-Key");
    }
    assert.equal(
      (await send({ method: "POST", path: createPath, headers: { "idempotency-key": "k-1" } })).body.request
        ?.idempotencyKey,
      "k-1",
    );
  });
});
