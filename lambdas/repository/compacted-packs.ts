/** Reads packs that are no longer there as they were written, but compacted: by the offsets that they had. */
import { type CompactedChunk, decodeCompactedPack } from "./compacted-pack.ts";
import { domainKeys, maxGeneration, originalPack } from "./layout.ts";
import type { ListedObject, ObjectStore } from "./object-store.ts";
import { maxPackTailBytes } from "./pack.ts";
import { isDamage } from "./tree.ts";

/** Indexes that are kept: of 600 chunks each (16 MiB in chunks of 64 KiB that shrink by half) they take some 8 MB. */
const keptIndexes = 64;

/** A form of a pack: the pack itself is generation 0. */
export interface PackForm extends ListedObject {
  readonly generation: number;
}

interface CompactedForm {
  readonly key: string;
  readonly chunks: readonly CompactedChunk[];
}

/** The compacted forms of a pack, oldest first. */
export async function compactedForms(store: ObjectStore, domain: string, pack: string): Promise<PackForm[]> {
  const forms: PackForm[] = [];
  for await (const object of store.list(`${domainKeys(domain).pack(pack)}.`))
    forms.push({ ...object, generation: originalPack(object.key).generation });
  return forms;
}

/** What a compacted form holds; undefined when it is gone. Throws RepositoryDamaged, UnsupportedFormat. */
async function readCompactedIndex(
  store: ObjectStore,
  { key, size }: Pick<ListedObject, "key" | "size">,
): Promise<CompactedChunk[] | undefined> {
  const length = Math.min(size, maxPackTailBytes);
  const tail = await store.get(key, { offset: size - length, length });
  return tail && decodeCompactedPack(tail, size, key);
}

export class CompactedPacks {
  readonly #store: ObjectStore;
  readonly #domain: string;
  readonly #known = new Map<string, Promise<CompactedForm | undefined>>();

  constructor({ store, domain }: { readonly store: ObjectStore; readonly domain: string }) {
    this.#store = store;
    this.#domain = domain;
  }

  /** Bytes as they were in the pack, with zeros in place of chunks that were taken out. Undefined when there is no form of the pack. */
  async read(
    pack: string,
    range: { readonly offset: number; readonly length: number; readonly into?: Uint8Array },
  ): Promise<Uint8Array | undefined> {
    for (let tries = 0; tries <= maxGeneration; tries++) {
      const form = await this.#find(pack);
      if (!form) return undefined;
      const bytes = await this.#readForm(form, range);
      if (bytes) return bytes;
      this.#known.delete(pack);
    }
    return undefined;
  }

  /** What is left of the pack, with offsets in the pack; nothing when there is no form of it. */
  async index(pack: string): Promise<readonly CompactedChunk[]> {
    return (await this.#find(pack))?.chunks ?? [];
  }

  /** Undefined when the form is gone: then a newer one has taken its place. */
  async #readForm(
    { key, chunks }: CompactedForm,
    range: { readonly offset: number; readonly length: number; readonly into?: Uint8Array },
  ): Promise<Uint8Array | undefined> {
    const end = range.offset + range.length;
    const bytes = (range.into ?? new Uint8Array(range.length)).subarray(0, range.length).fill(0);
    const wanted = chunks.filter(({ offset, length }) => offset < end && offset + length > range.offset);
    const [first, last] = [wanted[0], wanted.at(-1)];
    if (!first || !last) return bytes;
    const length = last.position + last.length - first.position;
    const stored = await this.#store.get(key, { offset: first.position, length });
    if (!stored) return undefined;
    for (const chunk of wanted) {
      const from = Math.max(chunk.offset, range.offset);
      const at = chunk.position - first.position + (from - chunk.offset);
      bytes.set(stored.subarray(at, at + Math.min(chunk.offset + chunk.length, end) - from), from - range.offset);
    }
    return bytes;
  }

  async #find(pack: string): Promise<CompactedForm | undefined> {
    const known = this.#known.get(pack);
    if (known) return known;
    const finding = this.#look(pack);
    this.#known.set(pack, finding);
    const [oldest = ""] = this.#known.keys();
    if (this.#known.size > keptIndexes) this.#known.delete(oldest);
    try {
      const found = await finding;
      if (!found) this.#known.delete(pack);
      return found;
    } catch (error) {
      this.#known.delete(pack);
      throw error;
    }
  }

  /** The newest form that can be read. Each holds all that is needed; a newer one is there before an older one goes. */
  async #look(pack: string): Promise<CompactedForm | undefined> {
    for (let tries = 0; tries <= maxGeneration; tries++) {
      const forms = await compactedForms(this.#store, this.#domain, pack);
      if (forms.length === 0) return undefined;
      const found = await this.#newestOf(forms);
      if (found !== "gone") return found;
    }
    return undefined;
  }

  async #newestOf(forms: readonly PackForm[]): Promise<CompactedForm | undefined | "gone"> {
    for (const form of forms.toReversed()) {
      try {
        const chunks = await readCompactedIndex(this.#store, form);
        return chunks ? { key: form.key, chunks } : "gone";
      } catch (error) {
        if (!isDamage(error)) throw error;
      }
    }
    return undefined;
  }
}
