/** A tiny HTTP server in place of the API, for tests of its clients. */
import { createServer, type IncomingMessage } from "node:http";

export interface FakeRequest {
  readonly method: string;
  /** With the query. */
  readonly path: string;
  readonly headers: IncomingMessage["headers"];
  readonly body: unknown;
}

/** What to answer; `"hang-up"` closes the connection without a word. */
export type FakeAnswer =
  | {
      readonly status?: number;
      readonly headers?: Readonly<Record<string, string>>;
      readonly body: unknown;
      readonly raw?: boolean;
    }
  | "hang-up";

export interface FakeApi {
  readonly url: string;
  readonly requests: readonly FakeRequest[];
  close(): Promise<void>;
}

/** Answers each request as `answer` says; undefined is a 404 problem. */
export async function fakeApi(answer: (request: FakeRequest) => FakeAnswer | undefined): Promise<FakeApi> {
  const requests: FakeRequest[] = [];
  const server = createServer(async (message, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of message) chunks.push(chunk as Buffer);
    const text = Buffer.concat(chunks).toString();
    const path = (message.url ?? "").replace(/^\/v1/, "");
    const request = {
      method: message.method ?? "",
      path,
      headers: message.headers,
      body: text === "" ? undefined : JSON.parse(text),
    };
    requests.push(request);
    const given = answer(request) ?? problem(404, "not-found", "There is no such thing.");
    if (given === "hang-up") return message.socket.destroy();
    response.writeHead(given.status ?? 200, { "content-type": "application/json", ...given.headers });
    response.end(given.raw ? String(given.body) : JSON.stringify(given.body));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  return {
    url: `http://127.0.0.1:${port}`,
    requests,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

export function problem(status: number, kind: string, detail: string, more: Record<string, unknown> = {}): FakeAnswer {
  return {
    status,
    body: {
      type: `/problems/${kind}`,
      title: "A title",
      status,
      detail,
      instance: "/v1",
      requestId: "request-1",
      ...more,
    },
  };
}
