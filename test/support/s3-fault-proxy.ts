/** An HTTP proxy in front of an S3 server that breaks what a test tells it to break. */
import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface ProxiedRequest {
  readonly method: string;
  /** Path with the bucket, without the query. */
  readonly path: string;
}

/** What to do with a request: pass it on, answer 503, cut the connection, or hold it until the promise is done and then pass it on. */
export type Fault = "pass" | "unavailable" | "reset" | Promise<void>;

export interface FaultProxy {
  readonly endpoint: string;
  /** Decides for each request; by default all pass. */
  fault: (request: ProxiedRequest) => Fault;
  readonly requests: ProxiedRequest[];
  close(): Promise<void>;
}

export async function startFaultProxy(target: string): Promise<FaultProxy> {
  const upstream = new URL(target);
  const requests: ProxiedRequest[] = [];
  const server: Server = createServer((incoming, outgoing) => {
    const seen = { method: incoming.method ?? "GET", path: (incoming.url ?? "/").split("?")[0] ?? "/" };
    requests.push(seen);
    const fault = proxy.fault(seen);
    if (fault === "reset") incoming.socket.destroy();
    else if (fault === "unavailable") refuse(incoming, outgoing);
    else if (fault === "pass") forward(upstream, incoming, outgoing);
    else void fault.then(() => forward(upstream, incoming, outgoing));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const proxy: FaultProxy = {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    fault: () => "pass",
    requests,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  return proxy;
}

function refuse(incoming: IncomingMessage, outgoing: ServerResponse): void {
  incoming.resume();
  incoming.on("end", () => {
    outgoing.writeHead(503, { "content-type": "application/xml" });
    outgoing.end("<Error><Code>ServiceUnavailable</Code><Message>injected</Message></Error>");
  });
}

function forward(upstream: URL, incoming: IncomingMessage, outgoing: ServerResponse): void {
  const onward = request(
    {
      host: upstream.hostname,
      port: upstream.port,
      method: incoming.method,
      path: incoming.url,
      headers: { ...incoming.headers, host: upstream.host },
    },
    (answer) => {
      outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(outgoing);
    },
  );
  onward.on("error", () => outgoing.destroy());
  outgoing.on("close", () => onward.destroy());
  incoming.pipe(onward);
}
