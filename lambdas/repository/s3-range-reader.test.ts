/** The short way against a server that misbehaves; `test/contract/object-store-faults.ts` has it on real ones. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { describe, it } from "node:test";
import { S3Client, type S3ClientConfig } from "@aws-sdk/client-s3";
import { S3RangeReader, type S3RangeReaderOptions } from "./s3-range-reader.ts";

type Answer = (response: ServerResponse) => void;

const object = { Bucket: "bucket", Key: "folder/key with spaces" };
const range = { offset: 2, length: 4 };
const timeoutMs = 10_000;
const keys = { accessKeyId: "key", secretAccessKey: "secret" };

const part =
  (contentRange: string, body: string): Answer =>
  (response) =>
    void response.writeHead(206, { "content-range": contentRange, "content-length": body.length }).end(body);
const whole = part("bytes 2-5/10", "2345");

async function withServer(
  answers: readonly Answer[],
  work: (reader: S3RangeReader, requests: IncomingMessage[]) => Promise<void>,
  { credentials = keys, ...options }: Partial<S3RangeReaderOptions> & Pick<S3ClientConfig, "credentials"> = {},
): Promise<void> {
  const requests: IncomingMessage[] = [];
  const server = createServer((request, response) => {
    requests.push(request);
    answers[Math.min(requests.length, answers.length) - 1]!(response);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const endpoint = `http://127.0.0.1:${port}`;
  const client = new S3Client({ endpoint, region: "us-east-1", credentials, forcePathStyle: true });
  try {
    await work(new S3RangeReader(client, { rules: { allowedCidrs: ["127.0.0.1"] }, timeoutMs, ...options }), requests);
  } finally {
    client.destroy();
    server.closeAllConnections();
    server.close();
  }
}

describe("a range", () => {
  it("comes into the memory that is lent, with one signature for all ranges of an object", async () => {
    await withServer([whole, part("bytes 2-3/4", "23")], async (reader, requests) => {
      const into = Buffer.alloc(10, "x");
      const bytes = await reader.read(object, range, into);
      assert.equal(Buffer.from(bytes!).toString(), "2345");
      assert.equal(into.toString(), "2345xxxxxx");
      const end = await reader.read(object, range, into);
      assert.equal(Buffer.from(end!).toString(), "23", "a range that reaches past the end brings what is there");
      assert.equal(requests[0]!.headers.range, "bytes=2-5");
      assert.match(requests[0]!.url!, /^\/bucket\/folder\/key%20with%20spaces\?.*X-Amz-Signature=/);
      assert.equal(requests[0]!.url, requests[1]!.url);
    });
  });

  it("is signed for its bucket", async () => {
    await withServer([whole], async (reader, requests) => {
      for (const Bucket of ["bucket", "other"]) await reader.read({ ...object, Bucket }, range, Buffer.alloc(4));
      assert.deepEqual(
        requests.map(({ url }) => url?.split("/")[1]),
        ["bucket", "other"],
      );
    });
  });

  const oddities: Record<string, Answer> = {
    "is the whole object": (response) => void response.writeHead(200, { "content-length": 10 }).end("0123456789"),
    "is another range": part("bytes 3-6/10", "3456"),
    "does not say which range it is": (response) => void response.writeHead(206).end("2345"),
    "is longer than it says": (response) =>
      void response.writeHead(206, { "content-range": "bytes 2-5/10" }).end("234567"),
    "is shorter than it says": (response) =>
      void response.writeHead(206, { "content-range": "bytes 2-5/10" }).end("23"),
    "breaks off": (response) => {
      response.writeHead(206, { "content-range": "bytes 2-5/10", "content-length": 4 });
      response.write("23", () => response.destroy());
    },
    "does not come": () => {},
    "does not end": (response) => {
      response.writeHead(206, { "content-range": "bytes 2-5/10", "content-length": 4 });
      response.write("23");
    },
    "is that there is no such object": (response) => void response.writeHead(404).end("<Error/>"),
    "is a redirection": (response) => void response.writeHead(307, { location: "http://127.0.0.1:9/" }).end(),
  };
  for (const [oddity, answer] of Object.entries(oddities)) {
    it(`is left to others when the answer ${oddity}`, async () => {
      const readTwice = async (reader: S3RangeReader) => {
        const into = Buffer.alloc(4);
        assert.equal(await reader.read(object, range, into), undefined);
        assert.equal(Buffer.from((await reader.read(object, range, into))!).toString(), "2345");
      };
      await withServer([answer, whole], readTwice, { timeoutMs: oddity.startsWith("does not") ? 1_000 : timeoutMs });
    });
  }

  it("is signed anew after a refusal, and left to others for good after three in a row", async () => {
    const refuse: Answer = (response) => void response.writeHead(403).end();
    await withServer([refuse, refuse, refuse, whole], async (reader, requests) => {
      for (let times = 0; times < 5; times++)
        assert.equal(await reader.read(object, range, Buffer.alloc(4)), undefined);
      assert.equal(requests.length, 3);
    });
  });

  it("is not asked for with a signature whose credentials are about to expire", async () => {
    for (const [lifeMs, signatures] of [
      [30_000, 2],
      [3_600_000, 1],
    ] as const) {
      let issued = 0;
      const credentials = async () => ({
        ...keys,
        accessKeyId: `key${issued++}`,
        expiration: new Date(Date.now() + lifeMs),
      });
      await withServer(
        [whole],
        async (reader, requests) => {
          for (let times = 0; times < 2; times++) await reader.read(object, range, Buffer.alloc(4));
          assert.equal(new Set(requests.map(({ url }) => url)).size, signatures, `credentials of ${lifeMs} ms`);
        },
        { credentials },
      );
    }
  });

  it("is not asked for at an address that may not be called", async () => {
    await withServer(
      [whole],
      async (reader, requests) => {
        assert.equal(await reader.read(object, range, Buffer.alloc(4)), undefined);
        assert.equal(requests.length, 0);
      },
      { rules: { allowedCidrs: [] } },
    );
  });
});
