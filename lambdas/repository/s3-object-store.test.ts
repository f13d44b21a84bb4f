/** The S3 store against a server that misbehaves; `test/integration/object-store.test.ts` runs it against one that does not. */
import assert from "node:assert/strict";
import { hash } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { describe, test } from "node:test";
import { largestBuffer } from "../../test/support/allocations.ts";
import {
  EndpointForbidden,
  ObjectLocked,
  RepositoryDamaged,
  type SnapferryError,
  StoreRefused,
  StoreUnavailable,
  StoreUnfit,
  Throttled,
} from "../domain/errors.ts";
import { ForbiddenAddress } from "../protocols/egress/endpoint.ts";
import { S3Connection } from "./s3-connection.ts";
import { storeError } from "./s3-errors.ts";
import { S3ObjectStore } from "./s3-object-store.ts";

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

/** Answers the requests one after the other; the last answer serves all further ones. */
async function withServer(
  answers: readonly Answer[],
  work: (store: S3ObjectStore, requests: IncomingMessage[]) => Promise<void>,
) {
  const requests: IncomingMessage[] = [];
  const server = createServer((request, response) => {
    request.resume();
    requests.push(request);
    request.on("end", () => answers[Math.min(requests.length, answers.length) - 1]!(request, response));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const connection = new S3Connection({
    endpoint: `http://127.0.0.1:${port}`,
    region: "us-east-1",
    credentials: { accessKeyId: "key", secretAccessKey: "secret" },
    pathStyle: true,
    allowedCidrs: ["127.0.0.1"],
  });
  try {
    await work(new S3ObjectStore({ connection, bucket: "bucket" }), requests);
  } finally {
    connection.close();
    server.closeAllConnections();
    server.close();
  }
}

const fail =
  (status: number, code: string): Answer =>
  (_, response) => {
    response.writeHead(status, { "content-type": "application/xml" });
    response.end(`<?xml version="1.0"?><Error><Code>${code}</Code><Message>no</Message></Error>`);
  };
const succeed: Answer = (_, response) => response.writeHead(200, { "content-length": 0 }).end();
const send =
  (body: string, headers: Record<string, string | number> = {}): Answer =>
  (_, response) =>
    void response
      .writeHead("content-range" in headers ? 206 : 200, { "content-length": body.length, ...headers })
      .end(body);
const breakOff: Answer = (_, response) => {
  response.writeHead(200, { "content-length": 10 });
  response.write("0123", () => response.destroy());
};

describe("a put", () => {
  test("sends the body's SHA-256 in a header that the signature covers", async () => {
    await withServer([succeed], async (store, requests) => {
      await store.put("key", Buffer.from("body"), { ifAbsent: true });
      const { headers } = requests[0]!;
      assert.equal(headers["x-amz-checksum-sha256"], hash("sha256", "body", "base64"));
      assert.equal(headers["x-amz-content-sha256"], "UNSIGNED-PAYLOAD");
      assert.match(headers.authorization ?? "", /SignedHeaders=[^,]*\bx-amz-checksum-sha256\b/);
      assert.equal(headers["if-none-match"], "*");
    });
  });

  test("is tried again when another writer of the key is at work, and then finds its object", async () => {
    const theirs = send("", { "content-length": 4, "x-amz-checksum-sha256": hash("sha256", "else", "base64") });
    const answers = [fail(409, "ConditionalRequestConflict"), fail(412, "PreconditionFailed"), theirs];
    await withServer(answers, async (store, requests) => {
      assert.equal(await store.put("key", Buffer.from("body"), { ifAbsent: true }), "exists");
      assert.deepEqual(
        requests.map(({ method }) => method),
        ["PUT", "PUT", "HEAD"],
      );
    });
  });

  test("that is answered by nothing but cut connections looks what is there", async () => {
    const cut: Answer = (request) => request.socket.destroy();
    const own = { "content-length": 4, "x-amz-checksum-sha256": hash("sha256", "body", "base64") };
    const outcomes: [Answer, string][] = [
      [send("", own), "written"],
      [send("", { ...own, "content-length": 5 }), "exists"],
      [fail(404, "NotFound"), "StoreUnavailable"],
    ];
    for (const [head, expected] of outcomes) {
      await withServer([cut, cut, cut, head], async (store) => {
        const outcome = store.put("key", Buffer.from("body"), { ifAbsent: true });
        assert.equal(await outcome.catch((error: Error) => error.name), expected);
      });
    }
  });

  test("that the store throttles, refuses or fails is told apart", async () => {
    const expected: [Answer, new (message: string) => SnapferryError][] = [
      [fail(503, "SlowDown"), Throttled],
      [fail(429, "TooManyRequests"), Throttled],
      [fail(500, "InternalError"), StoreUnavailable],
      [fail(403, "AccessDenied"), StoreRefused],
      [fail(403, "SignatureDoesNotMatch"), StoreRefused],
      [fail(404, "NoSuchBucket"), StoreRefused],
      [(request) => request.socket.destroy(), StoreUnavailable],
    ];
    for (const [answer, errorClass] of expected) {
      await withServer([answer], async (store) => {
        await assert.rejects(store.put("key", Buffer.from("body")), errorClass);
      });
    }
  });
});

describe("a get", () => {
  test("whose body breaks off is tried again, and is StoreUnavailable in the end", async () => {
    await withServer([breakOff, send("0123456789")], async (store, requests) => {
      assert.equal(Buffer.from((await store.get("key"))!).toString(), "0123456789");
      assert.equal(requests.length, 2);
    });
    await withServer([breakOff], async (store) => {
      await assert.rejects(store.get("key"), StoreUnavailable);
    });
  });

  test("of a range asks for just that and takes nothing else", async () => {
    const range = { offset: 2, length: 3 };
    await withServer([send("234", { "content-range": "bytes 2-4/10" })], async (store, requests) => {
      assert.equal(Buffer.from((await store.get("key", range))!).toString(), "234");
      assert.equal(requests[0]!.headers.range, "bytes=2-4");
    });
    const wrong: [Answer, new (message: string) => SnapferryError][] = [
      [send("0123456789"), StoreUnfit],
      [send("012"), StoreUnfit],
      [send("23", { "content-range": "bytes 2-3/10" }), StoreUnavailable],
      [send("2345", { "content-range": "bytes 2-5/10" }), StoreUnavailable],
    ];
    for (const [answer, errorClass] of wrong) {
      await withServer([answer], async (store) => {
        await assert.rejects(store.get("key", range), errorClass);
      });
    }
  });

  test("of a range keeps no connection to a store that sends more", { timeout: 10_000 }, async () => {
    let ended: Promise<unknown> | undefined;
    const endless: Answer = (_, response) => {
      ended = once(response, "close");
      response.writeHead(200, { "content-length": 1e9 }).write(Buffer.alloc(1_000_000));
    };
    await withServer([endless], async (store) => {
      await assert.rejects(store.get("key", { offset: 2, length: 4 }), StoreUnfit);
      await ended;
    });
  });

  for (const announced of ["3221225472", "9007199254740991", "1e30"])
    test(`makes no room for an object of ${announced} bytes, and keeps no connection for it`, {
      timeout: 10_000,
    }, async () => {
      const ended: Promise<unknown>[] = [];
      const endless: Answer = (_, response) => {
        ended.push(once(response, "close"));
        response.writeHead(200, { "content-length": announced }).write(Buffer.alloc(100_000));
      };
      await withServer([endless], async (store, requests) => {
        const named = announced === "1e30" ? StoreUnavailable : RepositoryDamaged;
        const largest = await largestBuffer(() =>
          assert.rejects(store.get("domains/vol/roots/snap1"), (error) => {
            assert.ok(error instanceof named && error.message.includes("domains/vol/roots/snap1"), String(error));
            return true;
          }),
        );
        assert.ok(largest < 1_000_000, `${largest} bytes at once`);
        await Promise.all(ended);
        if (named === RepositoryDamaged) assert.equal(requests.length, 1, "it is not asked for again");
      });
    });

  test("of a range that is the whole object may come without the words for it", async () => {
    await withServer([send("0123")], async (store) => {
      assert.equal(Buffer.from((await store.get("key", { offset: 0, length: 10 }))!).toString(), "0123");
    });
  });

  test("without the right is StoreRefused, not an absent object", async () => {
    await withServer([fail(403, "AccessDenied")], async (store) => {
      await assert.rejects(store.get("key"), StoreRefused);
      await assert.rejects(store.head("key"), StoreRefused);
    });
  });
});

describe("a deletion", () => {
  const versions = send(
    `<ListVersionsResult><IsTruncated>false</IsTruncated>
     <Version><Key>key</Key><VersionId>1</VersionId></Version></ListVersionsResult>`,
  );
  const objects = send(
    "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>key</Key><Size>1</Size></Contents></ListBucketResult>",
  );

  test("that fails for one object fails", async () => {
    const refusal =
      "<DeleteResult><Error><Key>key</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>";
    await withServer([versions, send(refusal)], async (store) => {
      await assert.rejects(store.deleteEveryVersion(["key"]), StoreRefused);
    });
  });

  test("of a version under Object Lock tells how long, whatever code the store has for it", async () => {
    const until = "2999-01-01T00:00:00.000Z";
    const refusal =
      "<DeleteResult><Error><Key>key</Key><VersionId>1</VersionId><Code>ObjectLocked</Code></Error></DeleteResult>";
    const retention = send(`<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>${until}</RetainUntilDate></Retention>`);
    await withServer([versions, send(refusal), retention], async (store) => {
      await assert.rejects(store.deleteEveryVersion(["key"]), (error) => {
        assert.ok(error instanceof ObjectLocked, String(error));
        assert.equal(error.until?.toISOString(), until);
        return true;
      });
    });
  });

  test("of all below a prefix leaves what goes last while unfinished uploads are not gone", async () => {
    const answer: Answer = (request, response) =>
      request.url?.includes("uploads") ? fail(403, "AccessDenied")(request, response) : versions(request, response);
    await withServer([answer], async (store, requests) => {
      await assert.rejects(store.deleteEveryVersionBelow("k", { last: "key" }), StoreRefused);
      assert.deepEqual(
        requests.filter(({ method }) => method === "POST"),
        [],
      );
    });
  });

  test("works in stores without versions", async () => {
    // Versions and uploads, in whatever order.
    const notImplemented = fail(501, "NotImplemented");
    const answers = [notImplemented, notImplemented, objects, send("<DeleteResult></DeleteResult>")];
    await withServer(answers, async (store) => {
      assert.deepEqual(await store.deleteEveryVersionBelow(""), { deleted: 1, finished: true });
    });
  });
});

describe("an endpoint that a user named", () => {
  for (const host of ["127.0.0.1", "localhost"])
    test(`is not called at ${host} unless that is allowed, neither by the SDK nor for ranges`, async () => {
      let requests = 0;
      const server = createServer((_, response) => {
        requests++;
        response.end("inside");
      });
      server.listen(0, "127.0.0.1");
      await once(server, "listening");
      const connection = new S3Connection({
        endpoint: `http://${host}:${(server.address() as AddressInfo).port}`,
        region: "us-east-1",
        credentials: { accessKeyId: "key", secretAccessKey: "secret" },
        pathStyle: true,
        allowedCidrs: ["10.0.0.0/8"],
      });
      const store = new S3ObjectStore({ connection, bucket: "bucket" });
      const range = { offset: 0, length: 4, into: new Uint8Array(4) };
      try {
        await assert.rejects(store.get("key"), EndpointForbidden);
        await assert.rejects(store.get("key", range), EndpointForbidden);
        assert.equal(await connection.ranges.read({ Bucket: "bucket", Key: "key" }, range, range.into), undefined);
        assert.equal(requests, 0);
      } finally {
        connection.close();
        server.closeAllConnections();
        server.close();
      }
    });
});

describe("a look at a retention", () => {
  const until = "2999-01-01T00:00:00.000Z";
  const retention = send(`<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>${until}</RetainUntilDate></Retention>`);

  test("tells the date, and that there is none, whatever the store has for it", async () => {
    const answers: [Answer[], Date | undefined][] = [
      [[retention], new Date(until)],
      [[fail(404, "NoSuchObjectLockConfiguration")], undefined],
      [[fail(404, "NoSuchKey")], undefined],
      [[fail(501, "NotImplemented")], undefined],
      [[fail(405, "MethodNotAllowed")], undefined],
      [[fail(404, "ObjectLockConfigurationNotFoundError")], undefined],
      [[fail(400, "InvalidRequest"), fail(404, "ObjectLockConfigurationNotFoundError")], undefined],
    ];
    for (const [given, expected] of answers)
      await withServer(given, async (store) => assert.deepEqual(await store.retainedUntil("key"), expected));
  });

  test("without the right is StoreRefused, and is no answer where the bucket has Object Lock", async () => {
    await withServer([fail(403, "AccessDenied")], (store) => assert.rejects(store.retainedUntil("key"), StoreRefused));
    const enabled = send(
      "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>",
    );
    await withServer([fail(400, "InvalidRequest"), enabled], (store) =>
      assert.rejects(store.retainedUntil("key"), StoreUnavailable),
    );
  });
});

describe("the question for Object Lock", () => {
  test("is answered with no by stores that do not know it, in whatever words, and not by those that refuse or fail", async () => {
    const refusals: [number, string][] = [
      [404, "ObjectLockConfigurationNotFoundError"],
      [400, "InvalidRequest"],
      [400, "InvalidArgument"],
      [405, "MethodNotAllowed"],
      [501, "NotImplemented"],
    ];
    for (const [status, code] of refusals)
      await withServer([fail(status, code)], async (store) => assert.equal(await store.objectLockEnabled(), false));
    await withServer([fail(403, "AccessDenied")], (store) => assert.rejects(store.objectLockEnabled(), StoreRefused));
    await withServer([fail(500, "InternalError")], (store) =>
      assert.rejects(store.objectLockEnabled(), StoreUnavailable),
    );
  });
});

describe("a listing", () => {
  const page = (keys: string[], more: string) =>
    send(
      `<ListBucketResult>${more}${keys.map((key) => `<Contents><Key>${key}</Key><Size>1</Size></Contents>`).join("")}</ListBucketResult>`,
    );
  const names = async (store: S3ObjectStore) => (await Array.fromAsync(store.list(""))).map(({ key }) => key);

  test("goes on where a page ends", async () => {
    const first = page(["a", "b"], "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>");
    await withServer([first, page(["c"], "<IsTruncated>false</IsTruncated>")], async (store) => {
      assert.deepEqual(await names(store), ["a", "b", "c"]);
    });
  });

  test("that does not say whether it is whole, or how it goes on, is not believed", async () => {
    for (const more of ["", "<IsTruncated>true</IsTruncated>"]) {
      await withServer([page(["a"], more)], async (store) => {
        await assert.rejects(names(store), StoreUnavailable);
      });
    }
    await withServer([succeed], async (store) => {
      await assert.rejects(names(store), StoreUnavailable);
    });
  });

  test("of a store that brings the same page for ever, or no order, ends", async () => {
    const again = page(["a"], "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>");
    await withServer([again], async (store) => {
      await assert.rejects(names(store), StoreUnfit);
    });
  });

  test("of versions ends too in a store that brings the same page for ever", { timeout: 10_000 }, async () => {
    const again = send(
      "<ListVersionsResult><IsTruncated>true</IsTruncated><NextKeyMarker>a</NextKeyMarker></ListVersionsResult>",
    );
    await withServer([again], async (store) => {
      await assert.rejects(store.deleteEveryVersion(["b"]), StoreUnfit);
    });
  });
});

describe("errors", () => {
  test("keep what is one of ours, and give the others a sentence", () => {
    const own = new StoreRefused("own");
    assert.equal(storeError(own, "reading x"), own);
    assert.ok(storeError(new ForbiddenAddress("inside"), "reading x") instanceof EndpointForbidden);
    assert.ok(storeError("text", "reading x") instanceof StoreUnavailable);
    const noCredentials = Object.assign(new Error("none"), { name: "CredentialsProviderError" });
    assert.match(storeError(noCredentials, "reading x").message, /refuses reading x: there are no credentials/);
  });
});
