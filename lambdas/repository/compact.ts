/**
 * Compaction: packs of which little is live any more are rewritten with their live chunks only. Part of the sweep, and as safe without a lock.
 *
 * Of a pack P the live chunks are put as `P.1` (see compacted-pack.ts), if absent; P goes when `P.1` has been looked up. Pages keep naming P, and
 * readers who do not find P read the newest form. `P.1` may become `P.2` later. Nothing has to tell where a pack has gone: its forms are found by its name.
 *
 * Every form holds every chunk of P that is needed at any time after the sweep's mark (sweep.ts: the moment when its listing of pins started),
 * so it does not matter which of several sweeps wrote it, nor how late it comes:
 * - A chunk is needed if a page of a published root, or of a root that a pin copied, refers to it. The mark finds all of these; the pages of all
 *   of them are read after it, and pages never change.
 * - A root that comes later refers to pages that its base has, whose chunks were live at the mark or at some earlier root's by the same argument, and
 *   to pages of its own job. Those name chunks of P only as the pinned base's pages name them, or if P is the job's own. Packs of jobs with a pin
 *   are left alone, and a job without one never publishes again.
 * - So what is live only ever becomes less, and a form that was made at an earlier mark holds more than is needed, never less.
 *
 * Two sweeps at once: one of them writes a form, the other finds it and deletes nothing that this form does not cover. A sweep that is so late that P or
 * `P.1` are gone when it writes `P.1` leaves garbage, which every sweep that wrote a form looks for at its end. A crash after any write leaves
 * two forms; the next sweep meets them in the listing of packs, compares, and deletes the older one. A crash before pages and branches are deleted
 * leaves the branches that tell which packs to look at.
 * A reader (restore, check, retention) that finds P gone finds `P.1`, and one that finds `P.1` gone `P.2`: a form goes only when a newer one is there. A listing
 * of packs shows at least one of the forms, since they are listed oldest first. A backup never reads packs, and verification asks for any form.
 *
 * No time has to pass between the writing of a form and the deletion of the older one: nobody needs the older one. With a grace, a pack whose volume
 * is not backed up any more would stay beside its copy until somebody deletes a snapshot.
 */
import { EncryptionKeyUnavailable, Throttled } from "../domain/errors.ts";
import { sha256 } from "./binary.ts";
import type { Branch, PageReference } from "./branch.ts";
import { holdsChunk } from "./chunk.ts";
import { LiveChunks, type LivePack } from "./compact-live.ts";
import { decodeCompactedPack, encodeCompactedPack } from "./compacted-pack.ts";
import type { PackForm } from "./compacted-packs.ts";
import { type DomainCipher, decryptAt, openCipher } from "./domain-cipher.ts";
import type { DomainLocation } from "./domain-record.ts";
import { forEachInFlight, InFlight, mapAhead } from "./in-flight.ts";
import { domainKeys, maxGeneration, originalPack } from "./layout.ts";
import type { BranchReference } from "./manifest.ts";
import { isIntact } from "./object-check.ts";
import type { ListedObject } from "./object-store.ts";
import { decodePackFooter, decodePackIndex, maxPackBytes, type PackedChunk, packFooterBytes } from "./pack.ts";
import { readPage } from "./page.ts";
import { branchOf, isDamage } from "./tree.ts";

/**
 * A pack is rewritten when less than this share of its bytes is live. What is rewritten again and again then takes at most 1 / 0.4 = 2.5 times the room of
 * what is live, and each byte that is moved frees at least 1.5 others.
 */
const liveShare = 0.4;

/** Names and forms of so many packs (320 GiB) take some 10 MB; the memory for their chunks is bounded in compact-live.ts. */
const packsPerPass = 20_000;
/** Names of pages that were read in a pass, some 150 bytes each: 45 MB. When there are more, pages may be read twice. */
const rememberedPages = 300_000;
const branchesAhead = 4;
const pagesInFlight = 16;
/** Each takes the memory of a pack (16 MiB) and of what is left of it. */
const packsInFlight = 4;

/** What a mark of the sweep has found. */
export interface CompactionMark {
  /** Of all roots, those that pins copied included. */
  readonly branches: readonly BranchReference[];
  readonly chunkBytes: number;
  /** Of the domain; empty when chunks are not encrypted. */
  readonly wrappedKey: Uint8Array;
}

export interface CompactionOptions {
  /** True when time is short. */
  readonly until: () => boolean;
  readonly remove: (garbage: readonly ListedObject[]) => Promise<void>;
}

export class Compaction {
  readonly #location: DomainLocation;
  readonly #options: CompactionOptions;
  readonly #keys: ReturnType<typeof domainKeys>;
  /** Packs that were rewritten. */
  rewritten = 0;
  /** Keys of packs that were left alone since something in them is not what it should be. */
  readonly damaged: string[] = [];

  #cipher: Promise<DomainCipher | undefined> | undefined;

  constructor(location: DomainLocation, options: CompactionOptions) {
    this.#location = location;
    this.#options = options;
    this.#keys = domainKeys(location.domain);
  }

  /**
   * Compacts those of `packs` that are worth it, and deletes older forms. The packs are needed, and no job that wrote one has a pin. Answers
   * `late` when time was short, `disturbed` when something of the mark is gone: then the mark is to be made anew.
   */
  async run(packs: Iterable<string>, mark: CompactionMark): Promise<"done" | "late" | "disturbed"> {
    let waiting = [...packs].sort();
    while (waiting.length > 0) {
      const forms = await this.#formsOf(waiting.slice(0, packsPerPass));
      waiting = waiting.slice(packsPerPass);
      const live = new LiveChunks(watched(forms));
      const outcome = await this.#markLive(live, mark);
      if (outcome !== "done") return outcome;
      await forEachInFlight(live.packs(), packsInFlight, async ([pack, ofPack]) => {
        if (!this.#options.until()) await this.#compact({ pack, forms: forms.get(pack)!, live: ofPack }, mark);
      });
      if (this.#options.until()) return "late";
      waiting.push(...live.postponed);
    }
    return "done";
  }

  /** The forms of each pack that is there, oldest first. `packs` are in order. */
  async #formsOf(packs: readonly string[]): Promise<Map<string, PackForm[]>> {
    const wanted = new Set(packs.map(this.#keys.pack));
    const forms = new Map<string, PackForm[]>();
    const jobs = Map.groupBy(packs, (pack) => pack.slice(0, pack.indexOf("/") + 1));
    for (const [job, ofJob] of jobs) {
      // A key without its last character comes before it, and before nothing else that is wanted.
      const startAfter = this.#keys.pack(ofJob[0]!).slice(0, -1);
      const end = this.#keys.compacted(ofJob.at(-1)!, maxGeneration);
      for await (const object of this.#location.store.list(this.#keys.packs + job, { startAfter })) {
        if (object.key > end) break;
        const { pack: key, generation } = originalPack(object.key);
        if (!wanted.has(key)) continue;
        const pack = key.slice(this.#keys.packs.length);
        forms.set(pack, [...(forms.get(pack) ?? []), { ...object, generation }]);
      }
    }
    return forms;
  }

  /** Newest snapshots first: what they have of a pack mostly tells already that it is to stay. */
  async #markLive(live: LiveChunks, mark: CompactionMark): Promise<"done" | "late" | "disturbed"> {
    const seen = new Set<string>();
    const flights = new InFlight(pagesInFlight);
    const read = (reference: BranchReference): Promise<Branch | undefined> =>
      branchOf(this.#location, reference).catch((error: unknown) => {
        if (isDamage(error)) return undefined;
        throw error;
      });
    try {
      for await (const branch of mapAhead(mark.branches.toReversed(), branchesAhead, read)) {
        if (!branch) return "disturbed";
        if (live.isEmpty) break;
        for (const page of branch.pages) {
          if (!page.packs.some((pack) => live.isOpen(pack)) || seen.has(page.name)) continue;
          if (this.#options.until()) return "late";
          if (seen.size >= rememberedPages) seen.clear();
          seen.add(page.name);
          await flights.launch(() => this.#markPage(page, live));
        }
      }
      await flights.settle();
    } finally {
      await flights.drain();
    }
    return "done";
  }

  /** Nobody knows what a page refers to that cannot be read: its packs stay as they are. */
  async #markPage(reference: PageReference, live: LiveChunks): Promise<void> {
    try {
      const { chunks } = await readPage(this.#location.store, this.#location.domain, reference.name);
      for (const chunk of chunks) if (chunk) live.add(chunk);
    } catch (error) {
      if (!isDamage(error)) throw error;
      for (const pack of reference.packs) live.close(pack);
    }
  }

  async #compact(
    { pack, forms, live }: { pack: string; forms: readonly PackForm[]; live: LivePack },
    mark: CompactionMark,
  ): Promise<void> {
    const newest = forms.at(-1)!;
    if (live.size === 0) return;
    const next = this.#keys.compacted(pack, newest.generation + 1);
    const isSparse = newest.generation < maxGeneration && live.bytes < enough(newest);
    const isReplaced = await (isSparse ? this.#rewrite(newest, next, live, mark) : this.#covers(newest, live, mark));
    if (isReplaced) await this.#options.remove(isSparse ? forms : forms.slice(0, -1));
  }

  /** Answers whether the next form is there, and holds what is live. */
  async #rewrite(form: PackForm, next: string, live: LivePack, mark: CompactionMark): Promise<boolean> {
    const { store } = this.#location;
    const bytes = await this.#bytesOf(form);
    const chunks = bytes && this.#chunksOf(form, bytes, live);
    if (!chunks) return false;
    if (chunks.length !== live.size) return this.#leave(form.key);
    if (!(await this.#areWhole(form, bytes, chunks, mark))) return false;
    const object = encodeCompactedPack(chunks.map((chunk) => ({ ...chunk, stored: storedIn(bytes, chunk) })));
    const expected = { key: next, size: object.length, sha256: sha256(object) };
    const outcome = await store.put(next, object, { ifAbsent: true, sha256: expected.sha256 });
    if (outcome === "exists") return this.#covers({ key: next, generation: form.generation + 1 }, live, mark);
    if (!(await isIntact(store, expected))) return this.#leave(next);
    this.rewritten += 1;
    return true;
  }

  /** Whether the form holds all that is live. One of a later mark holds less; what it lacks nobody needs, but this mark cannot tell. */
  async #covers(form: FormOfPack, live: LivePack, mark: CompactionMark): Promise<boolean> {
    const bytes = await this.#bytesOf(form);
    const chunks = bytes && this.#chunksOf(form, bytes, live);
    return chunks?.length === live.size && (await this.#areWhole(form, bytes!, chunks, mark));
  }

  /** Undefined when it is gone, or larger than any pack. */
  async #bytesOf({ key }: FormOfPack): Promise<Uint8Array | undefined> {
    try {
      return await this.#location.store.get(key, undefined, maxPackBytes);
    } catch (error) {
      if (!isDamage(error)) throw error;
      this.#leave(key);
      return undefined;
    }
  }

  /** The live chunks as far as the form has them; undefined when it is damaged. */
  #chunksOf(form: FormOfPack, bytes: Uint8Array, live: LivePack): PlacedChunk[] | undefined {
    const chunks = placedChunks(form, bytes)?.filter((chunk) => live.has(chunk));
    if (!chunks) this.#leave(form.key);
    return chunks;
  }

  /** Whether these are the bytes that were written: what is damaged must not be copied and come to look like something that was written so. */
  async #areWhole(
    { key }: FormOfPack,
    bytes: Uint8Array,
    chunks: readonly PlacedChunk[],
    { wrappedKey, chunkBytes: maxLength }: CompactionMark,
  ): Promise<boolean> {
    if (wrappedKey.length === 0) {
      const areWhole = chunks.every(({ hash, encoding, ...chunk }) =>
        holdsChunk({ encoding, bytes: storedIn(bytes, chunk) }, hash, { maxLength }),
      );
      return areWhole || this.#leave(key);
    }
    const head = await this.#location.store.head(key);
    if (head?.sha256 !== undefined) return head.sha256 === sha256(bytes) || this.#leave(key);
    const cipher = await this.#openedBy(wrappedKey);
    if (!cipher) return false;
    const { chunkIdKey } = cipher;
    const packKey = cipher.packKey(originalPack(key).pack.slice(this.#keys.packs.length));
    const areWhole = chunks.every(({ hash, encoding, ...chunk }) => {
      const decrypted = decryptAt(packKey, chunk.offset, storedIn(bytes, chunk));
      return decrypted && holdsChunk({ encoding, bytes: decrypted }, hash, { maxLength, chunkIdKey });
    });
    return areWhole || this.#leave(key);
  }

  /** Undefined where the key is not to be had: compaction is not worth that a deletion fails. */
  #openedBy(wrappedKey: Uint8Array): Promise<DomainCipher | undefined> {
    this.#cipher ??= openCipher(this.#location, wrappedKey).catch((error: unknown) => {
      if (error instanceof EncryptionKeyUnavailable || error instanceof Throttled) return undefined;
      throw error;
    });
    return this.#cipher;
  }

  #leave(key: string): false {
    this.damaged.push(key);
    return false;
  }
}

type FormOfPack = Pick<PackForm, "key" | "generation">;

/** A chunk and where its bytes begin in the object at hand. */
interface PlacedChunk extends PackedChunk {
  readonly position: number;
}

function storedIn(bytes: Uint8Array, { position, length }: Pick<PlacedChunk, "position" | "length">): Uint8Array {
  return bytes.subarray(position, position + length);
}

/** A pack with older forms is looked at to its end: before these are deleted, the newest has to hold all that is live. */
function* watched(forms: ReadonlyMap<string, readonly PackForm[]>) {
  for (const [pack, ofPack] of forms) {
    const newest = ofPack.at(-1)!;
    if (ofPack.length > 1) yield { pack, enoughBytes: Number.POSITIVE_INFINITY };
    else if (newest.generation < maxGeneration) yield { pack, enoughBytes: enough(newest) };
  }
}

function enough(form: PackForm): number {
  return form.size * liveShare;
}

/** All chunks of a pack or of a form of it, ascending by offset; undefined when it is damaged. */
function placedChunks({ key, generation }: FormOfPack, bytes: Uint8Array): PlacedChunk[] | undefined {
  try {
    if (generation > 0) return decodeCompactedPack(bytes, bytes.length, key);
    const footerAt = bytes.length - packFooterBytes;
    if (footerAt < 0) return undefined;
    const footer = decodePackFooter(bytes.subarray(footerAt), key);
    const indexAt = footerAt - footer.indexBytes;
    if (indexAt < 0) return undefined;
    const entries = decodePackIndex(bytes.subarray(indexAt, footerAt), footer, indexAt, key);
    return entries.map((entry) => ({ ...entry, position: entry.offset })).sort((a, b) => a.offset - b.offset);
  } catch (error) {
    if (isDamage(error)) return undefined;
    throw error;
  }
}
