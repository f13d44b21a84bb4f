/** The object store on any S3-compatible service. */
import { hash } from "node:crypto";
import {
  AbortMultipartUploadCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  type ListObjectsV2CommandOutput,
  ListObjectVersionsCommand,
  type ObjectIdentifier,
  PutObjectCommand,
  type S3Client,
} from "@aws-sdk/client-s3";
import { ObjectLocked, RepositoryDamaged, StoreUnfit } from "../domain/errors.ts";
import {
  type ByteRange,
  type ListedObject,
  mostBytes,
  type ObjectHead,
  type ObjectStore,
  type PutOptions,
  type Retention,
  tooLarge,
} from "./object-store.ts";
import { expectedLength, readBody } from "./s3-body.ts";
import type { S3Connection } from "./s3-connection.ts";
import { hasStatus, isNamed, isPassing, isWithoutAnswer, SpoiltAnswer, storeError, wasRepeated } from "./s3-errors.ts";
import { extendRetention, isLockEnabled, isMissing, meansNoLock, readRetention } from "./s3-object-lock.ts";

export interface S3ObjectStoreOptions {
  readonly connection: S3Connection;
  readonly bucket: string;
  /** Put in front of every key; ends in `/` unless empty. */
  readonly prefix?: string;
}

const deletesPerCall = 1000;
/** The SDK tries requests again that fail; not bodies that break off, and not what `isPassing` names. */
const tries = 4;
/** Before the second try; three times as long before the last. */
const pauseMs = 200;

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
  readonly #connection: S3Connection;
  readonly #client: S3Client;
  readonly #prefix: string;

  constructor({ connection, bucket, prefix = "" }: S3ObjectStoreOptions) {
    this.bucket = bucket;
    this.#connection = connection;
    this.#client = connection.client;
    this.#prefix = prefix === "" || prefix.endsWith("/") ? prefix : `${prefix}/`;
  }

  /** The key in the bucket. */
  fullKey(key: string): string {
    return this.#prefix + key;
  }

  #relative(fullKey: string): string {
    return fullKey.slice(this.#prefix.length);
  }

  /** Runs `call`, again after what may pass; what it throws in the end comes out as one of `domain/errors.ts`. */
  async #attempt<T>(doing: string, call: (attempt: number) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await call(attempt);
      } catch (error) {
        if (attempt === tries || !isPassing(error)) throw storeError(error, `${doing} in the bucket ${this.bucket}`);
        await new Promise((resolve) => setTimeout(resolve, pauseMs * attempt));
      }
    }
  }

  async put(key: string, body: Uint8Array, options?: PutOptions): Promise<"written" | "exists"> {
    const sha256 = options?.sha256 ?? hash("sha256", body, "hex");
    const ifAbsent = options?.ifAbsent ?? false;
    return this.#attempt(`writing ${this.fullKey(key)}`, async (attempt) => {
      try {
        await this.#client.send(this.#putCommand(key, body, { sha256, ifAbsent }));
        return "written";
      } catch (error) {
        if (!ifAbsent) throw error;
        const isRefused = hasStatus(error, 412);
        if (isRefused && attempt === 1 && !wasRepeated(error)) return "exists";
        if (isRefused || isWithoutAnswer(error)) return await this.#whatIsThere(key, body, { sha256, error });
        throw error;
      }
    });
  }

  /**
   * What became of a conditional write whose replies were lost. Some stores answer 412 before they have read the body, and close: then the
   * client may see nothing but the connection's end. Throws `error` when nothing is there.
   */
  async #whatIsThere(
    key: string,
    body: Uint8Array,
    { sha256, error }: { sha256: string; error: unknown },
  ): Promise<"written" | "exists"> {
    const found = await this.head(key);
    if (!found) throw error;
    if (found.size !== body.length) return "exists";
    const bytes = found.sha256 === undefined ? await this.get(key, undefined, body.length) : undefined;
    const there = bytes ? hash("sha256", bytes, "hex") : found.sha256;
    return there === sha256 ? "written" : "exists";
  }

  /** The checksum's header is signed, and so the body is: a signature of its own would cost both sides another SHA-256. */
  #putCommand(key: string, body: Uint8Array, options: { sha256: string; ifAbsent: boolean }): PutObjectCommand {
    const command = new PutObjectCommand({
      Bucket: this.bucket,
      Key: this.fullKey(key),
      Body: body,
      ChecksumSHA256: Buffer.from(options.sha256, "hex").toString("base64"),
      ...(options.ifAbsent && { IfNoneMatch: "*" }),
    });
    command.middlewareStack.add(withHeader("x-amz-content-sha256", "UNSIGNED-PAYLOAD"), { step: "build" });
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

  async get(key: string, range?: ByteRange, most = mostBytes): Promise<Uint8Array | undefined> {
    if (range?.length === 0) return (await this.head(key)) && new Uint8Array();
    const object = { Bucket: this.bucket, Key: this.fullKey(key) };
    const quick = range?.into && (await this.#connection.ranges.read(object, range, range.into));
    if (quick) return quick;
    let spoilt = false;
    return this.#attempt(`reading ${this.fullKey(key)}`, async () => {
      try {
        const { bytes, sha256 } = await this.#read(key, range, most);
        if (spoilt || sha256 === undefined || hash("sha256", bytes, "hex") === sha256) return bytes;
        spoilt = true;
        throw new SpoiltAnswer("the bytes are not what the store's own checksum tells");
      } catch (error) {
        if (isNamed(error, "NoSuchKey")) return undefined;
        if (range && hasStatus(error, 416)) return new Uint8Array();
        throw error;
      }
    });
  }

  /** `sha256`: of the whole object, in hex, where the store keeps it. The SDK is not told to check it: it would do so for every body. */
  async #read(
    key: string,
    range: ByteRange | undefined,
    most: number,
  ): Promise<{ bytes: Uint8Array; sha256: string | undefined }> {
    const Range = range && `bytes=${range.offset}-${range.offset + range.length - 1}`;
    const input = { Bucket: this.bucket, Key: this.fullKey(key), ...(Range !== undefined && { Range }) };
    const command = new GetObjectCommand(input);
    if (!range) command.middlewareStack.add(withHeader("x-amz-checksum-mode", "ENABLED"), { step: "build" });
    const answer = await this.#client.send(command);
    const isTooMuch = (bytes: number) => (range?.into || bytes <= most ? undefined : tooLarge(key, bytes, most));
    const expected = expectedLength(answer, range, isTooMuch);
    const target = range?.into?.subarray(0, expected) ?? Buffer.allocUnsafeSlow(expected);
    const bytes = await readBody(answer, target, this.#connection.timeoutMs);
    return { bytes, sha256: range ? undefined : hexChecksum(answer.ChecksumSHA256) };
  }

  async head(key: string): Promise<ObjectHead | undefined> {
    return this.#attempt(`looking at ${this.fullKey(key)}`, async () => {
      try {
        const input = { Bucket: this.bucket, Key: this.fullKey(key), ChecksumMode: "ENABLED" as const };
        const { ContentLength, ChecksumSHA256 } = await this.#client.send(new HeadObjectCommand(input));
        const sha256 = hexChecksum(ChecksumSHA256);
        return { size: ContentLength ?? 0, ...(sha256 !== undefined && { sha256 }) };
      } catch (error) {
        if (hasStatus(error, 404)) return undefined;
        throw error;
      }
    });
  }

  async *list(prefix: string, options?: { startAfter?: string }): AsyncGenerator<ListedObject> {
    const StartAfter = options?.startAfter === undefined ? undefined : this.fullKey(options.startAfter);
    let ContinuationToken: string | undefined;
    let last = "";
    do {
      const page = await this.#attempt(`listing ${this.fullKey(prefix)}`, () =>
        this.#listPage(this.fullKey(prefix), ContinuationToken !== undefined ? { ContinuationToken } : { StartAfter }),
      );
      for (const { Key = "", Size, LastModified } of page.Contents ?? []) {
        if (Key <= last) throw new StoreUnfit(`The store does not list the bucket ${this.bucket} in ascending order.`);
        last = Key;
        yield { key: this.#relative(Key), size: Size ?? 0, lastModified: LastModified ?? new Date(0) };
      }
      ContinuationToken = page.NextContinuationToken;
    } while (ContinuationToken !== undefined);
  }

  /** A page that does not say whether more follows, or where, is not believed: a listing that ends too early looks like objects that are gone. */
  async #listPage(
    Prefix: string,
    from: { ContinuationToken?: string; StartAfter?: string | undefined },
  ): Promise<Pick<ListObjectsV2CommandOutput, "Contents" | "NextContinuationToken">> {
    const page = await this.#client.send(new ListObjectsV2Command({ Bucket: this.bucket, Prefix, ...from }));
    const next = page.IsTruncated ? page.NextContinuationToken : undefined;
    if (page.IsTruncated === undefined || (page.IsTruncated && !next))
      throw new SpoiltAnswer("a listing came without its end");
    return { Contents: page.Contents, NextContinuationToken: next };
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
      const { next } = page;
      if (next && next.KeyMarker === from.KeyMarker && next.VersionIdMarker === from.VersionIdMarker)
        throw new StoreUnfit(`The store lists the same versions of the bucket ${this.bucket} again and again.`);
      from = next;
    }
  }

  async deleteEveryVersionBelow(
    prefix: string,
    options?: { until?: () => boolean; last?: string },
  ): Promise<{ deleted: number; finished: boolean }> {
    const [{ deleted, left }] = await Promise.all([
      this.#deleteVersionsBelow(prefix, options),
      this.#abortUploads(this.fullKey(prefix)),
    ]);
    if (!left) return { deleted, finished: false };
    await this.#delete(left);
    return { deleted: deleted + left.length, finished: true };
  }

  /** All but those of `last`, which are `left`; undefined when there was no time for all of the others. */
  async #deleteVersionsBelow(
    prefix: string,
    options?: { until?: () => boolean; last?: string },
  ): Promise<{ readonly deleted: number; readonly left?: readonly ObjectIdentifier[] }> {
    const last = options?.last === undefined ? undefined : this.fullKey(options.last);
    let deleted = 0;
    for (;;) {
      if (options?.until?.()) return { deleted };
      const { versions, next } = await this.#listVersions(this.fullKey(prefix), {});
      const unwanted = versions.filter(({ Key }) => Key !== last);
      await this.#delete(unwanted);
      deleted += unwanted.length;
      if (!next || unwanted.length === 0) return { deleted, left: versions.filter(({ Key }) => Key === last) };
    }
  }

  /** Stores without versions answer NotImplemented: then the current objects are all there are. */
  async #listVersions(Prefix: string, from: VersionMarker): Promise<VersionPage> {
    return this.#attempt(`listing versions below ${Prefix}`, async () => {
      try {
        const page = await this.#client.send(new ListObjectVersionsCommand({ Bucket: this.bucket, Prefix, ...from }));
        const versions = [...(page.Versions ?? []), ...(page.DeleteMarkers ?? [])].map(toIdentifier);
        if (page.IsTruncated === undefined || (page.IsTruncated && !page.NextKeyMarker))
          throw new SpoiltAnswer("a listing came without its end");
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
    const { Contents = [], NextContinuationToken } = await this.#listPage(Prefix, from);
    const versions = Contents.map(({ Key }) => ({ Key }));
    return NextContinuationToken === undefined ? { versions } : { versions, next: { KeyMarker: versions.at(-1)?.Key } };
  }

  async #delete(versions: readonly ObjectIdentifier[]): Promise<void> {
    if (versions.length === 0) return;
    await this.#attempt(`deleting ${versions.length} versions`, async () => {
      const { Errors } = await this.#client.send(
        new DeleteObjectsCommand({ Bucket: this.bucket, Delete: { Objects: [...versions], Quiet: true } }),
      );
      const failed = Errors?.find(({ Code }) => Code !== "NoSuchKey" && Code !== "NoSuchVersion");
      if (!failed) return;
      await this.#throwIfLocked(failed);
      throw Object.assign(new Error(`${failed.Key}: ${failed.Message}`), { name: failed.Code ?? "Error" });
    });
  }

  /** Stores answer AccessDenied, InvalidRequest or a code of their own: the version itself tells whether it is locked. */
  async #throwIfLocked({ Key = "", VersionId }: { Key?: string; VersionId?: string }): Promise<void> {
    const retention = await readRetention(this.#client, { Bucket: this.bucket, Key, VersionId }).catch(() => undefined);
    if (!retention || retention.until.getTime() < Date.now()) return;
    const until = retention.until.toISOString();
    throw new ObjectLocked(
      `${Key} in the bucket ${this.bucket} is under Object Lock (${retention.mode}) until ${until}.`,
      retention.until,
    );
  }

  async retain(key: string, { mode, until }: Retention): Promise<void> {
    // Stores keep whole seconds.
    const rounded = new Date(Math.ceil(until.getTime() / 1000) * 1000);
    await this.#attempt(`retaining ${this.fullKey(key)}`, async () => {
      try {
        const target = { Bucket: this.bucket, Key: this.fullKey(key) };
        await extendRetention(this.#client, target, { mode, until: rounded });
      } catch (error) {
        if (isMissing(error)) throw new RepositoryDamaged(`The object ${key} is missing.`, { cause: error });
        if (isNamed(error, "InvalidRequest") && !(await this.objectLockEnabled()))
          throw new StoreUnfit(`The bucket ${this.bucket} was made without Object Lock.`, { cause: error });
        throw error;
      }
    });
  }

  async retainedUntil(key: string): Promise<Date | undefined> {
    return this.#attempt(`looking for the retention of ${this.fullKey(key)}`, async () => {
      try {
        const retention = await readRetention(this.#client, { Bucket: this.bucket, Key: this.fullKey(key) });
        return retention?.until;
      } catch (error) {
        if (meansNoLock(error) && !(await this.objectLockEnabled())) return undefined;
        if (isMissing(error)) return undefined;
        throw error;
      }
    });
  }

  async objectLockEnabled(): Promise<boolean> {
    return this.#attempt("looking for Object Lock", () => isLockEnabled(this.#client, this.bucket));
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

/** A middleware for the step `build`: the header is there before the request is signed. */
function withHeader(name: string, value: string) {
  return <Arguments extends { request: unknown }, Output>(next: (args: Arguments) => Output) =>
    (args: Arguments): Output => {
      const { request } = args;
      if (typeof request === "object" && request !== null && "headers" in request)
        (request.headers as Record<string, string>)[name] = value;
      return next(args);
    };
}

/** A store's SHA-256 of a whole object in hex; undefined when it has none, or one of parts. */
function hexChecksum(base64: string | undefined): string | undefined {
  const hex = base64 === undefined ? "" : Buffer.from(base64, "base64").toString("hex");
  return hex.length === 64 ? hex : undefined;
}

function toIdentifier({ Key, VersionId }: { Key?: string; VersionId?: string }): ObjectIdentifier {
  return VersionId === undefined ? { Key } : { Key, VersionId };
}
