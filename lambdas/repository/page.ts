/** A page: what a run of the volume's chunks consists of and where each of them lies. Immutable, named by its own hash. */
import { RepositoryDamaged } from "../domain/errors.ts";
import { ByteWriter, seal, sha256, unseal } from "./binary.ts";
import { domainKeys, parsePageName } from "./layout.ts";
import type { ObjectStore } from "./object-store.ts";
import { decodeJobs, decodePacks, encodeJobs, encodePacks, jobsOfPacks } from "./pack-table.ts";
import { entryBytes, PageChunks } from "./page-chunks.ts";

export interface Page {
  /** Position of the page in the volume, in pages. */
  readonly index: number;
  readonly chunks: PageChunks;
}

/** Upper bound of chunks in a page of any domain. */
export const maxPageChunks = 65_536;

/** 65,536 chunks of 45 bytes, each in a pack of its own (32 bytes) by a job of its own (130 bytes): 13 MiB. Sweeps read 16 pages at once. */
const mostPageBytes = 16 * 1024 * 1024;

export function encodePage({ index, chunks }: Page): Buffer {
  const packs = chunks.packs();
  const writer = new ByteWriter().u32(index).u32(chunks.length);
  const numbers = encodePacks(writer, packs, encodeJobs(writer, jobsOfPacks(packs)));
  const { stored, entries } = chunks.encode(numbers);
  return seal("page", writer.bytes(stored.bytes).bytes(entries).finish());
}

/** Throws RepositoryDamaged. */
export function decodePage(bytes: Uint8Array, name: string): Page {
  const reader = unseal("page", bytes, name);
  const index = reader.u32();
  const chunkCount = reader.u32();
  if (chunkCount > maxPageChunks) throw reader.damaged("it has too many chunks");
  const packs = decodePacks(reader, decodeJobs(reader), Math.min(chunkCount, reader.room(entryBytes)));
  const chunks = PageChunks.read(reader, chunkCount, packs);
  reader.end();
  return { index, chunks };
}

/** Reads a page and checks that it is the one its name tells. Throws RepositoryDamaged when it is missing or damaged. */
export async function readPage(store: ObjectStore, domain: string, name: string): Promise<Page> {
  const key = domainKeys(domain).page(name);
  const bytes = await store.get(key, undefined, mostPageBytes);
  if (!bytes) throw new RepositoryDamaged(`The object ${key} is missing.`);
  if (sha256(bytes) !== parsePageName(name)?.sha256) {
    throw new RepositoryDamaged(`The object ${key} is damaged: it is not the page that its name tells.`);
  }
  return decodePage(bytes, key);
}
