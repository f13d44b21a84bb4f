/** A copy worker of its own, to be killed by a test: copies the shards of a plan that the test has written. Its parent sends what to do. */
import { createS3Client, S3ObjectStore } from "../../lambdas/repository/s3-object-store.ts";
import { copyAll, SparseVolume } from "../support/repository.ts";

export interface CopyOrder {
  readonly settings: Parameters<typeof createS3Client>[0];
  readonly bucket: string;
  readonly prefix: string;
  readonly target: { readonly domain: string; readonly snapshotId: string; readonly jobId: string };
  readonly plan: Parameters<typeof copyAll>[1];
  /** Base64. */
  readonly content: string;
}

process.once("message", async ({ settings, bucket, prefix, target, plan, content }: CopyOrder) => {
  const store = new S3ObjectStore({ client: createS3Client(settings), bucket, prefix });
  await copyAll({ ...target, store }, plan, SparseVolume.of(Buffer.from(content, "base64")));
  process.exit(0);
});
