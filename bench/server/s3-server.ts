/** The S3 server of one contender in one round: versitygw on an empty directory in memory. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { startVersitygw } from "../../local/versitygw.ts";
import { processSeconds } from "../measure/processor-time.ts";

export const bucket = "bench";
/** The gateway writes its access log a moment after its answer. */
const logDelayMs = 300;

export interface S3Access {
  readonly endpoint: string;
  readonly bucket: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

export interface StoredObjects {
  readonly objects: number;
  readonly bytes: number;
}

export type RequestCounts = Readonly<Record<string, number>>;

export interface S3Server {
  readonly access: S3Access;
  /** Processor time used so far. */
  seconds(): number;
  /** All requests so far, by the name of the operation. */
  requests(): Promise<RequestCounts>;
  stored(): StoredObjects;
  stop(): Promise<void>;
}

/** `memory` is a directory on a tmpfs: what is measured is the contender and the protocol, not a disk. */
export async function startS3Server(memory: string): Promise<S3Server> {
  const directory = mkdtempSync(join(memory, "s3-"));
  const gateway = await startVersitygw({ directory, versioning: false });
  mkdirSync(join(gateway.rootDirectory, bucket));
  const { endpoint, accessKeyId, secretAccessKey } = gateway;
  return {
    access: { endpoint, bucket, accessKeyId, secretAccessKey },
    seconds: () => processSeconds(gateway.pid),
    requests: async () => {
      await sleep(logDelayMs);
      return countRequests(readFileSync(gateway.accessLog, "utf8"));
    },
    stored: () => objectsBelow(join(gateway.rootDirectory, bucket)),
    stop: async () => {
      await gateway.stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** Lines name the operation as in `s3_PutObject`. */
export function countRequests(accessLog: string): RequestCounts {
  const counts: Record<string, number> = {};
  for (const [, operation = ""] of accessLog.matchAll(/ s3_(\w+) /g)) counts[operation] = (counts[operation] ?? 0) + 1;
  return counts;
}

/** How many more of each there are than before. */
export function requestsSince(before: RequestCounts, after: RequestCounts): RequestCounts {
  const entries = Object.entries(after).map(([name, count]) => [name, count - (before[name] ?? 0)] as const);
  return Object.fromEntries(entries.filter(([, count]) => count > 0));
}

/** Names with these beginnings are the gateway's own locks and unfinished files. */
const gatewayFile = /^\.(sgw|vgw)/;

function objectsBelow(directory: string): StoredObjects {
  let objects = 0;
  let bytes = 0;
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    if (gatewayFile.test(entry.name)) continue;
    const path = join(directory, entry.name);
    const below = entry.isDirectory() ? objectsBelow(path) : { objects: 1, bytes: statSync(path).size };
    objects += below.objects;
    bytes += below.bytes;
  }
  return { objects, bytes };
}
