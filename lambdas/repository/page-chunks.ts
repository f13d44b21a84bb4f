/**
 * The chunks of a page. Those that come from a page's object stay as they lie in it, and are made out when they are asked for: an incremental backup asks
 * for few of them and hands on the others.
 */
import { type ByteReader, hashBytes } from "./binary.ts";
import { Bitmap } from "./bitmap.ts";
import { isEncoding } from "./chunk.ts";
import type { PackedChunk } from "./pack.ts";

/** A chunk and the pack where it was put. The location is a hint, the index in the pack is the truth. */
export interface ChunkLocation extends PackedChunk {
  /** Name of the pack, see `formatPackName`. */
  readonly pack: string;
}

const packAt = hashBytes;
const offsetAt = packAt + 4;
const lengthAt = offsetAt + 4;
const encodingAt = lengthAt + 4;
/** id, pack u32, offset u32, length u32, encoding u8 */
export const entryBytes = encodingAt + 1;

export class PageChunks implements Iterable<ChunkLocation | undefined> {
  readonly length: number;
  /** Of the object below, for all positions but {@link #own}. */
  readonly #stored: StoredChunks | undefined;
  readonly #own: Bitmap;
  #locations: (ChunkLocation | undefined)[] | undefined;

  private constructor(length: number, stored?: StoredChunks, own = new Bitmap(length)) {
    this.length = length;
    this.#stored = stored;
    this.#own = own;
  }

  /** Zeros, until they are {@link set}. */
  static zeros(length: number): PageChunks {
    return new PageChunks(length);
  }

  /** `length` chunks from a page's object: which are stored, and these. Throws RepositoryDamaged when one of them lies in none of the packs. */
  static read(reader: ByteReader, length: number, packs: readonly string[]): PageChunks {
    return new PageChunks(length, new StoredChunks(reader, length, packs));
  }

  /** As many as `except` has bits: these, of an object, and zeros at the positions of `except` until they are {@link set}. */
  without(except: Bitmap): PageChunks {
    return new PageChunks(except.length, this.#stored, new Bitmap(except.length, Buffer.from(except.bytes)));
  }

  has(position: number): boolean {
    const isOwn = !this.#stored || this.#own.has(position);
    return isOwn ? this.#locations?.[position] !== undefined : this.#stored!.has(position);
  }

  /** How many are not zeros. */
  count(): number {
    let count = 0;
    for (let position = 0; position < this.length; position++) if (this.has(position)) count += 1;
    return count;
  }

  /** Undefined is a chunk of zeros. */
  at(position: number): ChunkLocation | undefined {
    const isOwn = !this.#stored || this.#own.has(position);
    return isOwn ? this.#locations?.[position] : this.#stored!.at(position);
  }

  set(position: number, location: ChunkLocation | undefined): void {
    this.#locations ??= new Array(this.length);
    this.#own.set(position);
    this.#locations[position] = location;
  }

  *[Symbol.iterator](): Generator<ChunkLocation | undefined> {
    for (let position = 0; position < this.length; position++) yield this.at(position);
  }

  /** Where the chunk with that id lies, if it is in the object that these come from. */
  find(hash: string): ChunkLocation | undefined {
    return this.#stored?.find(hash);
  }

  /** Whether all of these are as in `others`, which are of an object, and lie in the same places. */
  areLike(others: PageChunks): boolean {
    if (this.length !== others.length) return false;
    const isShared = this.#stored === others.#stored;
    for (let position = 0; position < this.length; position++) {
      if (isShared && !this.#own.has(position)) continue;
      if (!isSameLocation(this.at(position), others.at(position))) return false;
    }
    return true;
  }

  /** Names of the packs that these lie in. */
  packs(): Set<string> {
    const packs = new Set<string>();
    for (const location of this.#locations ?? []) if (location) packs.add(location.pack);
    this.#stored?.addPacks(packs, this.#own);
    return packs;
  }

  /** Which are stored, and these, as a page's object has them. `numbers` are those of the packs. */
  encode(numbers: ReadonlyMap<string, number>): { readonly stored: Bitmap; readonly entries: Buffer } {
    const stored = new Bitmap(this.length);
    const entries = Buffer.allocUnsafe(this.count() * entryBytes);
    const copy = this.#stored?.copier(numbers);
    let start = 0;
    for (let position = 0; position < this.length; position++) {
      if (!this.has(position)) continue;
      stored.set(position);
      const location = this.#locations?.[position];
      if (location) encodeEntry(location, numbers.get(location.pack)!, entries, start);
      else copy!(position, entries, start);
      start += entryBytes;
    }
    return { stored, entries };
  }
}

function isSameLocation(a: ChunkLocation | undefined, b: ChunkLocation | undefined): boolean {
  if (a === b) return true;
  return a?.hash === b?.hash && a?.pack === b?.pack && a?.offset === b?.offset;
}

function encodeEntry(
  { hash, offset, length, encoding }: ChunkLocation,
  pack: number,
  into: Buffer,
  start: number,
): void {
  into.write(hash, start, "hex");
  into.writeUInt32LE(pack, start + packAt);
  into.writeUInt32LE(offset, start + offsetAt);
  into.writeUInt32LE(length, start + lengthAt);
  into.writeUInt8(encoding, start + encodingAt);
}

/** As they lie in a page's object. */
class StoredChunks {
  readonly #stored: Bitmap;
  readonly #entries: Buffer;
  readonly #packs: readonly string[];
  /** For each position the number of its entry, where it has one. */
  readonly #entryOf: Uint32Array;
  readonly #index: HashIndex;
  /** Those that were asked for, by their entries. */
  readonly #made: ChunkLocation[] = [];

  constructor(reader: ByteReader, length: number, packs: readonly string[]) {
    this.#stored = new Bitmap(length, reader.bytes(Bitmap.bytesFor(length)));
    this.#entryOf = new Uint32Array(length);
    this.#packs = packs;
    const positions = this.#stored.indexes();
    this.#entries = reader.bytes(positions.length * entryBytes);
    for (const [entry, position] of positions.entries()) {
      this.#entryOf[position] = entry;
      const start = entry * entryBytes;
      const isProper =
        this.#entries.readUInt32LE(start + packAt) < packs.length && isEncoding(this.#entries[start + encodingAt]!);
      if (!isProper) throw reader.damaged("a chunk in it has no proper location");
    }
    this.#index = new HashIndex(this.#entries);
  }

  has(position: number): boolean {
    return this.#stored.has(position);
  }

  at(position: number): ChunkLocation | undefined {
    return this.#stored.has(position) ? this.#locationAt(this.#entryOf[position]!) : undefined;
  }

  /** The packs of as many positions as `except` has, but for those. */
  addPacks(packs: Set<string>, except: Bitmap): void {
    const isNeeded = new Uint8Array(this.#packs.length);
    for (let position = 0; position < except.length; position++) {
      if (!this.#stored.has(position) || except.has(position)) continue;
      isNeeded[this.#entries.readUInt32LE(this.#entryOf[position]! * entryBytes + packAt)] = 1;
    }
    for (let pack = 0; pack < isNeeded.length; pack++) if (isNeeded[pack]) packs.add(this.#packs[pack]!);
  }

  find(hash: string): ChunkLocation | undefined {
    const entry = this.#index.find(hash);
    return entry === undefined ? undefined : this.#locationAt(entry);
  }

  /** Copies single entries to where their packs have these numbers. */
  copier(numbers: ReadonlyMap<string, number>): (position: number, into: Buffer, start: number) => void {
    const renumbered = this.#packs.map((pack) => numbers.get(pack) ?? 0);
    return (position, into, start) => {
      const from = this.#entryOf[position]! * entryBytes;
      this.#entries.copy(into, start, from, from + entryBytes);
      into.writeUInt32LE(renumbered[this.#entries.readUInt32LE(from + packAt)]!, start + packAt);
    };
  }

  #locationAt(entry: number): ChunkLocation {
    this.#made[entry] ??= this.#make(entry);
    return this.#made[entry];
  }

  #make(entry: number): ChunkLocation {
    const start = entry * entryBytes;
    const encoding = this.#entries[start + encodingAt]!;
    if (!isEncoding(encoding)) throw new TypeError("The entry was checked.");
    return {
      hash: this.#entries.toString("hex", start, start + hashBytes),
      pack: this.#packs[this.#entries.readUInt32LE(start + packAt)]!,
      offset: this.#entries.readUInt32LE(start + offsetAt),
      length: this.#entries.readUInt32LE(start + lengthAt),
      encoding,
    };
  }
}

/** Finds entries by chunk id: a table with open addressing, made with the first question. */
class HashIndex {
  readonly #entries: Buffer;
  /** Entries by their numbers plus one; 0 is a free place. */
  #places: Uint32Array | undefined;

  constructor(entries: Buffer) {
    this.#entries = entries;
  }

  find(hash: string): number | undefined {
    this.#places ??= this.#build();
    const mask = this.#places.length - 1;
    for (let place = Number.parseInt(hash.slice(0, 8), 16) & mask; ; place = (place + 1) & mask) {
      const entry = this.#places[place]! - 1;
      if (entry < 0) return undefined;
      const start = entry * entryBytes;
      if (this.#entries.toString("hex", start, start + hashBytes) === hash) return entry;
    }
  }

  /** At least half of the places are free. */
  #build(): Uint32Array {
    const count = this.#entries.length / entryBytes;
    const places = new Uint32Array(2 ** Math.ceil(Math.log2(count * 2 + 1)));
    const mask = places.length - 1;
    for (let entry = 0; entry < count; entry++) {
      let place = this.#entries.readUInt32BE(entry * entryBytes) & mask;
      while (places[place] !== 0) place = (place + 1) & mask;
      places[place] = entry + 1;
    }
    return places;
  }
}
