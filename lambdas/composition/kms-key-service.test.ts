import assert from "node:assert/strict";
import { createServer, type Server } from "node:http";
import { after, before, describe, it } from "node:test";
import { KMSClient } from "@aws-sdk/client-kms";
import { EncryptionKeyUnavailable, Throttled } from "../domain/errors.ts";
import { KmsKeyService, noKeyService } from "./kms-key-service.ts";

const keyArn = "arn:aws:kms:us-east-1:000000000000:key/11111111-2222-3333-4444-555555555555";
const domain = "0123456789abcdef0123456789abcdef";

describe("the key service", () => {
  let server: Server;
  let keys: KmsKeyService;
  let answer: { status: number; type?: string };
  let asked: { target: string; body: Record<string, unknown> }[] = [];

  /** A server that answers as KMS does: an emulator never refuses as it does. */
  before(async () => {
    server = createServer(async (request, response) => {
      const chunks: Buffer[] = [];
      for await (const chunk of request) chunks.push(chunk as Buffer);
      asked.push({
        target: String(request.headers["x-amz-target"]),
        body: JSON.parse(Buffer.concat(chunks).toString()),
      });
      response.writeHead(answer.status, { "content-type": "application/x-amz-json-1.1" });
      response.end(
        answer.type === undefined
          ? JSON.stringify({ Plaintext: "AAEC", CiphertextBlob: "AwQF" })
          : JSON.stringify({ __type: answer.type, message: "no" }),
      );
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as { port: number };
    const credentials = { accessKeyId: "test", secretAccessKey: "test" };
    const endpoint = `http://127.0.0.1:${port}`;
    keys = new KmsKeyService(keyArn, new KMSClient({ endpoint, region: "us-east-1", credentials, maxAttempts: 1 }));
  });
  after(() => new Promise((resolve) => server.close(resolve)));

  it("binds data keys to the one key and to the domain", async () => {
    answer = { status: 200 };
    asked = [];
    const { plaintext, wrapped } = await keys.generate({ domain });
    assert.deepEqual(
      [[...plaintext], [...wrapped]],
      [
        [0, 1, 2],
        [3, 4, 5],
      ],
    );
    assert.deepEqual([...(await keys.unwrap(wrapped, { domain }))], [0, 1, 2]);
    assert.deepEqual(asked, [
      {
        target: "TrentService.GenerateDataKey",
        body: { KeyId: keyArn, KeySpec: "AES_256", EncryptionContext: { domain } },
      },
      {
        target: "TrentService.Decrypt",
        body: { KeyId: keyArn, CiphertextBlob: "AwQF", EncryptionContext: { domain } },
      },
    ]);
  });

  for (const type of [
    "AccessDeniedException",
    "DisabledException",
    "IncorrectKeyException",
    "InvalidCiphertextException",
    "KMSInvalidStateException",
    "NotFoundException",
  ])
    it(`calls ${type} final, and names the key`, async () => {
      answer = { status: 400, type };
      for (const call of [() => keys.generate({ domain }), () => keys.unwrap(Uint8Array.of(1), { domain })])
        await assert.rejects(
          call,
          (error) => error instanceof EncryptionKeyUnavailable && !error.retryable && error.message.includes(keyArn),
        );
    });

  for (const [status, type] of [
    [400, "ThrottlingException"],
    [500, "KMSInternalException"],
    [500, "DependencyTimeoutException"],
  ] as const)
    it(`leaves ${type} to another attempt`, async () => {
      answer = { status, type };
      for (const call of [() => keys.generate({ domain }), () => keys.unwrap(Uint8Array.of(1), { domain })])
        await assert.rejects(
          call,
          (error) => error instanceof Throttled && error.retryable && error.message.includes(type),
        );
    });

  it("is missed where the deployment has no key, in words", async () => {
    for (const call of [
      () => noKeyService.generate({ domain }),
      () => noKeyService.unwrap(Uint8Array.of(1), { domain }),
    ])
      await assert.rejects(call, /encryption\.key/);
  });
});
