import assert from "node:assert/strict";
import { once } from "node:events";
import { Agent, createServer, request, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, describe, it } from "node:test";
import { type DelayedAccess, delayRequests } from "./delayed-access.ts";

const delayMs = 60;

describe("delayed requests", () => {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  let server: Server;
  let delayed: DelayedAccess;

  /** Sends a body and gets it back; answers how long that took, milliseconds. */
  async function echo(bytes: number): Promise<{ length: number; took: number }> {
    const started = performance.now();
    const sending = request(delayed.access.endpoint, { method: "POST", agent }).end(Buffer.alloc(bytes, 1));
    const [answer] = await once(sending, "response");
    let length = 0;
    for await (const part of answer) length += part.length;
    return { length, took: performance.now() - started };
  }

  before(async () => {
    server = createServer(async (incoming, answer) => {
      const parts = await Array.fromAsync(incoming);
      answer.end(Buffer.concat(parts));
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    delayed = await delayRequests({ endpoint, bucket: "", accessKeyId: "", secretAccessKey: "" }, delayMs);
  });
  after(async () => {
    agent.destroy();
    await delayed.stop();
    server.close();
  });

  it("wait once each, on a connection that is kept too", async () => {
    for (let count = 0; count < 3; count++) {
      const { length, took } = await echo(10);
      assert.equal(length, 10);
      assert.ok(took >= delayMs - 1, `${took} ms`);
    }
  });

  it("come through whole when they are large", async () => {
    const { length } = await echo(32 * 1024 * 1024);
    assert.equal(length, 32 * 1024 * 1024);
  });
});
