/** The object store on any S3-compatible service. */
import { hash } from "node:crypto";
import { Agent as HttpAgent } from "node:http";
import { Agent as HttpsAgent } from "node:https";
import {
  AbortMultipartUploadCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  type GetObjectCommandOutput,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  ListObjectVersionsCommand,
  type ObjectIdentifier,
  PutObjectCommand,
  S3Client,
} from "@aws-sdk/client-s3";
import { guardedAgents } from "../protocols/egress/endpoint.ts";
import type { ListedObject, ObjectHead, ObjectStore, PutOptions } from "./object-store.ts";
import { hasStatus, isNamed, storeError, TruncatedBody } from "./s3-errors.ts";

export interface S3ClientOptions {
  /** Of a store that a user named; without it AWS, or what the environment says. */
  readonly endpoint?: string;
  readonly region?: string;
  readonly credentials?: {
    readonly accessKeyId: string;
    readonly secretAccessKey: string;
    readonly sessionToken?: string;
  };
  /** `https://host/bucket/key` instead of `https://bucket.host/key`. */
  readonly pathStyle?: boolean;
  /** Addresses that a user-given endpoint may have besides public ones. */
  readonly allowedCidrs?: readonly string[];
}

/** Enough for verification's 64 HEAD requests at once. */
const agentOptions = { keepAlive: true, maxSockets: 64 };
const connectionTimeoutMs = 5_000;
/** A pack of 16 MiB at 300 KB/s. */
const requestTimeoutMs = 60_000;
const sdkAttempts = 3;

/** A client that calls user-given endpoints only at addresses that may be called. */
export function createS3Client(options: S3ClientOptions): S3Client {
  const agents =
    options.endpoint === undefined ? plainAgents() : guardedAgents(options.allowedCidrs ?? [], agentOptions);
  return new S3Client({
    ...(options.endpoint !== undefined && { endpoint: options.endpoint }),
    ...(options.region !== undefined && { region: options.region }),
    ...(options.credentials && { credentials: options.credentials }),
    ...(options.pathStyle !== undefined && { forcePathStyle: options.pathStyle }),
    maxAttempts: sdkAttempts,
    retryMode: "standard",
    requestChecksumCalculation: "WHEN_REQUIRED",
    responseChecksumValidation: "WHEN_REQUIRED",
    requestHandler: {
      ...agents,
      connectionTimeout: connectionTimeoutMs,
      requestTimeout: requestTimeoutMs,
      throwOnRequestTimeout: true,
      socketTimeout: requestTimeoutMs,
    },
  });
}

function plainAgents(): { httpAgent: HttpAgent; httpsAgent: HttpsAgent } {
  return { httpAgent: new HttpAgent(agentOptions), httpsAgent: new HttpsAgent(agentOptions) };
}

export interface S3ObjectStoreOptions {
  readonly client: S3Client;
  readonly bucket: string;
  /** Put in front of every key; ends in `/` unless empty. */
  readonly prefix?: string;
}

const deletesPerCall = 1000;
/** The SDK tries requests again, but not a body that breaks off. */
const bodyTries = 3;
/** Another writer of the same key is at work: AWS asks to upload again. */
const conflictTries = 4;
const conflictPauseMs = 200;

/** A folder with more wanted keys than this is listed once; fewer keys are looked up one by one. */
const keysListedSingly = 8;

/** Where a listing of versions goes on. */
interface VersionMarker {
  readonly KeyMarker?: string | undefined;
  readonly VersionIdMarker?: string | undefined;
}

interface VersionPage {
  readonly versions: readonly ObjectIdentifier[];
  readonly next?: VersionMarker;
}

export class S3ObjectStore implements ObjectStore {
  readonly bucket: string;
  readonly #client: S3Client;
  readonly #prefix: string;

  constructor(options: S3ObjectStoreOptions) {
    this.bucket = options.bucket;
    this.#client = options.client;
    const prefix = options.prefix ?? "";
    this.#prefix = prefix === "" || prefix.endsWith("/") ? prefix : `${prefix}/`;
  }

  /** The key in the bucket. */
  fullKey(key: string): string {
    return this.#prefix + key;
  }

  #relative(fullKey: string): string {
    return fullKey.slice(this.#prefix.length);
  }

  /** Runs `call`; what it throws comes out as one of `domain/errors.ts`. */
  async #attempt<T>(doing: string, call: () => Promise<T>): Promise<T> {
    try {
      return await call();
    } catch (error) {
      throw storeError(error, `${doing} in the bucket ${this.bucket}`);
    }
  }

  async put(key: string, body: Uint8Array, options?: PutOptions): Promise<"written" | "exists"> {
    const checksum = options?.sha256 ? Buffer.from(options.sha256, "hex") : hash("sha256", body, "buffer");
    return this.#attempt(`writing ${this.fullKey(key)}`, async () => {
      for (let tries = 1; ; tries++) {
        try {
          await this.#client.send(this.#putCommand(key, body, { checksum, ifAbsent: options?.ifAbsent ?? false }));
          return "written";
        } catch (error) {
          if (options?.ifAbsent && hasStatus(error, 412)) return "exists";
          if (!isNamed(error, "ConditionalRequestConflict") || tries === conflictTries) throw error;
          await new Promise((resolve) => setTimeout(resolve, conflictPauseMs * tries));
        }
      }
    });
  }

  /** The checksum serves the signature too, so that the body is hashed once. */
  #putCommand(key: string, body: Uint8Array, options: { checksum: Buffer; ifAbsent: boolean }): PutObjectCommand {
    const command = new PutObjectCommand({
      Bucket: this.bucket,
      Key: this.fullKey(key),
      Body: body,
      ChecksumSHA256: options.checksum.toString("base64"),
      ...(options.ifAbsent && { IfNoneMatch: "*" }),
    });
    command.middlewareStack.add(
      (next) => (args) => {
        setHeader(args.request, "x-amz-content-sha256", options.checksum.toString("hex"));
        return next(args);
      },
      { step: "build", name: "signWithBodyChecksum" },
    );
    return command;
  }

  /** Whether the store refuses a body that is not what its checksum tells. `key` is written to if not. */
  async rejectsWrongChecksum(key: string): Promise<boolean> {
    const checksum = hash("sha256", "something else", "buffer");
    const input = { Bucket: this.bucket, Key: this.fullKey(key), Body: Buffer.from("something") };
    try {
      await this.#client.send(new PutObjectCommand({ ...input, ChecksumSHA256: checksum.toString("base64") }));
      return false;
    } catch (error) {
      if (hasStatus(error, 400)) return true;
      throw storeError(error, `writing ${this.fullKey(key)} in the bucket ${this.bucket}`);
    }
  }

  async get(key: string, range?: { offset: number; length: number }): Promise<Uint8Array | undefined> {
    if (range?.length === 0) return (await this.head(key)) && new Uint8Array();
    return this.#attempt(`reading ${this.fullKey(key)}`, async () => {
      for (let tries = 1; ; tries++) {
        try {
          return await this.#read(key, range);
        } catch (error) {
          if (isNamed(error, "NoSuchKey")) return undefined;
          if (range && hasStatus(error, 416)) return new Uint8Array();
          if (!(error instanceof TruncatedBody) || tries === bodyTries) throw error;
        }
      }
    });
  }

  async #read(key: string, range: { offset: number; length: number } | undefined): Promise<Uint8Array> {
    const Range = range && `bytes=${range.offset}-${range.offset + range.length - 1}`;
    const answer = await this.#client.send(
      new GetObjectCommand({ Bucket: this.bucket, Key: this.fullKey(key), ...(Range !== undefined && { Range }) }),
    );
    return readBody(answer, expectedLength(answer, range));
  }

  async head(key: string): Promise<ObjectHead | undefined> {
    return this.#attempt(`looking at ${this.fullKey(key)}`, async () => {
      try {
        const input = { Bucket: this.bucket, Key: this.fullKey(key), ChecksumMode: "ENABLED" as const };
        const { ContentLength, ChecksumSHA256 } = await this.#client.send(new HeadObjectCommand(input));
        const sha256 = ChecksumSHA256 && Buffer.from(ChecksumSHA256, "base64").toString("hex");
        return { size: ContentLength ?? 0, ...(sha256?.length === 64 && { sha256 }) };
      } catch (error) {
        if (hasStatus(error, 404)) return undefined;
        throw error;
      }
    });
  }

  async *list(prefix: string, options?: { startAfter?: string }): AsyncGenerator<ListedObject> {
    const StartAfter = options?.startAfter === undefined ? undefined : this.fullKey(options.startAfter);
    let ContinuationToken: string | undefined;
    do {
      const page = await this.#attempt(`listing ${this.fullKey(prefix)}`, () =>
        this.#client.send(
          new ListObjectsV2Command({
            Bucket: this.bucket,
            Prefix: this.fullKey(prefix),
            ...(ContinuationToken !== undefined ? { ContinuationToken } : StartAfter !== undefined && { StartAfter }),
          }),
        ),
      );
      for (const { Key, Size, LastModified } of page.Contents ?? []) {
        yield { key: this.#relative(Key ?? ""), size: Size ?? 0, lastModified: LastModified ?? new Date(0) };
      }
      ContinuationToken = page.IsTruncated ? page.NextContinuationToken : undefined;
    } while (ContinuationToken !== undefined);
  }

  async deleteEveryVersion(keys: readonly string[]): Promise<void> {
    const batch: ObjectIdentifier[] = [];
    for await (const version of this.#versionsOf(keys.map((key) => this.fullKey(key)))) {
      batch.push(version);
      if (batch.length === deletesPerCall) await this.#delete(batch.splice(0));
    }
    await this.#delete(batch);
  }

  /** Versions and delete markers of these full keys: one listing for each key, or of the folder when many lie in it. */
  async *#versionsOf(keys: readonly string[]): AsyncGenerator<ObjectIdentifier> {
    const folders = Map.groupBy(new Set(keys), (key) => key.slice(0, key.lastIndexOf("/") + 1));
    for (const [folder, wanted] of folders) {
      const prefixes = wanted.length > keysListedSingly ? [folder] : wanted;
      for (const prefix of prefixes) yield* this.#versionsBelow(prefix, new Set(wanted));
    }
  }

  async *#versionsBelow(prefix: string, wanted: ReadonlySet<string>): AsyncGenerator<ObjectIdentifier> {
    let from: VersionMarker | undefined = {};
    while (from) {
      const page: VersionPage = await this.#listVersions(prefix, from);
      yield* page.versions.filter(({ Key }) => wanted.has(Key ?? ""));
      from = page.next;
    }
  }

  async deleteEveryVersionBelow(
    prefix: string,
    options?: { until?: () => boolean },
  ): Promise<{ deleted: number; finished: boolean }> {
    let deleted = 0;
    for (;;) {
      if (options?.until?.()) return { deleted, finished: false };
      const { versions, next } = await this.#listVersions(this.fullKey(prefix), {});
      await this.#delete(versions);
      deleted += versions.length;
      if (!next || versions.length === 0) break;
    }
    await this.#abortUploads(this.fullKey(prefix));
    return { deleted, finished: true };
  }

  /** Stores without versions answer NotImplemented: then the current objects are all there are. */
  async #listVersions(Prefix: string, from: VersionMarker): Promise<VersionPage> {
    return this.#attempt(`listing versions below ${Prefix}`, async () => {
      try {
        const page = await this.#client.send(new ListObjectVersionsCommand({ Bucket: this.bucket, Prefix, ...from }));
        const versions = [...(page.Versions ?? []), ...(page.DeleteMarkers ?? [])].map(toIdentifier);
        const next = { KeyMarker: page.NextKeyMarker, VersionIdMarker: page.NextVersionIdMarker };
        return page.IsTruncated ? { versions, next } : { versions };
      } catch (error) {
        if (!isNamed(error, "NotImplemented")) throw error;
        return this.#listUnversioned(Prefix, from);
      }
    });
  }

  async #listUnversioned(Prefix: string, { KeyMarker }: VersionMarker): Promise<VersionPage> {
    const from = KeyMarker === undefined ? {} : { StartAfter: KeyMarker };
    const page = await this.#client.send(new ListObjectsV2Command({ Bucket: this.bucket, Prefix, ...from }));
    const versions = (page.Contents ?? []).map(({ Key }) => ({ Key }));
    return page.IsTruncated ? { versions, next: { KeyMarker: versions.at(-1)?.Key } } : { versions };
  }

  async #delete(versions: readonly ObjectIdentifier[]): Promise<void> {
    if (versions.length === 0) return;
    await this.#attempt(`deleting ${versions.length} versions`, async () => {
      const { Errors } = await this.#client.send(
        new DeleteObjectsCommand({ Bucket: this.bucket, Delete: { Objects: [...versions], Quiet: true } }),
      );
      const failed = Errors?.find(({ Code }) => Code !== "NoSuchKey" && Code !== "NoSuchVersion");
      if (failed) throw Object.assign(new Error(`${failed.Key}: ${failed.Message}`), { name: failed.Code ?? "Error" });
    });
  }

  /** Unfinished uploads take room unseen. None are ours, but what is below the prefix is to go. */
  async #abortUploads(Prefix: string): Promise<void> {
    await this.#attempt(`aborting uploads below ${Prefix}`, async () => {
      try {
        const { Uploads } = await this.#client.send(new ListMultipartUploadsCommand({ Bucket: this.bucket, Prefix }));
        for (const { Key, UploadId } of Uploads ?? []) {
          await this.#client.send(new AbortMultipartUploadCommand({ Bucket: this.bucket, Key, UploadId }));
        }
      } catch (error) {
        if (!isNamed(error, "NotImplemented") && !isNamed(error, "NoSuchUpload")) throw error;
      }
    });
  }
}

function setHeader(request: unknown, name: string, value: string): void {
  if (typeof request !== "object" || request === null || !("headers" in request)) return;
  (request.headers as Record<string, string>)[name] = value;
}

function toIdentifier({ Key, VersionId }: { Key?: string; VersionId?: string }): ObjectIdentifier {
  return VersionId === undefined ? { Key } : { Key, VersionId };
}

/** What must come: the rest of the object when the range reaches past its end. A store that ignores ranges is told apart by the length. */
function expectedLength(answer: GetObjectCommandOutput, range: { offset: number; length: number } | undefined): number {
  const announced = answer.ContentLength;
  if (announced === undefined) throw new TruncatedBody("the length of the body is unknown");
  if (!range) return announced;
  const size = Number(/\/(\d+)$/.exec(answer.ContentRange ?? "")?.[1] ?? Number.NaN);
  const expected = Math.min(range.length, size - range.offset);
  if (expected !== announced)
    throw new TruncatedBody(`${announced} bytes were announced for a range of ${range.length}`);
  return expected;
}

/** Exactly `expected` bytes. Throws TruncatedBody. */
async function readBody(answer: GetObjectCommandOutput, expected: number): Promise<Uint8Array> {
  const bytes = Buffer.allocUnsafeSlow(expected);
  let length = 0;
  try {
    for await (const part of bodyOf(answer)) {
      if (length + part.length > expected) break;
      bytes.set(part, length);
      length += part.length;
    }
  } catch (cause) {
    throw new TruncatedBody(`the body broke off after ${length} of ${expected} bytes`, { cause });
  }
  if (length < expected) throw new TruncatedBody(`${length} of ${expected} bytes came`);
  return bytes;
}

function bodyOf(answer: GetObjectCommandOutput): AsyncIterable<Uint8Array> {
  const body: unknown = answer.Body;
  if (body !== null && typeof body === "object" && Symbol.asyncIterator in body)
    return body as AsyncIterable<Uint8Array>;
  throw new TruncatedBody("no body came");
}
