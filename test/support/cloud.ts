/** The deployed local cloud that integration tests run against, and what they do with it. `npm test` starts it. */
import { DynamoDBClient } from "@aws-sdk/client-dynamodb";
import { EventBridgeClient } from "@aws-sdk/client-eventbridge";
import { LambdaClient } from "@aws-sdk/client-lambda";
import { S3Client } from "@aws-sdk/client-s3";
import { SecretsManagerClient } from "@aws-sdk/client-secrets-manager";
import { SFNClient } from "@aws-sdk/client-sfn";
import { SNSClient } from "@aws-sdk/client-sns";
import { SQSClient } from "@aws-sdk/client-sqs";
import { SSMClient } from "@aws-sdk/client-ssm";
import { issueToken, type Role } from "../../local/cloud/tokens.ts";

/** What the runner hands to each test file, as JSON in SNAPFERRY_TEST_CLOUD. */
export interface RunningCloud {
  readonly name: string;
  readonly endpoint: string;
  readonly url: string;
  readonly outputs: Readonly<Record<string, string>>;
}

export interface TestCloud extends RunningCloud {
  token(tenant: string, role: Role): Promise<string>;
  /** A request with a token of this role; the body is JSON both ways. */
  call(method: string, path: string, options?: CallOptions): Promise<Answer>;
  readonly clients: Clients;
}

export interface CallOptions {
  readonly tenant?: string;
  readonly role?: Role;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of every shape.
  readonly body: any;
}

type Clients = ReturnType<typeof connect>;

let connected: TestCloud | undefined;

/** Throws with the way out when no cloud was started for the tests. */
export async function cloud(): Promise<TestCloud> {
  connected ??= open();
  return connected;
}

function open(): TestCloud {
  const text = process.env.SNAPFERRY_TEST_CLOUD;
  if (!text) throw new Error("integration tests need the local cloud: run them with npm run test:integration");
  const running = JSON.parse(text) as RunningCloud;
  const tokens = new Map<string, Promise<string>>();
  const token = (tenant: string, role: Role) => {
    const key = `${tenant}/${role}`;
    const known = tokens.get(key) ?? issueToken(running.name, { tenant, role });
    tokens.set(key, known);
    return known;
  };
  const call = async (method: string, path: string, options: CallOptions = {}): Promise<Answer> => {
    const { tenant = "acme", role = "operator", body, headers } = options;
    const response = await fetch(`${running.url}/v1${path}`, {
      method,
      headers: {
        authorization: `Bearer ${await token(tenant, role)}`,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, headers: response.headers, body: text === "" ? undefined : JSON.parse(text) };
  };
  return { ...running, token, call, clients: connect(running.endpoint) };
}

function connect(endpoint: string) {
  const settings = {
    endpoint,
    region: "us-east-1",
    credentials: { accessKeyId: "test", secretAccessKey: "test" },
  };
  return {
    dynamodb: new DynamoDBClient(settings),
    s3: new S3Client({ ...settings, forcePathStyle: true }),
    sfn: new SFNClient(settings),
    sqs: new SQSClient(settings),
    ssm: new SSMClient(settings),
    sns: new SNSClient(settings),
    events: new EventBridgeClient(settings),
    lambda: new LambdaClient(settings),
    secrets: new SecretsManagerClient(settings),
  };
}

/** Calls `look` until it answers something else than undefined or false; fails with `what` after `seconds`. */
export async function eventually<T>(
  what: string,
  look: () => Promise<T | undefined | false>,
  { seconds = 60, pauseMilliseconds = 150 } = {},
): Promise<T> {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (Date.now() > deadline) throw new Error(`not within ${seconds} s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, pauseMilliseconds));
  }
}
