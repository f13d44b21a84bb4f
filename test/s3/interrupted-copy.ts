/** A copy worker of its own, to be killed by a test: copies the shards of a plan that the test has written. Its parent sends what to do. */
import { S3Connection, type S3ConnectionOptions } from "../../lambdas/repository/s3-connection.ts";
import { S3ObjectStore } from "../../lambdas/repository/s3-object-store.ts";
import { copyAll, SparseVolume } from "../support/repository.ts";

export interface CopyOrder {
  readonly settings: S3ConnectionOptions;
  readonly bucket: string;
  readonly prefix: string;
  readonly target: { readonly domain: string; readonly snapshotId: string; readonly jobId: string };
  readonly plan: Parameters<typeof copyAll>[1];
  /** Base64. */
  readonly content: string;
}

process.once("message", async ({ settings, bucket, prefix, target, plan, content }: CopyOrder) => {
  const store = new S3ObjectStore({ connection: new S3Connection(settings), bucket, prefix });
  await copyAll({ ...target, store }, plan, SparseVolume.of(Buffer.from(content, "base64")));
  process.exit(0);
});
