/**
 * The short way for the many ranges that a restore reads: one signature for all ranges of an object, and bodies that go from the socket into the
 * caller's memory. It takes a third of the CPU of the SDK's way, which makes a stream and two copies of each body. Whatever is not plainly the
 * range that was asked for is left to the SDK's way, which knows all faults and their names.
 */
import { GetObjectCommand, type S3Client } from "@aws-sdk/client-s3";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";
import type { Dispatcher } from "undici";
import type { EgressRules } from "../protocols/egress/endpoint.ts";

export interface S3RangeReaderOptions {
  /** What may be called where a user named the endpoint; undefined where it is AWS's. */
  readonly rules: EgressRules | undefined;
  /** Milliseconds for an answer with its body. */
  readonly timeoutMs: number;
}

interface S3Object {
  readonly Bucket: string;
  readonly Key: string;
}

function nameOf({ Bucket, Key }: S3Object): string {
  return `${Bucket}/${Key}`;
}

interface SignedUrl {
  readonly url: URL;
  /** Milliseconds since the epoch. */
  readonly until: number;
}

const connections = 64;
const connectTimeoutMs = 5_000;
const signedSeconds = 900;
/** Used for so long: what is asked for last must reach the store in time, by the store's clock. */
const usedMs = 600_000;
/** A URL ends with the credentials that signed it. The SDK renews these five minutes before; by then new ones are at hand. */
const expiryMarginMs = 60_000;
const mostSigned = 256;
/** A store that refuses so many signed URLs in a row does not take them. */
const refusalsInARow = 3;

export class S3RangeReader {
  readonly #client: S3Client;
  readonly #rules: EgressRules | undefined;
  readonly #timeoutMs: number;
  readonly #signed = new Map<string, SignedUrl>();
  #refusals = 0;
  #dispatcher: Promise<Dispatcher> | undefined;

  constructor(client: S3Client, { rules, timeoutMs }: S3RangeReaderOptions) {
    this.#client = client;
    this.#rules = rules;
    this.#timeoutMs = timeoutMs;
  }

  /** Ends the connections; what is under way is left to others. */
  close(): void {
    void this.#dispatcher?.then((dispatcher) => dispatcher.destroy());
    this.#dispatcher = undefined;
  }

  /** The range, in `into`, or the part of it that the object has; undefined when that is not what came. Nothing is written to `into` afterwards. */
  async read(
    object: S3Object,
    range: { readonly offset: number; readonly length: number },
    into: Uint8Array,
  ): Promise<Uint8Array | undefined> {
    if (this.#refusals >= refusalsInARow) return undefined;
    const url = await this.#sign(object).catch(() => undefined);
    if (!url) return undefined;
    this.#dispatcher ??= openDispatcher(this.#rules);
    const { status, bytes } = await this.#fetch(await this.#dispatcher, { url, ...range, into });
    const isRefused = status === 400 || status === 401 || status === 403;
    this.#refusals = isRefused ? this.#refusals + 1 : 0;
    if (isRefused) this.#signed.delete(nameOf(object));
    return bytes;
  }

  async #sign(object: S3Object): Promise<URL> {
    const known = this.#signed.get(nameOf(object));
    if (known && known.until > Date.now()) return known.url;
    const { expiration } = await this.#client.config.credentials();
    const url = new URL(await getSignedUrl(this.#client, new GetObjectCommand(object), { expiresIn: signedSeconds }));
    if (this.#signed.size >= mostSigned) this.#signed.clear();
    const credentialsEnd = (expiration?.getTime() ?? Number.POSITIVE_INFINITY) - expiryMarginMs;
    this.#signed.set(nameOf(object), { url, until: Math.min(Date.now() + usedMs, credentialsEnd) });
    return url;
  }

  #fetch(
    dispatcher: Dispatcher,
    { url, offset, length, into }: { url: URL; offset: number; length: number; into: Uint8Array },
  ): Promise<{ status: number | undefined; bytes: Uint8Array | undefined }> {
    return new Promise((resolve) => {
      let status: number | undefined;
      let expected: number | undefined;
      let received = 0;
      let isOver = false;
      let request: Dispatcher.DispatchController | undefined;
      const end = (bytes?: Uint8Array) => {
        if (isOver) return;
        isOver = true;
        clearTimeout(timer);
        resolve({ status, bytes });
        if (!bytes) request?.abort(new Error("The answer is not wanted any more."));
      };
      const timer = setTimeout(end, this.#timeoutMs);
      const { origin, pathname, search } = url;
      const headers = { range: `bytes=${offset}-${offset + length - 1}` };
      dispatcher.dispatch(
        { origin, path: pathname + search, method: "GET", headers },
        {
          onRequestStart: (controller) => {
            request = controller;
            if (isOver) controller.abort(new Error("There is no time left."));
          },
          onResponseStart: (_, statusCode, answered) => {
            status = statusCode;
            expected = statusCode === 206 ? lengthOf(answered["content-range"], { offset, length }) : undefined;
            if (expected === undefined) end();
          },
          onResponseData: (_, part) => {
            if (isOver) return;
            if (received + part.length > expected!) return end();
            part.copy(into, received);
            received += part.length;
          },
          onResponseEnd: () => end(received === expected ? into.subarray(0, received) : undefined),
          onResponseError: () => end(),
        },
      );
    });
  }
}

/** Loaded when it is needed: most functions read no ranges, loading takes some 80 ms, and lying in the same file 50 ms. */
async function openDispatcher(rules: EgressRules | undefined): Promise<Dispatcher> {
  const { guardedDispatcher } = await import("../protocols/egress/dispatcher.ts");
  return guardedDispatcher(rules, { connections, connectTimeout: connectTimeoutMs });
}

/** The length of an answer to that range by its `Content-Range`; undefined when it is another one. */
function lengthOf(
  contentRange: string | string[] | undefined,
  range: { readonly offset: number; readonly length: number },
): number | undefined {
  const [, first, last, size] = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(String(contentRange)) ?? [];
  const end = Math.min(range.offset + range.length, Number(size));
  return Number(first) === range.offset && Number(last) === end - 1 ? end - range.offset : undefined;
}
