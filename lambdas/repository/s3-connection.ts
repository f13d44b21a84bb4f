/** The way to one S3-compatible service: the SDK's client and, beside it, what reads ranges. Both call the same addresses and no others. */
import { Agent as HttpAgent } from "node:http";
import { Agent as HttpsAgent } from "node:https";
import { S3Client } from "@aws-sdk/client-s3";
import { type EgressRules, guardedAgents } from "../protocols/egress/endpoint.ts";
import { S3RangeReader } from "./s3-range-reader.ts";

export interface S3ConnectionOptions {
  /** Of a store that a user named; without it AWS, or what the environment says. */
  readonly endpoint?: string;
  readonly region?: string;
  readonly credentials?: {
    readonly accessKeyId: string;
    readonly secretAccessKey: string;
    readonly sessionToken?: string;
  };
  /** Of the AWS configuration files: whose credentials and region are used where none are given here. */
  readonly profile?: string;
  /** `https://host/bucket/key` instead of `https://bucket.host/key`. */
  readonly pathStyle?: boolean;
  /** Addresses that a user-given endpoint may have besides public ones. */
  readonly allowedCidrs?: readonly string[];
  /** Milliseconds for a request with its body, until the answer begins; and for the body of the answer. */
  readonly timeoutMs?: number;
}

/** Requests at once; verification has the most. */
const agentOptions = { keepAlive: true, maxSockets: 64 };
const connectionTimeoutMs = 5_000;
/** A pack of 16 MiB at 300 KB/s. */
const defaultTimeoutMs = 60_000;
const sdkAttempts = 3;

export class S3Connection {
  readonly client: S3Client;
  /** For ranges that are read into memory of the caller. */
  readonly ranges: S3RangeReader;
  /** Milliseconds for the body of an answer, from its beginning to its end. */
  readonly timeoutMs: number;

  constructor(options: S3ConnectionOptions = {}) {
    const { endpoint, allowedCidrs = [], timeoutMs = defaultTimeoutMs } = options;
    const rules = endpoint === undefined ? undefined : { allowedCidrs };
    this.timeoutMs = timeoutMs;
    this.client = createClient({ ...options, timeoutMs }, rules);
    this.ranges = new S3RangeReader(this.client, { rules, timeoutMs });
  }

  /** Ends the connections; what is under way fails. */
  close(): void {
    this.client.destroy();
    this.ranges.close();
  }
}

function createClient(
  { endpoint, region, credentials, profile, pathStyle, timeoutMs }: S3ConnectionOptions & { timeoutMs: number },
  rules: EgressRules | undefined,
): S3Client {
  const client = new S3Client({
    ...(endpoint !== undefined && { endpoint }),
    ...(region !== undefined && { region }),
    ...(credentials && { credentials }),
    ...(profile !== undefined && { profile }),
    ...(pathStyle !== undefined && { forcePathStyle: pathStyle }),
    maxAttempts: sdkAttempts,
    retryMode: "standard",
    requestChecksumCalculation: "WHEN_REQUIRED",
    responseChecksumValidation: "WHEN_REQUIRED",
    requestHandler: {
      ...(rules ? guardedAgents(rules.allowedCidrs, agentOptions) : plainAgents()),
      connectionTimeout: connectionTimeoutMs,
      requestTimeout: timeoutMs,
      throwOnRequestTimeout: true,
      socketTimeout: timeoutMs,
    },
  });
  // It makes a copy of each request and answer that may be logged, for a logger that logs nothing.
  client.middlewareStack.remove("loggerMiddleware");
  return client;
}

function plainAgents(): { httpAgent: HttpAgent; httpsAgent: HttpsAgent } {
  return { httpAgent: new HttpAgent(agentOptions), httpsAgent: new HttpsAgent(agentOptions) };
}
