/**
 * Writes a qcow2 file (version 3): clusters of 64 KiB, no compression, no backing file. Only clusters that are written take room, in
 * the order in which they come. Clusters are given out one after the other and never taken back, so that at the end each has exactly
 * one reference and the tables of references can be written in one go. https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.rst
 */
import type { FileHandle } from "node:fs/promises";
import { writeFully } from "./file-bytes.ts";

const clusterBits = 16;
const clusterBytes = 2 ** clusterBits;
const entryBytes = 8;
/** Entries of a cluster of the first or second table. */
const tableEntries = clusterBytes / entryBytes;
/** References of 16 bits. */
const referencesOfBlock = clusterBytes / 2;
/** QEMU counts in sectors. */
const sectorBytes = 512;
/** QEMU reads first tables of 32 MiB at most. */
const mostTables = (32 * 2 ** 20) / entryBytes;
/** The largest volume that a file can hold: 2 PiB. */
export const mostQcow2Bytes = mostTables * tableEntries * clusterBytes;
/** Second tables in memory, 64 KiB each: neighbouring pages of a volume are written at once, so few are in use. */
const tablesInMemory = 64;
/** The cluster belongs to nobody else: QEMU may write into it. */
const copiedFlag = 0x8000_0000;
const headerBytes = 104;

/** A second table: places of clusters in the file, 0 for those that were never written. */
interface Table {
  readonly places: Float64Array;
  changed: boolean;
}

export class Qcow2Image {
  readonly #file: FileHandle;
  readonly #sizeBytes: number;
  /** Places of second tables in the file. */
  readonly #first: Float64Array;
  /** The most recently used comes last. */
  readonly #tables = new Map<number, Table>();
  #nextCluster: number;
  #turn: Promise<unknown> = Promise.resolve();

  /** An empty file. `sizeBytes` of the volume are rounded up to whole sectors. Throws RangeError above {@link mostQcow2Bytes}. */
  constructor(file: FileHandle, sizeBytes: number) {
    if (sizeBytes > mostQcow2Bytes) throw new RangeError(`A qcow2 file holds ${mostQcow2Bytes} bytes at most.`);
    this.#file = file;
    this.#sizeBytes = Math.ceil(sizeBytes / sectorBytes) * sectorBytes;
    this.#first = new Float64Array(Math.max(1, Math.ceil(sizeBytes / (tableEntries * clusterBytes))));
    this.#nextCluster = 1 + this.#firstTableClusters;
  }

  get #firstTableClusters(): number {
    return Math.ceil(this.#first.length / tableEntries);
  }

  /** Writes of different bytes may overlap in time. What of a cluster is never written is zeros. */
  async write(data: Uint8Array, offset: number): Promise<void> {
    for (const { start, end, place } of await this.#exclusively(() => this.#placesOf(offset, data.length)))
      await writeFully(this.#file, data.subarray(start, end), place);
  }

  /** One at a time: a table that is read back must not be read twice. */
  #exclusively<Result>(work: () => Promise<Result>): Promise<Result> {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => undefined);
    return result;
  }

  /** Where each part of `length` bytes at `offset` goes in the file; neighbours there are one part. */
  async #placesOf(offset: number, length: number): Promise<{ start: number; end: number; place: number }[]> {
    const parts: { start: number; end: number; place: number }[] = [];
    for (let at = 0; at < length; ) {
      const within = (offset + at) % clusterBytes;
      const step = Math.min(clusterBytes - within, length - at);
      const place = (await this.#placeOf(Math.floor((offset + at) / clusterBytes))) + within;
      const last = parts.at(-1);
      if (last && last.place + (last.end - last.start) === place) last.end += step;
      else parts.push({ start: at, end: at + step, place });
      at += step;
    }
    return parts;
  }

  /** The place of a cluster of the volume, which it is given at its first write. */
  async #placeOf(cluster: number): Promise<number> {
    const table = await this.#table(Math.floor(cluster / tableEntries));
    const entry = cluster % tableEntries;
    if (table.places[entry] === 0) {
      table.places[entry] = this.#takeCluster();
      table.changed = true;
    }
    return table.places[entry]!;
  }

  #takeCluster(): number {
    return this.#nextCluster++ * clusterBytes;
  }

  async #table(index: number): Promise<Table> {
    const table = this.#tables.get(index) ?? (await this.#loadTable(index));
    this.#tables.delete(index);
    this.#tables.set(index, table);
    for (const [oldest, evicted] of this.#tables) {
      if (this.#tables.size <= tablesInMemory) break;
      await this.#storeTable(oldest, evicted);
      this.#tables.delete(oldest);
    }
    return table;
  }

  async #loadTable(index: number): Promise<Table> {
    if (this.#first[index] === 0) {
      this.#first[index] = this.#takeCluster();
      return { places: new Float64Array(tableEntries), changed: true };
    }
    const bytes = Buffer.alloc(clusterBytes);
    await this.#file.read(bytes, 0, clusterBytes, this.#first[index]);
    const places = Float64Array.from({ length: tableEntries }, (_, entry) => decodePlace(bytes, entry));
    return { places, changed: false };
  }

  async #storeTable(index: number, table: Table): Promise<void> {
    if (table.changed) await writeFully(this.#file, encodePlaces(table.places), this.#first[index]!);
    table.changed = false;
  }

  /** Writes the tables, and last the header: before that the file is no qcow2 file. */
  async flush(): Promise<void> {
    await this.#exclusively(async () => {
      for (const [index, table] of this.#tables) await this.#storeTable(index, table);
      await writeFully(this.#file, encodePlaces(this.#first), clusterBytes);
      const references = await this.#writeReferences();
      await this.#file.truncate(references.end);
      await writeFully(this.#file, this.#header(references), 0);
    });
  }

  /** Blocks of references and the table of these blocks stand behind all else, and count themselves. */
  async #writeReferences(): Promise<{ table: number; tableClusters: number; end: number }> {
    const before = this.#nextCluster;
    let blocks = 0;
    let tableClusters = 0;
    let clusters = before;
    for (let counted = -1; counted !== clusters; ) {
      counted = clusters;
      blocks = Math.ceil(clusters / referencesOfBlock);
      tableClusters = Math.ceil(blocks / tableEntries);
      clusters = before + blocks + tableClusters;
    }
    for (let block = 0; block < blocks; block++) {
      const references = Buffer.alloc(clusterBytes);
      const used = Math.min(referencesOfBlock, clusters - block * referencesOfBlock);
      for (let at = 0; at < used; at++) references.writeUInt16BE(1, at * 2);
      await writeFully(this.#file, references, (before + block) * clusterBytes);
    }
    const table = (before + blocks) * clusterBytes;
    const places = Buffer.alloc(tableClusters * clusterBytes);
    for (let block = 0; block < blocks; block++)
      places.writeBigUInt64BE(BigInt((before + block) * clusterBytes), block * entryBytes);
    await writeFully(this.#file, places, table);
    return { table, tableClusters, end: clusters * clusterBytes };
  }

  /** The rest of the first cluster is zeros: no extensions. */
  #header({ table, tableClusters }: { table: number; tableClusters: number }): Buffer {
    const header = Buffer.alloc(headerBytes);
    header.write("QFI\u00fb", 0, "latin1");
    header.writeUInt32BE(3, 4);
    header.writeUInt32BE(clusterBits, 20);
    header.writeBigUInt64BE(BigInt(this.#sizeBytes), 24);
    header.writeUInt32BE(this.#first.length, 36);
    header.writeBigUInt64BE(BigInt(clusterBytes), 40);
    header.writeBigUInt64BE(BigInt(table), 48);
    header.writeUInt32BE(tableClusters, 56);
    // 2^4 bits for each reference.
    header.writeUInt32BE(4, 96);
    header.writeUInt32BE(headerBytes, 100);
    return header;
  }
}

function encodePlaces(places: Float64Array): Buffer {
  const bytes = Buffer.alloc(places.length * entryBytes);
  for (const [entry, place] of places.entries()) {
    if (place === 0) continue;
    bytes.writeUInt32BE(Math.floor(place / 2 ** 32) + copiedFlag, entry * entryBytes);
    bytes.writeUInt32BE(place % 2 ** 32, entry * entryBytes + 4);
  }
  return bytes;
}

function decodePlace(bytes: Buffer, entry: number): number {
  const high = bytes.readUInt32BE(entry * entryBytes) % copiedFlag;
  return high * 2 ** 32 + bytes.readUInt32BE(entry * entryBytes + 4);
}
