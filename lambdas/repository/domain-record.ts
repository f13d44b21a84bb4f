/** `domain.json`: the sizes that a domain's writers keep to, chosen once when its first backup starts. */
import { z } from "zod";
import { repositoryFormat } from "./binary.ts";
import { domainKeys } from "./layout.ts";
import type { ObjectStore } from "./object-store.ts";
import { maxPageChunks } from "./page.ts";
import { decodeRecord, encodeRecord } from "./record.ts";

export interface Geometry {
  /** Bytes of a chunk; the last one of a volume may be shorter. */
  readonly chunkBytes: number;
  /** Chunks of a page. */
  readonly pageChunks: number;
  /** Bytes of chunks after which a pack is sealed. Readers do not depend on it. */
  readonly packBytes: number;
}

/** 256 KiB chunks (scattered 64 KiB writes touch few of them), pages of 256 MiB (46 KB each), packs of 16 MiB. */
export const defaultGeometry: Geometry = { chunkBytes: 256 * 1024, pageChunks: 1024, packBytes: 16 * 1024 * 1024 };

const geometrySchema = z.object({
  chunkBytes: z
    .int()
    .min(512)
    .max(16 * 1024 * 1024),
  pageChunks: z.int().min(1).max(maxPageChunks),
  packBytes: z
    .int()
    .min(1024)
    .max(64 * 1024 * 1024),
});

const domainSchema = geometrySchema.extend({
  format: z.literal(repositoryFormat),
  hash: z.literal("sha256"),
  compression: z.literal("zstd"),
});

/**
 * The geometry of a domain; writes `domain.json` when there is none. Only a job with a pin may call it: the sweep leaves the
 * record of a domain with pins alone.
 */
export async function ensureDomain(store: ObjectStore, domain: string, geometry = defaultGeometry): Promise<Geometry> {
  const key = domainKeys(domain).record;
  const found = await store.get(key);
  if (found) return decodeRecord(domainSchema, found, key);
  const record = { format: repositoryFormat, hash: "sha256", compression: "zstd", ...geometry };
  const outcome = await store.put(key, encodeRecord(record), { ifAbsent: true });
  return outcome === "written" ? geometry : ensureDomain(store, domain, geometry);
}
