/**
 * Secrets Manager for the code in this process. The client that all of that shares keeps the address that it found first, so there is one
 * server for all test files; it does not keep the process alive.
 */
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

export interface SecretsAnswer {
  readonly status: number;
  readonly body: object;
}

let answerTo: (secretId: string) => SecretsAnswer;
let started: Promise<void> | undefined;

/** From now on requests for secrets are answered so. */
export async function answerSecrets(answer: (secretId: string) => SecretsAnswer): Promise<void> {
  answerTo = answer;
  started ??= start();
  await started;
}

async function start(): Promise<void> {
  const server = createServer(async (request, response) => {
    const body = Buffer.concat(await Array.fromAsync(request as AsyncIterable<Buffer>)).toString();
    const answer = answerTo(JSON.parse(body).SecretId);
    response.writeHead(answer.status, { "content-type": "application/x-amz-json-1.1" });
    response.end(JSON.stringify(answer.body));
  });
  server.on("connection", (socket) => socket.unref());
  server.listen(0, "127.0.0.1").unref();
  await once(server, "listening");
  Object.assign(process.env, {
    AWS_ENDPOINT_URL_SECRETS_MANAGER: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    AWS_REGION: "us-east-1",
    AWS_ACCESS_KEY_ID: "test",
    AWS_SECRET_ACCESS_KEY: "test",
  });
}
