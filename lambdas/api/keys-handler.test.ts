import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { describe, it } from "node:test";
import { handler } from "./keys-handler.ts";

/** What comes of fetching keys from an issuer that answers so. */
async function fetchFrom(answer: RequestListener): Promise<unknown> {
  const server = createServer(answer).listen(0, "127.0.0.1");
  await once(server, "listening");
  process.env.AUTH_JWKS_URL = `http://127.0.0.1:${(server.address() as AddressInfo).port}/keys`;
  try {
    return await handler();
  } finally {
    delete process.env.AUTH_JWKS_URL;
    server.closeAllConnections();
    server.close();
  }
}

describe("the issuer's keys", () => {
  it("are handed on as they are", async () => {
    const keys = { keys: [{ kty: "EC", kid: "1" }] };
    assert.deepEqual(await fetchFrom((_, response) => response.end(JSON.stringify(keys))), keys);
  });

  for (const [what, answer] of [
    ["a fault", (_, response) => response.writeHead(500).end("{}")],
    ["a page", (_, response) => response.end("<html>")],
    ["a way to elsewhere", (_, response) => response.writeHead(302, { location: "http://127.0.0.1:1/" }).end()],
  ] as [string, RequestListener][])
    it(`are not had from ${what}`, () => assert.rejects(fetchFrom(answer)));
});
