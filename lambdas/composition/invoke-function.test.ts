import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type IncomingMessage, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, describe, it, mock } from "node:test";
import { importFunction } from "./import-function.ts";
import { keysFunction } from "./keys-function.ts";

describe("a function that is called by another", () => {
  let server: Server;
  let answer: RequestListener;

  before(async () => {
    server = createServer((request, response) => answer(request, response)).listen(0, "127.0.0.1");
    await once(server, "listening");
    Object.assign(process.env, {
      AWS_ENDPOINT_URL_LAMBDA: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
      AWS_REGION: "us-east-1",
      AWS_ACCESS_KEY_ID: "test",
      AWS_SECRET_ACCESS_KEY: "test",
    });
  });
  after(async () => {
    delete process.env.AWS_ENDPOINT_URL_LAMBDA;
    server.closeAllConnections();
    server.close();
    await once(server, "close");
  });

  it("gets the request and gives its answer", async () => {
    const asked: string[] = [];
    answer = async (request, response) => {
      asked.push(`${request.url} ${await textOf(request)}`);
      response.end('{"imported":1}');
    };
    const request = { tenant: "acme", storeId: "default", limit: 10 };
    assert.deepEqual(await importFunction("import")(request), { imported: 1 });
    const response = await keysFunction("keys")();
    assert.deepEqual([response.status, await response.json()], [200, { imported: 1 }]);
    const path = (name: string) => `/2015-03-31/functions/${name}/invocations`;
    assert.deepEqual(asked, [`${path("import")} ${JSON.stringify(request)}`, `${path("keys")} `]);
  });

  it("that fails has no answer, and is not called again", async () => {
    let calls = 0;
    answer = (_, response) => {
      calls++;
      response.writeHead(200, { "x-amz-function-error": "Unhandled" }).end('{"errorMessage":"out of order"}');
    };
    await assert.rejects(keysFunction("keys")(), /^Error: keys failed: .*out of order/);
    assert.equal(calls, 1);
    answer = (_, response) => {
      calls++;
      response.writeHead(500).end("{}");
    };
    await assert.rejects(keysFunction("keys")());
    assert.equal(calls, 2);
  });

  it("that says nothing is waited for until shortly before the API's own time is up", async () => {
    for (const [milliseconds, call] of [
      [10_000, keysFunction("keys")],
      [27_000, importFunction("import")],
    ] as const) {
      const asked = Promise.withResolvers<void>();
      answer = () => asked.resolve();
      mock.timers.enable({ apis: ["setTimeout"] });
      try {
        const outcome = call({ tenant: "acme", storeId: "default", limit: 10 }).then(
          () => "an answer",
          (error: Error) => error.name,
        );
        await asked.promise;
        mock.timers.tick(milliseconds);
        assert.equal(await outcome, "TimeoutError");
      } finally {
        mock.timers.reset();
      }
    }
  });
});

async function textOf(request: IncomingMessage): Promise<string> {
  return Buffer.concat(await Array.fromAsync(request as AsyncIterable<Buffer>)).toString();
}
