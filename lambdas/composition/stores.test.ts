import assert from "node:assert/strict";
import { before, describe, it } from "node:test";
import { answerSecrets, type SecretsAnswer } from "../../test/support/secrets-manager.ts";
import { EndpointForbidden, SecretUnusable, StoreUnavailable } from "../domain/errors.ts";
import { openStore } from "./stores.ts";

const settings = {
  bucket: "backups",
  prefix: "",
  region: "us-east-1",
  pathStyle: false,
  secretId: "snapferry/acme/off-site",
};

describe("the secret of a store", () => {
  let answer: SecretsAnswer;

  /** As Secrets Manager answers: an emulator refuses nobody. */
  before(() => answerSecrets(() => answer));

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

  it("that holds bytes cannot be used", async () => {
    answer = { status: 200, body: { SecretBinary: "AAAA" } };
    await assert.rejects(
      openStore(settings),
      (error) => error instanceof SecretUnusable && /bytes/.test(error.message),
    );
  });

  it("opens the store, and that calls no address inside the network that is not allowed", async () => {
    answer = { status: 200, body: { SecretString: '{"accessKeyId":"a","secretAccessKey":"b"}' } };
    assert.ok(await openStore(settings));
    const inside = { ...settings, endpoint: "http://127.0.0.1:1" };
    await assert.rejects((await openStore(inside)).get("key"), EndpointForbidden);
    process.env.ALLOWED_CIDRS = "127.0.0.0/8";
    try {
      await assert.rejects((await openStore(inside)).get("key"), StoreUnavailable);
    } finally {
      delete process.env.ALLOWED_CIDRS;
    }
  });
});
