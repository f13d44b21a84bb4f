/** Reads chunks out of packs: many neighbours in one request, and by the pack's own index when a page's location is wrong. */
import { RepositoryDamaged } from "../domain/errors.ts";
import { decodeChunks } from "./codec.ts";
import { CompactedPacks } from "./compacted-packs.ts";
import type { LostRange } from "./damage.ts";
import { type DomainCipher, tagBytes } from "./domain-cipher.ts";
import { domainKeys } from "./layout.ts";
import { chunkLength, type Root } from "./manifest.ts";
import { borrowShared, returnShared } from "./memory.ts";
import type { ObjectStore } from "./object-store.ts";
import { decodePackFooter, decodePackIndex, type PackedChunk, packFooterBytes } from "./pack.ts";
import type { Page } from "./page.ts";
import { isDamage } from "./tree.ts";

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

/** Bytes of a volume that were read and checked. */
export interface VolumeSpan {
  readonly volumeOffset: number;
  /** To be used before `read` returns: the memory serves the next range. */
  readonly bytes: Uint8Array;
}

/** Reading this much for nothing costs less than another request. */
const worthwhileGap = 64 * 1024;
const maxRangeBytes = 2 * 1024 * 1024;
/** What a range may unpack to, so that text or repetitions do not take the memory of the whole copy. */
const maxUnpackedBytes = 6 * 1024 * 1024;

/** The chunks of a page as they are to be read. */
export function wantedChunks(page: Page, volume: Pick<Root, "sizeBytes" | "chunkBytes" | "pageChunks">): WantedChunk[] {
  const firstChunk = page.index * volume.pageChunks;
  return [...page.chunks].flatMap((chunk, index) => {
    if (!chunk) return [];
    const volumeLength = chunkLength(firstChunk + index, volume);
    const length = Math.min(chunk.length, volumeLength + tagBytes);
    return [{ ...chunk, length, volumeOffset: (firstChunk + index) * volume.chunkBytes, volumeLength }];
  });
}

/** A lost chunk in the words of an error. */
export function lostChunk(domain: string, chunk: WantedChunk): LostRange {
  return { offset: chunk.volumeOffset, length: chunk.volumeLength, object: domainKeys(domain).pack(chunk.pack) };
}

/** The requests that bring all of `wanted`. */
export function planRanges(wanted: readonly WantedChunk[]): PackRange[] {
  const sorted = wanted.toSorted((a, b) => (a.pack === b.pack ? a.offset - b.offset : a.pack < b.pack ? -1 : 1));
  const ranges: { pack: string; offset: number; length: number; unpacked: number; chunks: WantedChunk[] }[] = [];
  for (const chunk of sorted) {
    const last = ranges.at(-1);
    if (last && joins(last, chunk)) {
      last.chunks.push(chunk);
      last.length = Math.max(last.length, chunk.offset + chunk.length - last.offset);
      last.unpacked += chunk.volumeLength;
    } else {
      const { pack, offset, length, volumeLength: unpacked } = chunk;
      ranges.push({ pack, offset, length, unpacked, chunks: [chunk] });
    }
  }
  return ranges;
}

function joins(range: { pack: string; offset: number; length: number; unpacked: number }, chunk: WantedChunk): boolean {
  const gap = chunk.offset - (range.offset + range.length);
  const length = chunk.offset + chunk.length - range.offset;
  const fits = length <= maxRangeBytes && range.unpacked + chunk.volumeLength <= maxUnpackedBytes;
  return range.pack === chunk.pack && gap <= worthwhileGap && fits;
}

export class PackReader {
  readonly #store: ObjectStore;
  readonly #domain: string;
  readonly #cipher: DomainCipher | undefined;
  readonly #compacted: CompactedPacks;

  constructor(location: { readonly store: ObjectStore; readonly domain: string }, cipher: DomainCipher | undefined) {
    this.#store = location.store;
    this.#domain = location.domain;
    this.#cipher = cipher;
    this.#compacted = new CompactedPacks(location);
  }

  /** Hands what it read to `take`, checked, in as few pieces as possible; answers the chunks that are lost. */
  async read(range: PackRange, take: (span: VolumeSpan) => Promise<void>): Promise<WantedChunk[]> {
    const { stored, unpacked, release } = memoryFor(range);
    const { found, isMissing } = await this.#decode(range, stored, unpacked);
    for (const span of spansOf(range.chunks, found, unpacked)) await take(span);
    // Not after a failure: a write that was given up may still be on its way, and must not come to carry the bytes of another range.
    release();
    const missing = range.chunks.filter((_, at) => !found[at]);
    const lost: WantedChunk[] = [];
    const recovery = new Recovery(this, range.pack, isMissing);
    for (const chunk of missing) {
      const bytes = await recovery.chunk(chunk);
      if (bytes) await take({ volumeOffset: chunk.volumeOffset, bytes });
      else lost.push(chunk);
    }
    return lost;
  }

  /** Reads into `into` and unpacks into `output`; tells which of the chunks are there. Of the pack, or of what is left of it; or of that alone. */
  async #decode(
    range: PackRange,
    into: Uint8Array,
    output: Uint8Array<SharedArrayBuffer>,
    { compacted = false } = {},
  ): Promise<{ found: boolean[]; isMissing: boolean }> {
    const key = domainKeys(this.#domain).pack(range.pack);
    const place = { offset: range.offset, length: range.length, into };
    const whole = compacted ? undefined : await this.#store.get(key, place);
    const stored = whole ?? (await this.#compacted.read(range.pack, place));
    if (!stored) return { found: range.chunks.map(() => false), isMissing: true };
    let outputOffset = 0;
    const pieces = range.chunks.map(({ offset, length, encoding, hash, volumeLength }) => {
      const piece = { offset: offset - range.offset, length, encoding, hash, outputOffset, outputLength: volumeLength };
      outputOffset += volumeLength;
      return piece;
    });
    const found = await decodeChunks({
      stored,
      packOffset: range.offset,
      pieces,
      output,
      packKey: this.#cipher?.packKey(range.pack),
      chunkIdKey: this.#cipher?.chunkIdKey,
    });
    return { found, isMissing: false };
  }

  /** The chunk at one place in a pack, or undefined when it is not there. */
  async readOne(
    pack: string,
    place: PackedChunk,
    volumeLength: number,
    from?: { readonly compacted: boolean },
  ): Promise<Uint8Array | undefined> {
    const { offset } = place;
    const length = Math.min(place.length, volumeLength + tagBytes);
    const stored = new Uint8Array(new SharedArrayBuffer(length));
    const unpacked = new Uint8Array(new SharedArrayBuffer(volumeLength));
    const chunk = { ...place, length, pack, volumeOffset: 0, volumeLength };
    const { found } = await this.#decode({ pack, offset, length, chunks: [chunk] }, stored, unpacked, from);
    return found[0] ? unpacked : undefined;
  }

  /** What the pack, or else its newest compacted form, says that it holds: nothing when it is missing or its index is damaged. */
  async index(pack: string): Promise<ReadonlyMap<string, PackedChunk>> {
    const chunks = await readPackIndex(this.#store, domainKeys(this.#domain).pack(pack)).catch((error: unknown) => {
      if (isDamage(error)) return this.#compacted.index(pack);
      throw error;
    });
    return byHash(chunks);
  }

  /** What the pack's newest compacted form says that it holds: nothing when there is none. */
  async compactedIndex(pack: string): Promise<ReadonlyMap<string, PackedChunk>> {
    return byHash(await this.#compacted.index(pack));
  }
}

function byHash(chunks: readonly PackedChunk[]): ReadonlyMap<string, PackedChunk> {
  return new Map(chunks.map((chunk) => [chunk.hash, chunk]));
}

/** Room for a range as it is stored and unpacked. Only a chunk that is larger than all that this version writes needs more than the usual. */
function memoryFor({ length, chunks }: PackRange): {
  stored: Uint8Array;
  unpacked: Uint8Array<SharedArrayBuffer>;
  release(): void;
} {
  const unpackedBytes = chunks.reduce((sum, { volumeLength }) => sum + volumeLength, 0);
  const isUsual = length <= maxRangeBytes && unpackedBytes <= maxUnpackedBytes;
  const memory = isUsual
    ? borrowShared(maxRangeBytes + maxUnpackedBytes)
    : new SharedArrayBuffer(length + unpackedBytes);
  return {
    stored: new Uint8Array(memory, 0, length),
    unpacked: new Uint8Array(memory, memory.byteLength - unpackedBytes),
    release: () => isUsual && returnShared(memory),
  };
}

/** The chunks side by side in the volume as one span each. */
function* spansOf(
  chunks: readonly WantedChunk[],
  found: readonly boolean[],
  unpacked: Uint8Array,
): Generator<VolumeSpan> {
  let span: { volumeOffset: number; from: number; to: number } | undefined;
  let position = 0;
  for (const [at, { volumeOffset, volumeLength }] of chunks.entries()) {
    const continues = span !== undefined && span.volumeOffset + (span.to - span.from) === volumeOffset;
    if (span && !(found[at] && continues)) {
      yield { volumeOffset: span.volumeOffset, bytes: unpacked.subarray(span.from, span.to) };
      span = undefined;
    }
    if (found[at])
      span = {
        volumeOffset: span?.volumeOffset ?? volumeOffset,
        from: span?.from ?? position,
        to: position + volumeLength,
      };
    position += volumeLength;
  }
  if (span) yield { volumeOffset: span.volumeOffset, bytes: unpacked.subarray(span.from, span.to) };
}

/**
 * A second look at chunks that were not what their page says: at the same place again, then where the pack's own index has them, then in a compacted form
 * of the pack. Both are there where a pack is still under Object Lock, or a sweep has died.
 */
class Recovery {
  readonly #packs: PackReader;
  readonly #pack: string;
  readonly #isMissing: boolean;
  #index: Promise<ReadonlyMap<string, PackedChunk>> | undefined;
  #compacted: Promise<ReadonlyMap<string, PackedChunk>> | undefined;

  constructor(packs: PackReader, pack: string, isMissing: boolean) {
    this.#packs = packs;
    this.#pack = pack;
    this.#isMissing = isMissing;
  }

  async chunk(chunk: WantedChunk): Promise<Uint8Array | undefined> {
    const again = this.#isMissing ? undefined : await this.#packs.readOne(this.#pack, chunk, chunk.volumeLength);
    if (again) return again;
    this.#index ??= this.#packs.index(this.#pack);
    const entry = (await this.#index).get(chunk.hash);
    const moved = entry && (await this.#packs.readOne(this.#pack, entry, chunk.volumeLength));
    if (moved || this.#isMissing) return moved;
    this.#compacted ??= this.#packs.compactedIndex(this.#pack);
    const left = (await this.#compacted).get(chunk.hash);
    return left && this.#packs.readOne(this.#pack, left, chunk.volumeLength, { compacted: true });
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
