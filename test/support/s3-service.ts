/** Stores on a real S3 service for the contract suites: buckets with and without Object Lock, direct or through a fault proxy. */
import { randomBytes } from "node:crypto";
import {
  CreateBucketCommand,
  DeleteBucketCommand,
  GetObjectRetentionCommand,
  ListObjectVersionsCommand,
  PutBucketVersioningCommand,
} from "@aws-sdk/client-s3";
import type { Retention } from "../../lambdas/repository/object-store.ts";
import { S3Connection } from "../../lambdas/repository/s3-connection.ts";
import { S3ObjectStore } from "../../lambdas/repository/s3-object-store.ts";
import type { LockableStore } from "../contract/object-store.ts";
import type { FaultyStore } from "../contract/object-store-faults.ts";
import { startFaultProxy } from "./s3-fault-proxy.ts";

export interface S3Address {
  readonly endpoint: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

const loopback = ["127.0.0.0/8", "::1"];
/** Long enough for 3 MB on a busy machine, and short enough to wait for. */
const patienceMs = 1_500;

/** Buckets made for one run of tests; `close` deletes what nothing locks, and ends all clients and proxies. What is locked goes with the service. */
export async function connectS3Service({ endpoint, ...credentials }: S3Address) {
  const settings = { endpoint, region: "us-east-1", credentials, pathStyle: true, allowedCidrs: loopback };
  const connection = new S3Connection(settings);
  const { client } = connection;
  const name = `contract-${randomBytes(6).toString("hex")}`;
  const closing: (() => Promise<void> | void)[] = [];

  async function makeBucket(kind: string, locks: boolean): Promise<string> {
    const Bucket = `${name}-${kind}`;
    await client.send(new CreateBucketCommand({ Bucket, ObjectLockEnabledForBucket: locks }));
    await client.send(new PutBucketVersioningCommand({ Bucket, VersioningConfiguration: { Status: "Enabled" } }));
    if (locks) return Bucket;
    closing.push(async () => {
      await new S3ObjectStore({ connection, bucket: Bucket }).deleteEveryVersionBelow("");
      await client.send(new DeleteBucketCommand({ Bucket }));
    });
    return Bucket;
  }

  const plain = await makeBucket("plain", false);
  const locked = await makeBucket("locked", true);
  const newPrefix = () => randomBytes(4).toString("hex");

  return {
    settings,
    connection,
    bucket: plain,
    newStore: () => new S3ObjectStore({ connection, bucket: plain, prefix: newPrefix() }),

    async openFaulty(): Promise<FaultyStore> {
      const proxy = await startFaultProxy(endpoint);
      const proxied = new S3Connection({ ...settings, endpoint: proxy.endpoint, timeoutMs: patienceMs });
      closing.push(() => proxy.close());
      closing.push(() => proxied.close());
      const prefix = newPrefix();
      return {
        store: new S3ObjectStore({ connection: proxied, bucket: plain, prefix }),
        direct: new S3ObjectStore({ connection, bucket: plain, prefix }),
        proxy,
        countVersions: async (key) => {
          const input = { Bucket: plain, Prefix: `${prefix}/${key}` };
          const { Versions = [], DeleteMarkers = [] } = await client.send(new ListObjectVersionsCommand(input));
          return Versions.length + DeleteMarkers.length;
        },
      };
    },

    async openLockable(locks: boolean): Promise<LockableStore> {
      const bucket = locks ? locked : plain;
      const store = new S3ObjectStore({ connection, bucket, prefix: newPrefix() });
      return {
        store,
        retentionOf: async (key): Promise<Retention | undefined> => {
          const input = { Bucket: bucket, Key: store.fullKey(key) };
          const { Retention: found } = await client.send(new GetObjectRetentionCommand(input));
          return found?.RetainUntilDate && { mode: found.Mode as Retention["mode"], until: found.RetainUntilDate };
        },
      };
    },

    async close(): Promise<void> {
      for (const work of closing.reverse()) await work();
      connection.close();
    },
  };
}
