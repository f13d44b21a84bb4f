/** Which packs a domain has and how large they are, from one listing. Takes some 30 bytes for each: 60 MB for 64 TiB in packs of 16 MiB. */
import { domainKeys, originalPack, type PackName, parsePackName } from "./layout.ts";
import type { ObjectStore } from "./object-store.ts";
import { packFooterBytes } from "./pack.ts";

export class ListedPacks {
  /** Sizes by sequence number, for each invocation of a writer. */
  readonly #writers = new Map<string, Map<number, number>>();

  static async of(store: ObjectStore, domain: string): Promise<ListedPacks> {
    const packs = new ListedPacks();
    const prefix = domainKeys(domain).packs;
    for await (const { key, size } of store.list(prefix)) packs.#add(key.slice(prefix.length), size);
    return packs;
  }

  #add(text: string, size: number): void {
    const { pack, generation } = originalPack(text);
    const name = parsePackName(pack);
    if (!name) return;
    const writer = writerOf(name);
    const sizes = this.#writers.get(writer) ?? new Map<number, number>();
    // Offsets reach beyond the end of what is left of a compacted pack: its size tells nothing.
    sizes.set(name.sequence, generation === 0 ? size : Number.POSITIVE_INFINITY);
    this.#writers.set(writer, sizes);
  }

  /** Whether the pack is there and long enough for a chunk that ends at `end`: the footer comes after all chunks. */
  holds(pack: string, end: number): boolean {
    const name = parsePackName(pack);
    const size = name && this.#writers.get(writerOf(name))?.get(name.sequence);
    return size !== undefined && end + packFooterBytes <= size;
  }
}

function writerOf({ jobId, attempt, shard, token }: PackName): string {
  return `${jobId}/${attempt}-${shard}-${token}`;
}
