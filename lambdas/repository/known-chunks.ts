/** What a copy knows of chunks that the store has already: its own, and those of the base's pages that it came by. */
import type { ChunkLocation, PageChunks } from "./page-chunks.ts";

/** Some 10 MiB. Beyond that what came before is forgotten. */
const most = 32 * 1024;

export class KnownChunks {
  readonly #isTrusted: (location: ChunkLocation) => boolean;
  readonly #own = new Map<string, ChunkLocation>();
  #pages: PageChunks[] = [];
  #inPages = 0;

  /** `isTrusted`: whether the pack of a chunk from a page may be relied on. */
  constructor(isTrusted: (location: ChunkLocation) => boolean) {
    this.#isTrusted = isTrusted;
  }

  add(location: ChunkLocation): void {
    this.#own.set(location.hash, location);
  }

  addPage(chunks: PageChunks): void {
    if (this.#own.size + this.#inPages > most) this.#forget();
    this.#pages.push(chunks);
    this.#inPages += chunks.length;
  }

  #forget(): void {
    this.#own.clear();
    this.#pages = [];
    this.#inPages = 0;
  }

  find(hash: string): ChunkLocation | undefined {
    const own = this.#own.get(hash);
    if (own) return own;
    for (const page of this.#pages) {
      const found = page.find(hash);
      if (found && this.#isTrusted(found)) return found;
    }
    return undefined;
  }
}
