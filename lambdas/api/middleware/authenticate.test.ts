import assert from "node:assert/strict";
import { createServer } from "node:http";
import { describe, test } from "node:test";
import { SignJWT, UnsecuredJWT } from "jose";
import { apiEvent, issuer } from "../../../test/support/api-event.ts";
import type { ApiEvent, Role } from "../http.ts";
import { Problem } from "../problem.ts";
import { authenticate, remoteKeys, type TokenSettings } from "./authenticate.ts";

async function attempt(settings: TokenSettings | undefined, authorization: string | undefined, role: Role = "reader") {
  const event = apiEvent(authorization === undefined ? {} : { headers: { authorization } }) as ApiEvent;
  const request = { event } as Parameters<NonNullable<ReturnType<typeof authenticate>["before"]>>[0];
  await authenticate(settings, role).before?.(request);
  return event.caller;
}

async function refusal(settings: TokenSettings | undefined, authorization: string | undefined, role?: Role) {
  try {
    await attempt(settings, authorization, role);
  } catch (error) {
    assert.ok(error instanceof Problem, String(error));
    return error;
  }
  throw new Error("the token was accepted");
}

describe("authenticate", async () => {
  const acme = await issuer();

  test("a valid token gives tenant and role", async () => {
    assert.deepEqual(await attempt(acme.settings, `Bearer ${await acme.token()}`), {
      tenant: "acme",
      role: "operator",
    });
    assert.deepEqual(await attempt(acme.settings, `bearer ${await acme.token()}`), {
      tenant: "acme",
      role: "operator",
    });
  });

  for (const algorithm of ["RS256", "EdDSA"])
    test(`${algorithm} is taken`, async () => {
      const other = await issuer(algorithm);
      assert.ok(await attempt(other.settings, `Bearer ${await other.token()}`));
    });

  test("no token: 401 with a challenge and no error code", async () => {
    const problem = await refusal(acme.settings, undefined);
    assert.equal(problem.status, 401);
    assert.equal(problem.extras.headers?.["WWW-Authenticate"], 'Bearer realm="snapferry"');
  });

  for (const header of ["Basic dTpw", "Bearer", "Bearer ", "Bearer a b", "Bearer ü", "token"])
    test(`401 for Authorization: ${header}`, async () => {
      assert.equal((await refusal(acme.settings, header)).status, 401);
    });

  const seconds = () => Math.floor(Date.now() / 1000);
  const wrong: Record<string, Record<string, unknown>> = {
    "another issuer": { iss: "https://other.test" },
    "another audience": { aud: "other" },
    "no expiry": { exp: undefined },
    "an expiry in the past": { exp: seconds() - 6 },
    "a begin in the future": { nbf: seconds() + 3600 },
    "no tenant": { tenant: undefined },
    "a tenant that is no text": { tenant: ["acme"] },
    "a tenant with odd characters": { tenant: "acme/../other" },
    "a tenant that is too long": { tenant: "a".repeat(64) },
    "an empty tenant": { tenant: "" },
  };
  for (const [what, claims] of Object.entries(wrong))
    test(`401 for a token with ${what}`, async () => {
      const problem = await refusal(acme.settings, `Bearer ${await acme.token(claims)}`);
      assert.equal(problem.status, 401);
      assert.match(problem.extras.headers?.["WWW-Authenticate"] ?? "", /error="invalid_token"/);
    });

  test("clocks may differ by five seconds", async () => {
    assert.ok(await attempt(acme.settings, `Bearer ${await acme.token({ exp: seconds() - 1 })}`));
  });

  test("401 for a signature by another key, by a shared secret, by none, and for a changed token", async () => {
    const other = await issuer();
    const secret = new TextEncoder().encode("0123456789abcdef0123456789abcdef");
    const claims = { iss: "https://issuer.test", aud: "snapferry", exp: seconds() + 60, tenant: "acme", role: "admin" };
    const [head, , signature] = (await acme.token()).split(".");
    const tokens = [
      await other.token(),
      await new SignJWT(claims).setProtectedHeader({ alg: "HS256" }).sign(secret),
      new UnsecuredJWT(claims).encode(),
      [head, Buffer.from(JSON.stringify(claims)).toString("base64url"), signature].join("."),
      "not.a.token",
      "x",
    ];
    for (const token of tokens) assert.equal((await refusal(acme.settings, `Bearer ${token}`)).status, 401, token);
  });

  const grants: [string, Role, boolean][] = [
    ["reader", "reader", true],
    ["reader", "operator", false],
    ["operator", "reader", true],
    ["operator", "operator", true],
    ["operator", "admin", false],
    ["admin", "admin", true],
    ["admin", "reader", true],
  ];
  for (const [has, needs, allowed] of grants)
    test(`${has} ${allowed ? "may" : "may not"} do what needs ${needs}`, async () => {
      const authorization = `Bearer ${await acme.token({ role: has })}`;
      if (allowed) return assert.ok(await attempt(acme.settings, authorization, needs));
      const problem = await refusal(acme.settings, authorization, needs);
      assert.equal(problem.status, 403);
      assert.match(problem.message, new RegExp(`needs the role ${needs}`));
    });

  test("403 for a role that is unknown or absent", async () => {
    for (const role of ["root", undefined, ["admin"]]) {
      const problem = await refusal(acme.settings, `Bearer ${await acme.token({ role })}`);
      assert.equal(problem.status, 403);
      assert.match(problem.message, /reader, operator or admin/);
    }
  });

  test("a deployment without an issuer lets nobody in", async () => {
    assert.equal((await refusal(undefined, `Bearer ${await acme.token()}`)).status, 401);
  });

  test("503 while the issuer's keys cannot be fetched", async () => {
    const settings = { ...acme.settings, keys: remoteKeys("http://127.0.0.1:1/jwks.json") };
    const problem = await refusal(settings, `Bearer ${await acme.token()}`);
    assert.equal(problem.status, 503);
  });

  test("keys may be fetched by somebody else, once for many tokens", async () => {
    let fetched = 0;
    const keys = remoteKeys("https://issuer.test/keys", async () => {
      fetched++;
      return Response.json(acme.keys);
    });
    for (let request = 0; request < 3; request++)
      assert.ok(await attempt({ ...acme.settings, keys }, `Bearer ${await acme.token()}`));
    assert.equal(fetched, 1);
    const failing = remoteKeys("https://issuer.test/keys", () => Promise.reject(new Error("the function failed")));
    assert.equal((await refusal({ ...acme.settings, keys: failing }, `Bearer ${await acme.token()}`)).status, 503);
  });

  test("503 when the issuer answers with something else than keys", async () => {
    for (const [status, body] of [
      [500, "{}"],
      [200, "<html>"],
    ] as const) {
      const server = createServer((_request, response) => response.writeHead(status).end(body));
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
      const { port } = server.address() as { port: number };
      const settings = { ...acme.settings, keys: remoteKeys(`http://127.0.0.1:${port}/jwks.json`) };
      assert.equal((await refusal(settings, `Bearer ${await acme.token()}`)).status, 503);
      server.close();
    }
  });
});
