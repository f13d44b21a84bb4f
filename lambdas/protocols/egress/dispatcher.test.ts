import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, createServer as createTcpServer, type Server, type Socket } from "node:net";
import { describe, test } from "node:test";
import { createServer as createTlsServer } from "node:tls";
import { selfSignedCertificate } from "../../../test/support/self-signed-certificate.ts";
import { guardedDispatcher } from "./dispatcher.ts";

const connectTimeout = 200;

/** What a request to the server comes to; ends the server and the agent. */
async function requestTo(server: Server, rules: { allowedCidrs: string[] } | undefined): Promise<unknown> {
  const sockets = new Set<Socket>();
  server.on("connection", (socket) => sockets.add(socket));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const agent = guardedDispatcher(rules, { connectTimeout });
  const origin = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  try {
    return await agent.request({ origin, path: "/", method: "GET" }).catch((error: unknown) => error);
  } finally {
    await agent.destroy();
    for (const socket of sockets) socket.destroy();
    server.close();
  }
}

for (const rules of [{ allowedCidrs: ["127.0.0.1"] }, undefined]) {
  describe(rules ? "an agent with rules" : "an agent without rules", () => {
    test("gives a connection up in the time that it was given", { timeout: 5_000 }, async () => {
      const error = await requestTo(createTcpServer(), rules);
      assert.ok(error instanceof Error && "code" in error, String(error));
      assert.equal(error.code, "UND_ERR_CONNECT_TIMEOUT");
    });

    test("speaks HTTP/1.1 alone", async () => {
      const { key, certificate } = selfSignedCertificate("127.0.0.1");
      const offered: string[] = [];
      const ALPNCallback = ({ protocols }: { protocols: string[] }) => void offered.push(...protocols);
      const server = createTlsServer({ key, cert: certificate, ALPNCallback });
      server.on("tlsClientError", () => undefined);
      await requestTo(server, rules);
      assert.deepEqual(offered, ["http/1.1"]);
    });
  });
}
