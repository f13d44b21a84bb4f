/** Reads chunks out of packs: many neighbours in one request, and by the pack's own index when a page's location is wrong. */
import { RepositoryDamaged, UnsupportedFormat } from "../domain/errors.ts";
import { decodeChunk } from "./chunk.ts";
import { domainKeys } from "./layout.ts";
import type { ObjectStore } from "./object-store.ts";
import { decodePackFooter, decodePackIndex, type PackedChunk, packFooterBytes } from "./pack.ts";

/** A chunk to be read and the place in the volume that it is for. */
export interface WantedChunk {
  readonly hash: string;
  readonly pack: string;
  readonly offset: number;
  readonly length: number;
  readonly encoding: PackedChunk["encoding"];
  /** Bytes in the volume. */
  readonly volumeOffset: number;
  readonly volumeLength: number;
}

/** Neighbouring chunks of one pack that are read with one request. */
export interface PackRange {
  readonly pack: string;
  readonly offset: number;
  readonly length: number;
  readonly chunks: readonly WantedChunk[];
}

/** Reading this much for nothing costs less than another request. */
const worthwhileGap = 64 * 1024;
const maxRangeBytes = 4 * 1024 * 1024;

/** The requests that bring all of `wanted`. */
export function planRanges(wanted: readonly WantedChunk[]): PackRange[] {
  const sorted = wanted.toSorted((a, b) => (a.pack === b.pack ? a.offset - b.offset : a.pack < b.pack ? -1 : 1));
  const ranges: { pack: string; offset: number; length: number; chunks: WantedChunk[] }[] = [];
  for (const chunk of sorted) {
    const last = ranges.at(-1);
    if (last && joins(last, chunk)) {
      last.chunks.push(chunk);
      last.length = Math.max(last.length, chunk.offset + chunk.length - last.offset);
    } else {
      ranges.push({ pack: chunk.pack, offset: chunk.offset, length: chunk.length, chunks: [chunk] });
    }
  }
  return ranges;
}

function joins(range: { pack: string; offset: number; length: number }, chunk: WantedChunk): boolean {
  const gap = chunk.offset - (range.offset + range.length);
  return (
    range.pack === chunk.pack && gap <= worthwhileGap && chunk.offset + chunk.length - range.offset <= maxRangeBytes
  );
}

export class PackReader {
  readonly #store: ObjectStore;
  readonly #domain: string;

  constructor(store: ObjectStore, domain: string) {
    this.#store = store;
    this.#domain = domain;
  }

  /** Hands each chunk of the range to `take`, checked, or undefined when it is lost. */
  async read(
    range: PackRange,
    take: (chunk: WantedChunk, bytes: Uint8Array | undefined) => Promise<void>,
  ): Promise<void> {
    const key = domainKeys(this.#domain).pack(range.pack);
    const body = (await this.#store.get(key, { offset: range.offset, length: range.length })) ?? new Uint8Array();
    let index: Promise<ReadonlyMap<string, PackedChunk>> | undefined;
    for (const chunk of range.chunks) {
      const start = chunk.offset - range.offset;
      const expected = { hash: chunk.hash, length: chunk.volumeLength };
      const stored = { encoding: chunk.encoding, bytes: body.subarray(start, start + chunk.length) };
      let bytes = await decodeChunk(stored, expected);
      if (!bytes) {
        index ??= this.#index(range.pack);
        bytes = await this.#readByIndex(key, (await index).get(chunk.hash), expected);
      }
      await take(chunk, bytes);
    }
  }

  async #readByIndex(
    key: string,
    entry: PackedChunk | undefined,
    expected: { hash: string; length: number },
  ): Promise<Uint8Array | undefined> {
    if (!entry) return undefined;
    const bytes = await this.#store.get(key, { offset: entry.offset, length: entry.length });
    return bytes && decodeChunk({ encoding: entry.encoding, bytes }, expected);
  }

  /** What the pack says that it holds: nothing when it is missing or its index is damaged. */
  async #index(pack: string): Promise<ReadonlyMap<string, PackedChunk>> {
    try {
      const chunks = await readPackIndex(this.#store, domainKeys(this.#domain).pack(pack));
      return new Map(chunks.map((chunk) => [chunk.hash, chunk]));
    } catch (error) {
      if (error instanceof RepositoryDamaged || error instanceof UnsupportedFormat) return new Map();
      throw error;
    }
  }
}

/** The chunks that a pack lists. Throws RepositoryDamaged. */
export async function readPackIndex(store: ObjectStore, key: string): Promise<PackedChunk[]> {
  const head = await store.head(key);
  if (!head) throw new RepositoryDamaged(`The object ${key} is missing.`);
  if (head.size < packFooterBytes) throw new RepositoryDamaged(`The object ${key} is damaged: it ends too early.`);
  const footerOffset = head.size - packFooterBytes;
  const footer = decodePackFooter(await readExactly(store, key, footerOffset, packFooterBytes), key);
  const bodyBytes = footerOffset - footer.indexBytes;
  if (bodyBytes < 0) throw new RepositoryDamaged(`The object ${key} is damaged: its index is larger than itself.`);
  return decodePackIndex(await readExactly(store, key, bodyBytes, footer.indexBytes), footer, bodyBytes, key);
}

async function readExactly(store: ObjectStore, key: string, offset: number, length: number): Promise<Uint8Array> {
  const bytes = await store.get(key, { offset, length });
  if (bytes?.length !== length) throw new RepositoryDamaged(`The object ${key} is damaged: it ends too early.`);
  return bytes;
}
