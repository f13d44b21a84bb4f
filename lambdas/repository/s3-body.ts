/** The body of an S3 answer, whole and in time, or SpoiltAnswer. */
import { Readable } from "node:stream";
import type { GetObjectCommandOutput } from "@aws-sdk/client-s3";
import { StoreUnfit } from "../domain/errors.ts";
import { SpoiltAnswer } from "./s3-errors.ts";

/**
 * What must come: the rest of the object when the range reaches past its end. Throws SpoiltAnswer, StoreUnfit when the store ignores ranges, and what
 * `isTooMuch` answers; the body is dropped then, with its connection.
 */
export function expectedLength(
  answer: GetObjectCommandOutput,
  range: { offset: number; length: number } | undefined,
  isTooMuch: (bytes: number) => Error | undefined,
): number {
  try {
    const expected = lengthOf(answer, range);
    const error = isTooMuch(expected);
    if (error) throw error;
    return expected;
  } catch (error) {
    if (answer.Body instanceof Readable) answer.Body.destroy();
    throw error;
  }
}

function lengthOf(answer: GetObjectCommandOutput, range: { offset: number; length: number } | undefined): number {
  const announced = answer.ContentLength;
  if (announced === undefined) throw new SpoiltAnswer("the length of the body is unknown");
  if (!range) return announced;
  if (answer.ContentRange === undefined) {
    if (range.offset === 0 && announced <= range.length) return announced;
    throw new StoreUnfit("The store sends more of an object than the range asked for (Range has no effect).");
  }
  const size = Number(/\/(\d+)$/.exec(answer.ContentRange)?.[1] ?? Number.NaN);
  const expected = Math.min(range.length, size - range.offset);
  if (expected !== announced)
    throw new SpoiltAnswer(`${announced} bytes were announced for a range of ${range.length}`);
  return expected;
}

/** Fills `bytes` exactly. A body that takes longer than `timeoutMs` counts as broken off; nothing is written any more then. */
export function readBody(answer: GetObjectCommandOutput, bytes: Uint8Array, timeoutMs: number): Promise<Uint8Array> {
  const body: unknown = answer.Body;
  if (!(body instanceof Readable)) throw new SpoiltAnswer("no body came");
  const expected = bytes.length;
  return new Promise((resolve, reject) => {
    let length = 0;
    const fail = (what: string, cause?: unknown) => {
      clearTimeout(timer);
      body.removeAllListeners("data");
      reject(new SpoiltAnswer(what, { cause }));
      // The connection is of no use any more.
      body.destroy();
    };
    const timer = setTimeout(() => fail(`${length} of ${expected} bytes came in ${timeoutMs / 1000} s`), timeoutMs);
    body.on("data", (part: Buffer) => {
      if (length + part.length > expected) return fail(`more than ${expected} bytes came`);
      part.copy(bytes, length);
      length += part.length;
    });
    body.once("end", () => {
      if (length < expected) return fail(`${length} of ${expected} bytes came`);
      clearTimeout(timer);
      resolve(bytes);
    });
    body.once("error", (cause) => fail(`the body broke off after ${length} of ${expected} bytes`, cause));
    body.once("close", () => fail(`the body broke off after ${length} of ${expected} bytes`));
  });
}
