/** An HTTP proxy in front of an S3 server that breaks what a test tells it to break. Signatures stay valid: what it passes on says what came in. */
import { createServer, type IncomingHttpHeaders, type IncomingMessage, request, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { buffer } from "node:stream/consumers";

export interface ProxiedRequest {
  readonly method: string;
  /** Path with the bucket, without the query. */
  readonly path: string;
  /** Without the question mark. */
  readonly query: string;
  readonly headers: IncomingHttpHeaders;
}

/** An answer that the store did not give, and the request that it never saw. */
export interface Refusal {
  readonly status: number;
  readonly code: string;
  readonly message?: string;
}

/** The request is passed on without these headers, and the reply too: a store that does not know them. */
export interface Without {
  readonly without: readonly string[];
}

export type NamedFault =
  | "pass"
  /** 503, with a code that says nothing of throttling. */
  | "unavailable"
  /** The connection is cut before anything is read. */
  | "reset"
  /** Half of the request's body is read; then the connection is cut, and the store sees nothing. */
  | "reset-request"
  /** One byte of the request's body changes on its way. */
  | "corrupt-request"
  /** The store does what it was asked; then the connection is cut. */
  | "lose-reply"
  /** The reply's head and half of its body come; then the connection is cut. */
  | "reset-reply"
  /** Half of the reply's body comes, and its head says that this is all. */
  | "truncate-reply"
  /** One byte of the reply's body is wrong. */
  | "corrupt-reply"
  /** The reply's head comes, and then one byte every 20 ms. */
  | "trickle-reply";

/** What to do with a request; a promise holds it until it is done, and then passes it on. */
export type Fault = NamedFault | Refusal | Without | Promise<void>;

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
  const server = createServer((incoming, outgoing) => {
    const [path = "/", query = ""] = (incoming.url ?? "/").split("?");
    const seen = { method: incoming.method ?? "GET", path, query, headers: incoming.headers };
    requests.push(seen);
    const fault = proxy.fault(seen);
    // A client that goes away in the middle of a fault is none of the proxy's business.
    handle(fault, { upstream, incoming, outgoing }).catch(() => outgoing.destroy());
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

interface Exchange {
  readonly upstream: URL;
  readonly incoming: IncomingMessage;
  readonly outgoing: ServerResponse;
}

async function handle(fault: Fault, exchange: Exchange): Promise<void> {
  if (fault instanceof Promise) {
    await fault;
    return forward(exchange);
  }
  if (typeof fault === "string") return named[fault](exchange);
  if ("without" in fault) return forward(exchange, fault.without);
  return refuse(exchange, fault);
}

const trickleMilliseconds = 20;

const named: Readonly<Record<NamedFault, (exchange: Exchange) => Promise<void>>> = {
  pass: (exchange) => forward(exchange),
  unavailable: (exchange) => refuse(exchange, { status: 503, code: "ServiceUnavailable" }),
  reset: async ({ incoming }) => void incoming.socket.destroy(),
  "reset-request": async ({ incoming }) => {
    const whole = Number(incoming.headers["content-length"] ?? 0);
    let length = 0;
    for await (const part of incoming) {
      length += (part as Buffer).length;
      if (length >= whole / 2) break;
    }
    incoming.socket.destroy();
  },
  "corrupt-request": async (exchange) => {
    const body = await buffer(exchange.incoming);
    await reply(exchange, await send(exchange, flipped(body)));
  },
  "lose-reply": async (exchange) => {
    await send(exchange, await buffer(exchange.incoming));
    exchange.incoming.socket.destroy();
  },
  "reset-reply": async (exchange) => {
    const { head, body } = await send(exchange, await buffer(exchange.incoming));
    exchange.outgoing.writeHead(head.statusCode ?? 502, head.headers);
    exchange.outgoing.write(half(body), () => exchange.incoming.socket.destroy());
  },
  "truncate-reply": async (exchange) => {
    const { head, body } = await send(exchange, await buffer(exchange.incoming));
    await reply(exchange, { head, body: half(body) });
  },
  "corrupt-reply": async (exchange) => {
    const { head, body } = await send(exchange, await buffer(exchange.incoming));
    await reply(exchange, { head, body: flipped(body) });
  },
  "trickle-reply": async (exchange) => {
    const { head, body } = await send(exchange, await buffer(exchange.incoming));
    exchange.outgoing.writeHead(head.statusCode ?? 502, head.headers);
    for (const byte of body) {
      if (exchange.outgoing.destroyed) return;
      exchange.outgoing.write(Uint8Array.of(byte));
      await new Promise((resolve) => setTimeout(resolve, trickleMilliseconds));
    }
    exchange.outgoing.end();
  },
};

function half(body: Buffer): Buffer {
  return body.subarray(0, Math.floor(body.length / 2));
}

function flipped(body: Buffer): Buffer {
  const changed = Buffer.from(body);
  const middle = Math.floor(body.length / 2);
  if (body.length > 0) changed[middle] = changed[middle]! ^ 1;
  return changed;
}

async function refuse({ incoming, outgoing }: Exchange, { status, code, message }: Refusal): Promise<void> {
  await buffer(incoming);
  outgoing.writeHead(status, { "content-type": "application/xml" });
  outgoing.end(`<Error><Code>${code}</Code><Message>${message ?? "injected"}</Message></Error>`);
}

interface Reply {
  readonly head: IncomingMessage;
  readonly body: Buffer;
}

/** The store's reply to a request with this body. */
async function send({ upstream, incoming }: Exchange, body: Buffer): Promise<Reply> {
  const onward = onwardRequest(upstream, incoming);
  const answered = new Promise<IncomingMessage>((resolve, reject) =>
    onward.on("response", resolve).on("error", reject),
  );
  onward.end(body);
  const head = await answered;
  return { head, body: await buffer(head) };
}

/** The reply with another body: its head tells this body's length. */
async function reply({ outgoing }: Exchange, { head, body }: Reply): Promise<void> {
  const { "transfer-encoding": _, ...headers } = head.headers;
  outgoing.writeHead(head.statusCode ?? 502, { ...headers, "content-length": body.length });
  outgoing.end(body);
}

async function forward({ upstream, incoming, outgoing }: Exchange, without: readonly string[] = []): Promise<void> {
  const onward = onwardRequest(upstream, incoming, without);
  onward.on("response", (answer) => {
    outgoing.writeHead(answer.statusCode ?? 502, drop(answer.headers, without));
    answer.pipe(outgoing);
  });
  onward.on("error", () => outgoing.destroy());
  outgoing.on("close", () => onward.destroy());
  incoming.pipe(onward);
}

/** The host stays what the client signed. */
function onwardRequest(upstream: URL, incoming: IncomingMessage, without: readonly string[] = []) {
  return request({
    host: upstream.hostname,
    port: upstream.port,
    method: incoming.method,
    path: incoming.url,
    headers: drop(incoming.headers, without),
  });
}

function drop(headers: IncomingHttpHeaders, names: readonly string[]): IncomingHttpHeaders {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !names.includes(name)));
}
