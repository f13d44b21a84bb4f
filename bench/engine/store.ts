import { createS3Client, S3ObjectStore } from "../../lambdas/repository/s3-object-store.ts";
import { S3RangeReader } from "../../lambdas/repository/s3-range-reader.ts";
import type { S3Access } from "../server/s3-server.ts";

/** The server of the benchmark by the client that the functions use for stores of users. */
const allowedCidrs = ["127.0.0.0/8"];

export function openBenchStore({ endpoint, bucket, accessKeyId, secretAccessKey }: S3Access): S3ObjectStore {
  const client = createS3Client({
    endpoint,
    region: "us-east-1",
    pathStyle: true,
    credentials: { accessKeyId, secretAccessKey },
    allowedCidrs,
  });
  return new S3ObjectStore({ client, bucket, ranges: new S3RangeReader(client, { allowedCidrs }) });
}
