import { S3Connection } from "../../lambdas/repository/s3-connection.ts";
import { S3ObjectStore } from "../../lambdas/repository/s3-object-store.ts";
import type { S3Access } from "../server/s3-server.ts";

/** The server of the benchmark by the connection that the functions have to stores of users. */
export function openBenchStore({ endpoint, bucket, accessKeyId, secretAccessKey }: S3Access): S3ObjectStore {
  const connection = new S3Connection({
    endpoint,
    region: "us-east-1",
    pathStyle: true,
    credentials: { accessKeyId, secretAccessKey },
    allowedCidrs: ["127.0.0.0/8"],
  });
  return new S3ObjectStore({ connection, bucket });
}
