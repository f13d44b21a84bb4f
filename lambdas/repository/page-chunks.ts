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
    return isOwn ? this.#locations?.[position] !== undefined : this.#stored!.positions.has(position);
  }

  /** How many are not zeros. */
  count(): number {
    return this.#present().count();
  }

  #present(): Bitmap {
    const present = this.#stored?.positions.without(this.#own, this.length) ?? new Bitmap(this.length);
    for (const position of this.#own.indexes()) if (this.#locations?.[position]) present.set(position);
    return present;
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
    for (const position of isShared ? this.#own.indexes() : Array(this.length).keys())
      if (!isSameLocation(this.at(position), others.at(position))) return false;
    return true;
  }

  /** Names of the packs that these lie in. */
  packs(): Set<string> {
    const packs = new Set<string>();
    this.#visit({ own: ({ pack }) => packs.add(pack), stored: (from, to) => this.#stored?.addPacks(packs, from, to) });
    return packs;
  }

  /** Which are stored, and these, as a page's object has them. `numbers` are those of the packs. */
  encode(numbers: ReadonlyMap<string, number>): { readonly stored: Bitmap; readonly entries: Buffer } {
    const stored = this.#present();
    const entries = Buffer.allocUnsafe(stored.count() * entryBytes);
    const copy = this.#stored?.copier(numbers, entries);
    let start = 0;
    this.#visit({
      own: (location) => {
        encodeEntry(location, numbers.get(location.pack)!, entries, start);
        start += entryBytes;
      },
      stored: (from, to) => {
        copy?.(from, to, start);
        start += (to - from) * entryBytes;
      },
    });
    return { stored, entries };
  }

  /** Goes through what is not zeros, in order. Of the object below by entries, from one to before another: most are between two of our own. */
  #visit(visitor: { own(location: ChunkLocation): void; stored(from: number, to: number): void }): void {
    let from = 0;
    for (const position of this.#own.indexes()) {
      const to = this.#stored?.entriesBefore(position) ?? 0;
      if (to > from) visitor.stored(from, to);
      from = this.#stored?.entriesBefore(position + 1) ?? 0;
      const location = this.#locations?.[position];
      if (location) visitor.own(location);
    }
    const end = this.#stored?.entriesBefore(this.length) ?? 0;
    if (end > from) visitor.stored(from, end);
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
  readonly positions: Bitmap;
  readonly #entries: Buffer;
  readonly #view: DataView;
  readonly #packs: readonly string[];
  /** For each position how many entries are of positions before it; for one that has an entry that is its number. */
  readonly #before: Uint32Array;
  readonly #index: HashIndex;
  /** Those that were asked for, by their entries. */
  readonly #made: ChunkLocation[] = [];

  constructor(reader: ByteReader, length: number, packs: readonly string[]) {
    this.positions = new Bitmap(length, reader.bytes(Bitmap.bytesFor(length)));
    this.#packs = packs;
    this.#before = new Uint32Array(length + 1);
    for (let position = 0; position < length; position++)
      this.#before[position + 1] = this.#before[position]! + (this.positions.has(position) ? 1 : 0);
    this.#entries = reader.bytes(this.#before[length]! * entryBytes);
    this.#view = viewOf(this.#entries);
    for (let start = 0; start < this.#entries.length; start += entryBytes) {
      const isProper = this.#packAt(start) < packs.length && isEncoding(this.#entries[start + encodingAt]!);
      if (!isProper) throw reader.damaged("a chunk in it has no proper location");
    }
    this.#index = new HashIndex(this.#entries);
  }

  at(position: number): ChunkLocation | undefined {
    return this.positions.has(position) ? this.#locationAt(this.#before[position]!) : undefined;
  }

  /** How many entries are of positions before this one. */
  entriesBefore(position: number): number {
    return this.#before[Math.min(position, this.positions.length)]!;
  }

  /** Adds the packs of entries. */
  addPacks(packs: Set<string>, from: number, to: number): void {
    for (let entry = from; entry < to; entry++) packs.add(this.#packs[this.#packAt(entry * entryBytes)]!);
  }

  find(hash: string): ChunkLocation | undefined {
    const entry = this.#index.find(hash);
    return entry === undefined ? undefined : this.#locationAt(entry);
  }

  /** Copies entries to a place in `target`, where their packs have these numbers. */
  copier(numbers: ReadonlyMap<string, number>, target: Buffer): (from: number, to: number, start: number) => void {
    const renumbered = this.#packs.map((pack) => numbers.get(pack) ?? 0);
    const view = viewOf(target);
    return (from, to, start) => {
      target.set(this.#entries.subarray(from * entryBytes, to * entryBytes), start);
      for (let entry = from, at = start + packAt; entry < to; entry++, at += entryBytes)
        view.setUint32(at, renumbered[this.#packAt(entry * entryBytes)]!, true);
    };
  }

  /** The number of the pack of the entry that begins at `start`. */
  #packAt(start: number): number {
    return this.#view.getUint32(start + packAt, true);
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
      pack: this.#packs[this.#packAt(start)]!,
      offset: this.#view.getUint32(start + offsetAt, true),
      length: this.#view.getUint32(start + lengthAt, true),
      encoding,
    };
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Finds entries by chunk id: a table with open addressing, made with the first question. */
class HashIndex {
  readonly #entries: Buffer;
  readonly #view: DataView;
  /** Entries by their numbers plus one; 0 is a free place. */
  #places: Uint32Array | undefined;

  constructor(entries: Buffer) {
    this.#entries = entries;
    this.#view = viewOf(entries);
  }

  find(hash: string): number | undefined {
    this.#places ??= this.#build();
    const mask = this.#places.length - 1;
    const beginning = Number.parseInt(hash.slice(0, 8), 16);
    for (let place = beginning & mask; ; place = (place + 1) & mask) {
      const entry = this.#places[place]! - 1;
      if (entry < 0) return undefined;
      const start = entry * entryBytes;
      const mayBe = this.#beginningAt(start) === beginning;
      if (mayBe && this.#entries.toString("hex", start, start + hashBytes) === hash) return entry;
    }
  }

  /** At least half of the places are free. */
  #build(): Uint32Array {
    const count = this.#entries.length / entryBytes;
    const places = new Uint32Array(2 ** Math.ceil(Math.log2(count * 2 + 1)));
    const mask = places.length - 1;
    for (let entry = 0; entry < count; entry++) {
      let place = this.#beginningAt(entry * entryBytes) & mask;
      while (places[place] !== 0) place = (place + 1) & mask;
      places[place] = entry + 1;
    }
    return places;
  }

  /** The first eight digits of an entry's id, as a number. */
  #beginningAt(start: number): number {
    return this.#view.getUint32(start);
  }
}
