import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { CreateTableCommand, DynamoDBClient, PutItemCommand, ScanCommand } from "@aws-sdk/client-dynamodb";
import {
  CreateBucketCommand,
  GetObjectCommand,
  ListBucketsCommand,
  PutObjectCommand,
  S3Client,
} from "@aws-sdk/client-s3";
import { type Cloud, startCloud, stopCloud } from "../../local/cloud/cloud.ts";
import { clientSettings } from "../../local/cloud/environment.ts";
import { CHECKOUT, cacheRoot, NODE_BINARY, runDirectory } from "../../local/cloud/paths.ts";
import { findByEnvironment, isAlive } from "../../local/cloud/process.ts";
import { readState } from "../../local/cloud/state.ts";

const BUCKET = "same-name";
const TABLE = "same-name";
// LocalStack is given eight seconds to shut down when its owner is gone.
const GONE_WITHIN_MS = 30_000;
const LISTEN = "0A";
const LOOPBACK = /^(0100007F|0000000000000000FFFF00000100007F|00000000000000000000000001000000)$/;

describe("clouds side by side", { timeout: 600_000 }, () => {
  const names = { first: `side-a-${process.pid}`, second: `side-b-${process.pid}` };
  let first: Cloud;
  let second: Cloud;
  let other: OtherCheckout;

  before(async () => {
    // The cloud that the other integration tests run on is not to be taken for one of these.
    delete process.env.AWS_ENDPOINT_URL;
    other = new OtherCheckout();
    [first, second] = await Promise.all([
      startCloud({ name: names.first, deploy: false }),
      startCloud({ name: names.second, deploy: false }),
      other.start(),
    ]);
  });
  after(async () => {
    await Promise.allSettled([first?.stop(), second?.stop()]);
    other.remove();
    for (const name of Object.values(names)) rmSync(runDirectory(name), { recursive: true, force: true });
  });

  test("two names in one checkout, and a second checkout, have each an address of their own", () => {
    assert.equal(new Set([first.endpoint, second.endpoint, other.endpoint]).size, 3);
  });

  test("objects and items of the same name have nothing in common", async () => {
    const endpoints = [first.endpoint, second.endpoint, other.endpoint];
    await Promise.all(endpoints.map(fill));
    for (const endpoint of endpoints)
      assert.deepEqual(await contents(endpoint), { object: endpoint, items: [endpoint], buckets: [BUCKET] });
  });

  test("everything listens on the loopback interface only", () => {
    for (const directory of [runDirectory(names.first), runDirectory(names.second), other.runDirectory]) {
      const sockets = processesOf(directory).flatMap(listeningAddresses);
      assert.ok(sockets.length >= 2, "LocalStack and DynamoDB Local listen");
      for (const address of sockets) assert.match(address, LOOPBACK);
    }
  });

  test("one that is stopped leaves no process, and the others go on", async () => {
    await second.stop();
    assert.deepEqual(processesOf(runDirectory(names.second)), []);
    assert.equal(readState(names.second), undefined);
    for (const endpoint of [first.endpoint, other.endpoint]) assert.equal((await contents(endpoint)).object, endpoint);
  });

  test("one whose owner is killed ends by itself, and the other goes on", async () => {
    assert.ok(processesOf(other.runDirectory).length >= 2);
    other.killOwner();
    await eventually(() => processesOf(other.runDirectory).length === 0);
    assert.equal((await contents(first.endpoint)).object, first.endpoint);
  });

  test("one whose LocalStack is killed takes its helpers along", async () => {
    const { localstack } = readState(names.first) ?? {};
    assert.ok(localstack && isAlive(localstack));
    assert.ok(processesOf(runDirectory(names.first)).length > 1, "DynamoDB Local runs");
    process.kill(localstack.pid, "SIGKILL");
    await eventually(() => processesOf(runDirectory(names.first)).length === 0);
    await stopCloud(names.first);
  });
});

/** A copy of what the library needs, with a cloud that is owned by a process of that checkout. */
class OtherCheckout {
  readonly #folder = mkdtempSync(join(tmpdir(), "second-checkout-"));
  #owner: ChildProcess | undefined;
  endpoint = "";

  constructor() {
    for (const entry of ["package.json", "package-lock.json"]) cpSync(join(CHECKOUT, entry), join(this.#folder, entry));
    for (const entry of ["cloud", "lambda-executor", "file-lock.mjs"]) {
      cpSync(join(CHECKOUT, "local", entry), join(this.#folder, "local", entry), { recursive: true });
    }
    symlinkSync(join(CHECKOUT, "node_modules"), join(this.#folder, "node_modules"));
    writeFileSync(
      join(this.#folder, "own.ts"),
      `import { startCloud } from "./local/cloud/cloud.ts";
       const cloud = await startCloud({ deploy: false });
       console.log(cloud.endpoint);
       setInterval(() => {}, 1000);`,
    );
    mkdirSync(this.runDirectory, { recursive: true });
  }

  get runDirectory(): string {
    return join(this.#folder, ".snapferry", "run", "default");
  }

  async start(): Promise<void> {
    const env = { ...process.env, SNAPFERRY_CACHE: cacheRoot() };
    this.#owner = spawn(NODE_BINARY, ["own.ts"], { cwd: this.#folder, env, stdio: ["ignore", "pipe", "inherit"] });
    assert.ok(this.#owner.stdout);
    for await (const line of createInterface({ input: this.#owner.stdout })) {
      this.endpoint = line;
      return;
    }
    throw new Error("The cloud of the second checkout did not start.");
  }

  killOwner(): void {
    this.#owner?.kill("SIGKILL");
  }

  remove(): void {
    this.killOwner();
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 500 });
  }
}

async function fill(endpoint: string): Promise<void> {
  const { s3, dynamodb } = clients(endpoint);
  await s3.send(new CreateBucketCommand({ Bucket: BUCKET }));
  await s3.send(new PutObjectCommand({ Bucket: BUCKET, Key: "whose", Body: endpoint }));
  await dynamodb.send(
    new CreateTableCommand({
      TableName: TABLE,
      BillingMode: "PAY_PER_REQUEST",
      KeySchema: [{ AttributeName: "whose", KeyType: "HASH" }],
      AttributeDefinitions: [{ AttributeName: "whose", AttributeType: "S" }],
    }),
  );
  await dynamodb.send(new PutItemCommand({ TableName: TABLE, Item: { whose: { S: endpoint } } }));
}

async function contents(endpoint: string) {
  const { s3, dynamodb } = clients(endpoint);
  const object = await s3.send(new GetObjectCommand({ Bucket: BUCKET, Key: "whose" }));
  const { Buckets = [] } = await s3.send(new ListBucketsCommand({}));
  const { Items = [] } = await dynamodb.send(new ScanCommand({ TableName: TABLE }));
  return {
    object: await object.Body?.transformToString(),
    items: Items.map(({ whose }) => whose?.S),
    buckets: Buckets.map(({ Name }) => Name),
  };
}

function clients(endpoint: string) {
  const settings = clientSettings(endpoint);
  return { s3: new S3Client({ ...settings, forcePathStyle: true }), dynamodb: new DynamoDBClient(settings) };
}

function processesOf(directory: string): number[] {
  return findByEnvironment("SNAPFERRY_RUN_DIRECTORY", directory).map(({ pid }) => pid);
}

function listeningAddresses(pid: number): string[] {
  const inodes = new Set(
    readdirSync(`/proc/${pid}/fd`).map((fd) => /^socket:\[(\d+)\]$/.exec(linkOr("", `/proc/${pid}/fd/${fd}`))?.[1]),
  );
  return ["tcp", "tcp6"]
    .flatMap((table) => readOr("", `/proc/net/${table}`).split("\n").slice(1))
    .map((line) => line.trim().split(/\s+/))
    .filter(([, , , state, , , , , , inode]) => state === LISTEN && inodes.has(inode))
    .map(([, local = ""]) => local.split(":")[0] ?? "");
}

function readOr(otherwise: string, path: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return otherwise;
  }
}

function linkOr(otherwise: string, path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return otherwise;
  }
}

async function eventually(holds: () => boolean): Promise<void> {
  const deadline = Date.now() + GONE_WITHIN_MS;
  while (!holds()) {
    assert.ok(Date.now() < deadline, `It did not happen within ${GONE_WITHIN_MS / 1000} s.`);
    await sleep(200);
  }
}
