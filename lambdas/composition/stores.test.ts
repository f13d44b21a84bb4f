import assert from "node:assert/strict";
import { createServer, type Server } from "node:http";
import { after, before, describe, it } from "node:test";
import { SecretUnusable } from "../domain/errors.ts";
import { openStore } from "./stores.ts";

const settings = {
  bucket: "backups",
  prefix: "",
  region: "us-east-1",
  pathStyle: false,
  secretId: "snapferry/acme/off-site",
};

describe("the secret of a store", () => {
  let server: Server;
  let answer: { status: number; body: object };

  /** A server that answers as Secrets Manager does: an emulator refuses nobody. */
  before(async () => {
    server = createServer((request, response) => {
      request.resume();
      response.writeHead(answer.status, { "content-type": "application/x-amz-json-1.1" });
      response.end(JSON.stringify(answer.body));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as { port: number };
    Object.assign(process.env, {
      AWS_ENDPOINT_URL_SECRETS_MANAGER: `http://127.0.0.1:${port}`,
      AWS_REGION: "us-east-1",
      AWS_ACCESS_KEY_ID: "test",
      AWS_SECRET_ACCESS_KEY: "test",
    });
  });
  after(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });

  for (const type of [
    "AccessDeniedException",
    "DecryptionFailure",
    "InvalidRequestException",
    "ResourceNotFoundException",
  ])
    it(`cannot be used, in words that name it, for whoever opens the store, after ${type}`, async () => {
      answer = { status: 400, body: { __type: type, message: "no" } };
      await assert.rejects(
        openStore(settings),
        (error) => error instanceof SecretUnusable && error.message.includes(settings.secretId),
      );
    });

  it("cannot be used when it is of another form, and is not shown", async () => {
    answer = { status: 200, body: { SecretString: "hunter2" } };
    await assert.rejects(
      openStore(settings),
      (error) => error instanceof SecretUnusable && !error.message.includes("hunter2"),
    );
  });

  it("opens the store", async () => {
    answer = { status: 200, body: { SecretString: '{"accessKeyId":"a","secretAccessKey":"b"}' } };
    assert.ok(await openStore(settings));
  });
});
