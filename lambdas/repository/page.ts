/** A page: what a run of the volume's chunks consists of and where each of them lies. Immutable, named by its own hash. */
import { RepositoryDamaged } from "../domain/errors.ts";
import { ByteWriter, hashBytes, seal, sha256, unseal } from "./binary.ts";
import { Bitmap } from "./bitmap.ts";
import { isEncoding } from "./chunk.ts";
import { domainKeys, parsePageName } from "./layout.ts";
import type { ObjectStore } from "./object-store.ts";
import type { PackedChunk } from "./pack.ts";
import { decodeJobs, decodePacks, encodeJobs, encodePacks, jobsOfPacks } from "./pack-table.ts";

/** A chunk and the pack where it was put. The location is a hint, the index in the pack is the truth. */
export interface ChunkLocation extends PackedChunk {
  /** Name of the pack, see `formatPackName`. */
  readonly pack: string;
}

export interface Page {
  /** Position of the page in the volume, in pages. */
  readonly index: number;
  /** One for each chunk of the page; undefined is a chunk of zeros. */
  readonly chunks: readonly (ChunkLocation | undefined)[];
}

/** id, pack u32, offset u32, length u32, encoding u8 */
const storedChunkBytes = hashBytes + 4 + 4 + 4 + 1;

/** Upper bound of chunks in a page of any domain. */
export const maxPageChunks = 65_536;

/** 65,536 chunks of 45 bytes, each in a pack of its own (32 bytes) by a job of its own (130 bytes): 13 MiB. Sweeps read 16 pages at once. */
const mostPageBytes = 16 * 1024 * 1024;

export function sameLocation(a: ChunkLocation | undefined, b: ChunkLocation | undefined): boolean {
  if (a === b) return true;
  return a?.hash === b?.hash && a?.pack === b?.pack && a?.offset === b?.offset;
}

export function encodePage(page: Page): Buffer {
  const packs = packsOfPage(page);
  const writer = new ByteWriter().u32(page.index).u32(page.chunks.length);
  const numbers = encodePacks(writer, packs, encodeJobs(writer, jobsOfPacks(packs)));
  writer.bytes(Bitmap.of(page.chunks.length, (at) => page.chunks[at] !== undefined).bytes);
  for (const chunk of page.chunks) {
    if (!chunk) continue;
    writer.hex(chunk.hash).u32(numbers.get(chunk.pack)!).u32(chunk.offset).u32(chunk.length).u8(chunk.encoding);
  }
  return seal("page", writer.finish());
}

/** Names of the packs that a page refers to. */
export function packsOfPage(page: Page): Set<string> {
  const packs = new Set<string>();
  for (const chunk of page.chunks) if (chunk) packs.add(chunk.pack);
  return packs;
}

/** Throws RepositoryDamaged. */
export function decodePage(bytes: Uint8Array, name: string): Page {
  const reader = unseal("page", bytes, name);
  const index = reader.u32();
  const chunkCount = reader.u32();
  if (chunkCount > maxPageChunks) throw reader.damaged("it has too many chunks");
  const packs = decodePacks(reader, decodeJobs(reader), Math.min(chunkCount, reader.room(storedChunkBytes)));
  const stored = new Bitmap(chunkCount, reader.bytes(Bitmap.bytesFor(chunkCount)));
  const chunks = Array.from({ length: chunkCount }, (_, at) => {
    if (!stored.has(at)) return undefined;
    const hash = reader.hex(hashBytes);
    const pack = packs[reader.u32()];
    const offset = reader.u32();
    const length = reader.u32();
    const encoding = reader.u8();
    if (pack === undefined || !isEncoding(encoding)) throw reader.damaged("a chunk in it has no proper location");
    return { hash, pack, offset, length, encoding };
  });
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
