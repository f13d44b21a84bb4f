/** `domain.json`: the sizes that a domain's writers keep to, chosen once when its first backup starts. */
import * as z from "zod";
import { repositoryFormat } from "./binary.ts";
import { type DomainCipher, openCipher } from "./domain-cipher.ts";
import type { KeyService } from "./key-service.ts";
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

const KiB = 1024;
const MiB = 1024 * KiB;
const TiB = 1024 * 1024 * MiB;

/**
 * Small chunks make small incrementals, large ones small pages. Decision 014 has the figures: up to 1 TiB aligned scattered writes of 64 KiB cost
 * no more than themselves, and pages stay below 6 GiB at 64 TiB. A page spans 256 MiB, as a shard does, which cannot be less than a page.
 */
const sizesByVolume: readonly (Pick<Geometry, "chunkBytes" | "pageChunks"> & { readonly upToBytes: number })[] = [
  { upToBytes: 1 * TiB, chunkBytes: 64 * KiB, pageChunks: 4096 },
  { upToBytes: 4 * TiB, chunkBytes: 128 * KiB, pageChunks: 2048 },
  { upToBytes: 16 * TiB, chunkBytes: 256 * KiB, pageChunks: 1024 },
  { upToBytes: Number.POSITIVE_INFINITY, chunkBytes: 512 * KiB, pageChunks: 1024 },
];

/** The sizes for a volume of `sizeBytes` bytes. */
export function geometryFor(sizeBytes: number): Geometry {
  const { chunkBytes, pageChunks } = sizesByVolume.find(({ upToBytes }) => sizeBytes <= upToBytes)!;
  return { chunkBytes, pageChunks, packBytes: 16 * MiB };
}

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

const sizesSchema = geometrySchema.partial({ packBytes: true });

/** Whether a domain can have these sizes. Readers make room by them, so that they believe no others. */
export function areSizesOfDomain(sizes: Pick<Geometry, "chunkBytes" | "pageChunks"> & Partial<Geometry>): boolean {
  return sizesSchema.safeParse(sizes).success;
}

const domainSchema = geometrySchema.extend({
  format: z.literal(repositoryFormat),
  hash: z.literal("sha256"),
  compression: z.literal("zstd"),
  encryption: z.object({ cipher: z.literal("aes-256-gcm"), wrappedKey: z.base64().min(1) }).optional(),
});

/** A domain where it lies, and what opens it if it is encrypted. */
export interface DomainLocation {
  readonly store: ObjectStore;
  /** Name of the dedup domain: one for each volume. */
  readonly domain: string;
  /** Of a store with client-side encryption: new domains are encrypted with it, and what is not encrypted is refused. */
  readonly keys?: KeyService;
  /**
   * Whether the domain may be one from before the store's encryption was switched on. To be decided by what the database knows: a store
   * that may decide it itself gets plain chunks by replacing `domain.json`.
   */
  readonly mayBeUnencrypted?: boolean;
}

/** What a domain's writers keep to. */
export interface Domain {
  readonly geometry: Geometry;
  /** Absent in a domain that is not encrypted. */
  readonly encryption?: { readonly wrappedKey: Uint8Array; readonly cipher: DomainCipher };
}

/**
 * The domain's sizes and key; writes `domain.json` when there is none, with the data key `wrappedKey` if the domain had one before.
 * Only a job with a pin may call it: the sweep leaves the record of a domain with pins alone. Throws EncryptionKeyUnavailable, and
 * RepositoryDamaged for a domain that is not encrypted where it has to be.
 */
export async function ensureDomain(
  location: DomainLocation,
  before: { readonly geometry: Geometry; readonly wrappedKey?: Uint8Array },
): Promise<Domain> {
  const known = await readDomain(location);
  if (known) return known;
  const key = domainKeys(location.domain).record;
  const wrappedKey = before.wrappedKey ?? (await location.keys?.generate({ domain: location.domain }))?.wrapped;
  const record = {
    format: repositoryFormat,
    hash: "sha256" as const,
    compression: "zstd" as const,
    ...before.geometry,
    ...(wrappedKey &&
      wrappedKey.length > 0 && {
        encryption: { cipher: "aes-256-gcm" as const, wrappedKey: Buffer.from(wrappedKey).toString("base64") },
      }),
  };
  const domain = await openRecord(location, record);
  const outcome = await location.store.put(key, encodeRecord(record), { ifAbsent: true });
  return outcome === "written" ? domain : ensureDomain(location, before);
}

/** The domain as its record says, if it has one. Throws as {@link ensureDomain}. */
export async function readDomain(location: DomainLocation): Promise<Domain | undefined> {
  const key = domainKeys(location.domain).record;
  const found = await location.store.get(key);
  return found && openRecord(location, decodeRecord(domainSchema, found, key));
}

async function openRecord(
  location: DomainLocation,
  { chunkBytes, pageChunks, packBytes, encryption }: Omit<z.infer<typeof domainSchema>, "format">,
): Promise<Domain> {
  const geometry = { chunkBytes, pageChunks, packBytes };
  const wrappedKey = Uint8Array.from(Buffer.from(encryption?.wrappedKey ?? "", "base64"));
  const cipher = await openCipher(location, wrappedKey);
  return cipher ? { geometry, encryption: { wrappedKey, cipher } } : { geometry };
}
