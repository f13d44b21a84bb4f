/** Which chunks of some packs are live, in bounded memory: known from the pages that refer to them. */
import type { ChunkLocation } from "./page-chunks.ts";

/** Chunks that are held at once: each takes some 28 to 56 bytes in its map. */
const maxHeldChunks = 1_000_000;

/** What pages say of a pack's chunks. */
export class LivePack {
  /** The beginning of each chunk's id, by offset: tells a page that has another chunk there than the pack's index. */
  readonly #chunks = new Map<number, number>();
  /** As they are stored, each chunk once. */
  bytes = 0;

  /** How many chunks. */
  get size(): number {
    return this.#chunks.size;
  }

  /** Answers whether the chunk is a new one, or another than the one known at that place. */
  add({ hash, offset, length }: Pick<ChunkLocation, "hash" | "offset" | "length">): "new" | "known" | "other" {
    const known = this.#chunks.get(offset);
    if (known !== undefined) return known === beginningOf(hash) ? "known" : "other";
    this.#chunks.set(offset, beginningOf(hash));
    this.bytes += length;
    return "new";
  }

  has({ hash, offset }: Pick<ChunkLocation, "hash" | "offset">): boolean {
    return this.#chunks.get(offset) === beginningOf(hash);
  }
}

/** 28 bits, which V8 keeps without an object of their own. */
function beginningOf(hash: string): number {
  return Number.parseInt(hash.slice(0, 7), 16);
}

/** A pack to be looked at. */
export interface WatchedPack {
  readonly pack: string;
  /** Once so many bytes are live, the pack is of no more interest. */
  readonly enoughBytes: number;
}

export class LiveChunks {
  readonly #open = new Map<string, LivePack>();
  readonly #enough = new Map<string, number>();
  readonly #maxHeld: number;
  #held = 0;
  /** Packs that there was no memory for: to be looked at again, in a pass of their own. */
  readonly postponed: string[] = [];

  constructor(packs: Iterable<WatchedPack>, maxHeld = maxHeldChunks) {
    this.#maxHeld = maxHeld;
    for (const { pack, enoughBytes } of packs) {
      this.#open.set(pack, new LivePack());
      this.#enough.set(pack, enoughBytes);
    }
  }

  get isEmpty(): boolean {
    return this.#open.size === 0;
  }

  /** The packs that are still of interest. */
  packs(): [string, LivePack][] {
    return [...this.#open];
  }

  isOpen(pack: string): boolean {
    return this.#open.has(pack);
  }

  /** A page refers to the chunk. */
  add(chunk: ChunkLocation): void {
    const live = this.#open.get(chunk.pack);
    if (!live) return;
    const outcome = live.add(chunk);
    if (outcome === "new") this.#held += 1;
    if (outcome === "other" || live.bytes >= this.#enough.get(chunk.pack)!) this.close(chunk.pack);
    if (this.#held > this.#maxHeld) this.#makeRoom();
  }

  /** The pack is of no more interest. */
  close(pack: string): void {
    this.#held -= this.#open.get(pack)?.size ?? 0;
    this.#open.delete(pack);
  }

  /** Half of the room; one pack stays, so that every pass gets on. */
  #makeRoom(): void {
    for (const [pack] of [...this.#open].slice(1).reverse()) {
      if (this.#held <= this.#maxHeld / 2) return;
      this.close(pack);
      this.postponed.push(pack);
    }
  }
}
