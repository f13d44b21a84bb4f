/**
 * A proxy on the loopback interface that holds each request back for a while and then lets it through at full speed, as a longer way
 * to the store does: node proxy.ts PORT MILLISECONDS, and says its own port on stdout. It does not read HTTP. On a kept-alive
 * connection a request begins where bytes come from the client after bytes from the server: S3 answers when it has the whole body.
 */
import { connect, createServer, type Socket } from "node:net";

const [upstreamPort, delayMs] = process.argv.slice(2).map(Number);
if (!upstreamPort || delayMs === undefined) throw new Error("usage: node proxy.ts PORT MILLISECONDS");

/** `100 Continue` asks for the body of the request under way: what follows is no new request. */
const interim = Buffer.from("HTTP/1.1 100");

function join(client: Socket): void {
  const server = connect({ port: upstreamPort!, host: "127.0.0.1", noDelay: true });
  client.setNoDelay(true);
  let answered = true;
  let waiting: NodeJS.Timeout | undefined;
  const forward = (data: Buffer) => {
    if (!server.write(data)) client.pause();
  };
  client.on("data", (data: Buffer) => {
    if (!answered || delayMs === 0) return forward(data);
    answered = false;
    client.pause();
    waiting = setTimeout(() => {
      client.resume();
      forward(data);
    }, delayMs);
  });
  server.on("drain", () => client.resume());
  server.on("data", (data: Buffer) => {
    if (data.indexOf(interim) !== 0) answered = true;
    if (!client.write(data)) server.pause();
  });
  client.on("drain", () => server.resume());
  for (const [from, to] of [
    [client, server],
    [server, client],
  ] as const) {
    from.on("end", () => to.end());
    from.on("error", () => to.destroy());
    from.on("close", () => {
      clearTimeout(waiting);
      to.destroy();
    });
  }
}

const listener = createServer({ allowHalfOpen: true }, join);
listener.listen(0, "127.0.0.1", () => {
  const address = listener.address();
  if (address && typeof address === "object") console.log(address.port);
});
process.stdin.resume().on("end", () => process.exit());
