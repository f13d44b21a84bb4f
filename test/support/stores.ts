/** A tenant's own store in the local cloud, behind a proxy that can break it. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { CreateBucketCommand, ListObjectVersionsCommand, PutBucketVersioningCommand } from "@aws-sdk/client-s3";
import { CreateSecretCommand } from "@aws-sdk/client-secrets-manager";
import type { RegisterStoreInput } from "../../lambdas/api/request-schemas.ts";
import type { TestCloud } from "./cloud.ts";
import { type FaultProxy, startFaultProxy } from "./s3-fault-proxy.ts";

export interface TestStore {
  readonly id: string;
  readonly bucket: string;
  readonly proxy: FaultProxy;
  close(): Promise<void>;
}

/** `options` are further members of the request. `lockable`: the bucket has Object Lock. */
export async function registerStore(
  cloud: TestCloud,
  tenant = "acme",
  { lockable = false, ...options }: { lockable?: boolean } & Partial<RegisterStoreInput> = {},
): Promise<TestStore> {
  const name = randomUUID().slice(0, 8);
  const bucket = `store-${name}`;
  const secretId = `snapferry/${tenant}/test-${name}`;
  await cloud.clients.s3.send(new CreateBucketCommand({ Bucket: bucket, ObjectLockEnabledForBucket: lockable }));
  await cloud.clients.s3.send(
    new PutBucketVersioningCommand({ Bucket: bucket, VersioningConfiguration: { Status: "Enabled" } }),
  );
  await cloud.clients.secrets.send(
    new CreateSecretCommand({
      Name: secretId,
      SecretString: JSON.stringify({ accessKeyId: "test", secretAccessKey: "test" }),
    }),
  );
  const proxy = await startFaultProxy(cloud.endpoint);
  const { status, body } = await cloud.call("POST", "/stores", {
    tenant,
    role: "admin",
    body: { name, bucket, endpoint: proxy.endpoint, region: "us-east-1", pathStyle: true, secretId, ...options },
  });
  assert.equal(status, 201, JSON.stringify(body));
  return { id: body.id, bucket, proxy, close: () => proxy.close() };
}

/** Keys of every version and delete marker in a bucket below a prefix. */
export async function versionsIn(cloud: TestCloud, bucket: string, prefix = ""): Promise<string[]> {
  const page = await cloud.clients.s3.send(new ListObjectVersionsCommand({ Bucket: bucket, Prefix: prefix }));
  return [...(page.Versions ?? []), ...(page.DeleteMarkers ?? [])].map(({ Key }) => Key ?? "");
}

/** Whether a request writes a pack: the moment at which a backup's bytes travel. */
export function writesPack({ method, path }: { method: string; path: string }): boolean {
  return method === "PUT" && path.includes("/packs/");
}
