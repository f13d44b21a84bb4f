/** Small JSON objects of a repository: written with sorted keys so that equal records are equal bytes. */
import type * as z from "zod";
import { RepositoryDamaged, UnsupportedFormat } from "../domain/errors.ts";
import { repositoryFormat } from "./binary.ts";

function sortKeys(_key: string, value: unknown): unknown {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}

export function encodeRecord(record: unknown): Buffer {
  return Buffer.from(JSON.stringify(record, sortKeys), "utf8");
}

/** Throws RepositoryDamaged when the bytes are not what `schema` asks for, UnsupportedFormat when they name another format. */
export function decodeRecord<T>(schema: z.ZodType<T>, bytes: Uint8Array, key: string): T {
  const value = parseJson(bytes, key);
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
