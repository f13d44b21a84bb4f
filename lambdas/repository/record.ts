/**
 * Small JSON objects of a repository: written with sorted keys so that equal records are equal bytes. Those of jobs carry a checksum, since
 * what they count and name becomes a snapshot and nothing else tells when a digit of them has changed. In an encrypted domain it is one that nobody makes without
 * the domain's key: a store must not choose what becomes a snapshot.
 */
import type * as z from "zod";
import { RepositoryDamaged, UnsupportedFormat } from "../domain/errors.ts";
import { repositoryFormat, sha256 } from "./binary.ts";
import type { DomainCipher } from "./domain-cipher.ts";

function sortKeys(_key: string, value: unknown): unknown {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}

export function encodeRecord(record: unknown): Buffer {
  return Buffer.from(JSON.stringify(record, sortKeys), "utf8");
}

/** Which object of a job: its key in the store, and the cipher of an encrypted domain. */
export interface JobObject {
  readonly key: string;
  readonly cipher: DomainCipher | undefined;
}

/** With `checksum`: the SHA-256 of the record without it, in an encrypted domain an HMAC. */
export function encodeJobRecord(record: object, object: JobObject): Buffer {
  return encodeRecord({ ...record, checksum: checksumOf(record, object) });
}

function checksumOf(record: object, { key, cipher }: JobObject): string {
  const bytes = encodeRecord(record);
  return cipher ? cipher.authenticateJobObject(key, bytes) : sha256(bytes);
}

/** Throws RepositoryDamaged when the bytes are not what `schema` asks for, UnsupportedFormat when they name another format. */
export function decodeRecord<T>(schema: z.ZodType<T>, bytes: Uint8Array, key: string): T {
  return conforming(schema, parseJson(bytes, key), key);
}

/** As {@link decodeRecord}, of what {@link encodeJobRecord} wrote: any change of it is damage. */
export function decodeJobRecord<T>(schema: z.ZodType<T>, bytes: Uint8Array, object: JobObject): T {
  const { key } = object;
  const value = parseJson(bytes, key);
  const record = conforming(schema, value, key);
  const { checksum, ...checked } = value as { readonly checksum?: unknown };
  if (checksum === checksumOf(checked, object)) return record;
  throw new RepositoryDamaged(`The object ${key} is damaged: its checksum does not match.`);
}

function conforming<T>(schema: z.ZodType<T>, value: unknown, key: string): T {
  const format = formatOf(value);
  if (format !== undefined && format !== repositoryFormat) {
    throw new UnsupportedFormat(
      `The object ${key} has format ${format}; this version reads format ${repositoryFormat}.`,
    );
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success) throw new RepositoryDamaged(`The object ${key} is damaged: ${parsed.error.issues[0]?.message}.`);
  return parsed.data;
}

function parseJson(bytes: Uint8Array, key: string): unknown {
  try {
    return JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8"));
  } catch (cause) {
    throw new RepositoryDamaged(`The object ${key} is damaged: it is not JSON.`, { cause });
  }
}

function formatOf(value: unknown): number | undefined {
  if (value === null || typeof value !== "object" || !("format" in value)) return undefined;
  return typeof value.format === "number" ? value.format : undefined;
}
