/** rclone of Debian, for peers that make one stream or file and upload it. */
import type { S3Access } from "../server/s3-server.ts";
import { findProgram, type Program } from "./debian.ts";

export const findRclone = (directory: string): Promise<Program> =>
  findProgram({ name: "rclone", packageName: "rclone", versionArgument: "version" }, directory);

/** Upload in parts of 16 MiB, eight at a time: as much at once as the engine has on its way. */
export const rcloneFlags =
  "--s3-no-check-bucket --s3-upload-concurrency 8 --s3-chunk-size 16M --multi-thread-streams 8";

/** The store by the name `store:`. */
export function rcloneEnvironment(access: S3Access): NodeJS.ProcessEnv {
  return {
    RCLONE_CONFIG: "/dev/null",
    RCLONE_CONFIG_STORE_TYPE: "s3",
    RCLONE_CONFIG_STORE_PROVIDER: "Other",
    RCLONE_CONFIG_STORE_ENDPOINT: access.endpoint,
    RCLONE_CONFIG_STORE_REGION: "us-east-1",
    RCLONE_CONFIG_STORE_FORCE_PATH_STYLE: "true",
    RCLONE_CONFIG_STORE_ACCESS_KEY_ID: access.accessKeyId,
    RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY: access.secretAccessKey,
  };
}
