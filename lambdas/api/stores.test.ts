import assert from "node:assert/strict";
import { describe, it } from "node:test";
import * as errors from "../domain/errors.ts";
import type { StoreRow } from "../domain/inventory.ts";
import type { Services } from "../services.ts";
import { Problem } from "./problem.ts";
import { registerStoreBody } from "./request-schemas.ts";
import { registerStore, type StoreDeployment } from "./stores.ts";

const request = { name: "vault", bucket: "vault", secretId: "snapferry/acme/vault" };
/** What must not be reached: a refusal writes nothing. */
const services = { now: () => new Date(0), database: undefined } as unknown as Services;

/** The problem that answers the registration of such a store. */
async function refusal(body: object, deployment: Partial<StoreDeployment>, failure?: Error): Promise<Problem> {
  const checks = {
    fitness: async () => {
      if (failure) throw failure;
    },
    hasObjectLock: async () => false,
  };
  const registering = registerStore(
    services,
    { checks, hasKey: true, ofDefaultStore: "none", ...deployment },
    {
      caller: { tenant: "acme", role: "admin" },
      method: "POST",
      path: "/stores",
      id: "",
      query: {},
      body: registerStoreBody.parse({ ...request, ...body }),
      idempotencyKey: undefined,
    },
  );
  const problem = await registering.then(
    () => assert.fail("it was registered"),
    (error: unknown) => error,
  );
  assert.ok(problem instanceof Problem, String(problem));
  return problem;
}

describe("a store is refused", () => {
  it("that is to be encrypted, where the deployment has no key, with the way out", async () => {
    const { status, extras } = await refusal({ encryption: "client" }, { hasKey: false });
    assert.equal(status, 400);
    const [error] = extras.errors ?? [];
    assert.deepEqual({ ...error, detail: "" }, { pointer: "/encryption", detail: "" });
    assert.match(error?.detail ?? "", /encryption\.key=create/);
  });

  it("that is to be locked, where its bucket has no Object Lock or does not say", async () => {
    const objectLock = { mode: "governance", days: 1 };
    const hasObjectLock = async (): Promise<boolean> => {
      throw new errors.StoreRefused("no right to look");
    };
    for (const [deployment, words] of [
      [{}, /bucket vault has no Object Lock/],
      [{ checks: { fitness: async () => {}, hasObjectLock } }, /cannot be checked: no right to look/],
    ] as const) {
      const { status, extras } = await refusal({ objectLock }, deployment);
      assert.equal(status, 400);
      assert.deepEqual(
        extras.errors?.map((error) => "pointer" in error && error.pointer),
        ["/objectLock"],
      );
      assert.match(extras.errors?.[0]?.detail ?? "", words);
    }
  });

  const endpoint: Pick<StoreRow, "endpoint"> = { endpoint: "https://minio.example.com" };
  for (const [failure, body, status, pointer] of [
    [errors.StoreFull, {}, 400, "/bucket"],
    [errors.ObjectLocked, {}, 400, "/bucket"],
    [errors.StoreUnfit, {}, 400, "/bucket"],
    [errors.SecretUnusable, {}, 400, "/secretId"],
    [errors.EndpointForbidden, endpoint, 400, "/endpoint"],
    [errors.StoreUnavailable, endpoint, 400, "/endpoint"],
    [errors.StoreUnavailable, {}, 503, undefined],
    [errors.Throttled, endpoint, 503, undefined],
  ] as const)
    it(`${failure.name} is a ${status}${pointer === undefined ? "" : ` that names ${pointer}`}`, async () => {
      const problem = await refusal(body, {}, new failure("it failed"));
      assert.equal(problem.status, status);
      const pointers = problem.extras.errors?.map((error) => "pointer" in error && error.pointer);
      assert.deepEqual(pointers, pointer === undefined ? undefined : [pointer]);
    });
});
