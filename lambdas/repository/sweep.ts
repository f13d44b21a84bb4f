/**
 * Deletes what no snapshot and no running backup of a domain needs, without a lock.
 *
 * A round lists candidates (packs and pages) first and then finds a superset of all roots and pins that existed together at one
 * moment after that listing: the moment when the listing of pins starts.
 * - Pins of that moment are in the listing, or were removed while it ran: then their backup is published (its root is in the second
 *   listing of roots) or was given up.
 * - Roots of that moment are in the first listing, or were published later and are in the second, or were deleted between the two:
 *   then a note below `dropped/` tells so, written before the root went, and the round starts again.
 * What none of these refers to now, nobody can refer to later: a new root refers to objects that its own job wrote, whose pin was
 * there before the first of them, or that its pinned base refers to, and a base is only used if it was published when its pin was
 * there already.
 */
import { randomBytes } from "node:crypto";
import { ObjectLocked, RepositoryDamaged } from "../domain/errors.ts";
import { branchAttempt, readBranch } from "./branch.ts";
import { Compaction } from "./compact.ts";
import type { DomainLocation } from "./domain-record.ts";
import { Fingerprints } from "./fingerprints.ts";
import { forEachInFlight, mapAhead } from "./in-flight.ts";
import { domainKeys, isPlainName, jobKeys, originalPack, parsePageName } from "./layout.ts";
import { type BranchReference, decodeRoot, type Root } from "./manifest.ts";
import { firstBelow, type ListedObject, type ObjectStore } from "./object-store.ts";
import { jobsIn, readPin } from "./pin.ts";
import { branchOf, isDamage } from "./tree.ts";

export interface SweepOptions {
  /** True when time is short. */
  readonly until: () => boolean;
  /** Whether packs with little left in them are rewritten (compact.ts). Not in a store that locks objects: there nothing would go. */
  readonly compacts?: boolean;
  /** The `position` that an earlier call of the same sweep has answered. */
  readonly from?: string;
  /** Milliseconds since the epoch by the store's clock; for tests. */
  readonly now?: () => number;
}

export interface SweepResult {
  readonly deletedObjects: number;
  readonly deletedBytes: number;
  /** Packs that were rewritten with what is left of them. */
  readonly compactedPacks: number;
  /** Keys of packs that were to be rewritten, and were left alone since they are damaged. */
  readonly damagedPacks: readonly string[];
  /** False: call again. What is deleted already stays so. */
  readonly finished: boolean;
  /** Where the next call is to go on. Empty: at the beginning, or finished. */
  readonly position: string;
}

/** Candidates of one round: bounds memory to some 30 MB. */
const candidatesPerRound = 100_000;
/** Packs that branches are collected for before these are compacted and the branches go: what is done stays done when time is short. */
const packsAtOnce = 20_000;
const deletesPerCall = 1000;
/** Deletions of single objects at once, after a call that met a locked one. */
const deletesInFlight = 16;
/** Roots, and branches of one root, read at once: some 60 KB to 1 MB each. With 20 ms a request, 800 branches a second. */
const readsInFlight = 16;
/** How many damaged snapshots and pins an error names. */
const namedDamages = 10;
/** Another sweep that started before a note was written must find it still there: none runs for as long as this. */
const droppedKeptMs = 60 * 60 * 1000;

/** Takes the snapshot's root away; the sweep finds what is no longer needed. Gone is success. */
export async function deleteBackup(location: DomainLocation & { readonly snapshotId: string }): Promise<void> {
  const keys = domainKeys(location.domain);
  const key = keys.root(location.snapshotId);
  if (await location.store.head(key)) {
    await location.store.put(keys.drop(location.snapshotId, randomBytes(8).toString("hex")), new Uint8Array());
  }
  await location.store.deleteEveryVersion([key]);
}

/**
 * Deletes all that is unreachable in the domain, and the domain's record when nothing is left of it. Throws RepositoryDamaged, with nothing
 * deleted in that round, when it cannot tell what is needed: the error names the snapshots. Throws ObjectLocked at the end, when all else is
 * deleted, if garbage is under Object Lock.
 */
export async function sweepDomain(location: DomainLocation, options: SweepOptions): Promise<SweepResult> {
  const sweep = new Sweep(location, options);
  const finished = await sweep.run();
  const { deletedObjects, deletedBytes, compactedPacks, damagedPacks } = sweep;
  return {
    deletedObjects,
    deletedBytes,
    compactedPacks,
    damagedPacks,
    finished,
    position: finished ? "" : sweep.position,
  };
}

/** What must stay. */
interface Needed {
  /** Keys of packs and pages. */
  readonly objects: Fingerprints;
  /** Jobs whose objects stay all. */
  readonly owners: ReadonlySet<string>;
  /** What the roots and the copied roots say of chunks: their size, and the wrapped key of the domain; empty: they are not encrypted. */
  readonly chunkBytes: number;
  readonly wrappedKey: Uint8Array;
}

class Sweep {
  readonly #store: ObjectStore;
  readonly #domain: string;
  readonly #keys: ReturnType<typeof domainKeys>;
  readonly #options: SweepOptions;
  readonly #compaction: Compaction;
  /** Keys of packs and pages that are needed. */
  #objects = new Fingerprints();
  /** Branches whose pages and packs are among these, by name. Most snapshots share most of theirs. */
  readonly #marked = new Map<string, BranchReference>();
  /** Notes that were there before. Until others come, the rounds that follow take over what is marked: it is not less than what is needed. */
  #notesOfMark: ReadonlySet<string> = new Set();
  #damages = new Map<string, Error>();
  #isLate = false;
  #chunkBytes = 0;
  #wrappedKey: Uint8Array = new Uint8Array();
  /** Packs with more than one form: a sweep has died between writing one and deleting the other. */
  readonly #severalForms = new Set<string>();
  #lastPack = "";
  #locked: ObjectLocked | undefined;
  /** The last key whose round is done. */
  #reached: string;
  deletedObjects = 0;
  deletedBytes = 0;

  constructor(location: DomainLocation, options: SweepOptions) {
    this.#store = location.store;
    this.#domain = location.domain;
    this.#keys = domainKeys(location.domain);
    this.#options = options;
    this.#reached = options.from ?? "";
    this.#compaction = new Compaction(location, {
      until: options.until,
      // A pack that is still locked from before the store's option was switched off: both forms stay, and nobody has to wait for that.
      remove: async (forms) => this.#count((await this.#deleteBatch(forms)).deleted),
    });
  }

  get compactedPacks(): number {
    return this.#compaction.rewritten;
  }

  get damagedPacks(): readonly string[] {
    return this.#compaction.damaged;
  }

  /** Forms of packs that were written or are still to be compared, and what is under a lock, have to be met once more. */
  get position(): string {
    return this.compactedPacks > 0 || this.#severalForms.size > 0 || this.#locked ? "" : this.#reached;
  }

  async run(): Promise<boolean> {
    const { packs, pages } = this.#keys;
    for (const prefix of this.#reached.startsWith(pages) ? [pages] : [packs, pages]) {
      if (!this.#reached.startsWith(prefix)) this.#reached = prefix;
      if (!(await this.#sweepBelow(prefix, this.#reached))) return false;
    }
    if (this.compactedPacks > 0) {
      // While it wrote, another sweep may have found that nobody needs the pack any more.
      this.#forgetMark();
      if (!(await this.#sweepBelow(packs, packs))) return false;
    }
    await this.#closeDomain();
    if (this.#locked) throw this.#locked;
    return true;
  }

  async #sweepBelow(prefix: string, startAfter: string): Promise<boolean> {
    let after = startAfter;
    while (!this.#outOfTime()) {
      const dropped = await this.#droppedNotes();
      if ([...dropped].some((note) => !this.#notesOfMark.has(note))) this.#forgetMark();
      this.#notesOfMark = dropped;
      const candidates = await this.#candidates(prefix, after);
      if (candidates.length === 0) return true;
      const needed = await this.#needed();
      if (this.#isLate) return false;
      const isUndisturbed = [...(await this.#droppedNotes())].every((note) => dropped.has(note));
      if (!isUndisturbed) continue;
      if (this.#damages.size > 0) throw this.#damaged();
      let garbage = candidates.filter(({ key }) => !this.#isNeeded(key, needed));
      if (this.#options.compacts && prefix === this.#keys.packs) this.#noteForms(candidates);
      if (this.#options.compacts && prefix === this.#keys.pages) {
        const outcome = await this.#deleteBranches(garbage.filter(this.#isBranch), needed);
        if (outcome === "late") return false;
        if (outcome === "disturbed") {
          this.#forgetMark();
          continue;
        }
        garbage = garbage.filter((object) => !this.#isBranch(object));
      }
      if (!(await this.#delete(garbage))) return false;
      after = candidates.at(-1)!.key;
      this.#reached = after;
    }
    return false;
  }

  #outOfTime(): boolean {
    this.#isLate ||= this.#options.until();
    return this.#isLate;
  }

  #forgetMark(): void {
    this.#objects = new Fingerprints();
    this.#marked.clear();
  }

  /** The listing has the forms of a pack one behind the other. */
  #noteForms(candidates: readonly ListedObject[]): void {
    for (const { key } of candidates) {
      const { pack } = originalPack(key);
      if (pack === this.#lastPack) this.#severalForms.add(pack.slice(this.#keys.packs.length));
      this.#lastPack = pack;
    }
  }

  readonly #isBranch = ({ key }: ListedObject): boolean =>
    parsePageName(key.slice(this.#keys.pages.length))?.attempt === branchAttempt;

  /**
   * Before branches go that nobody needs any more, the packs are compacted that their dead pages refer to: no others can have lost anything. So a sweep that
   * finds no such branch has nothing to compact, and one that dies before its end finds them again.
   */
  async #deleteBranches(branches: readonly ListedObject[], needed: Needed): Promise<"done" | "late" | "disturbed"> {
    const { chunkBytes, wrappedKey } = needed;
    const mark = { branches: [...this.#marked.values()], chunkBytes, wrappedKey };
    const packs = new Set([...this.#severalForms].filter((pack) => this.#mayCompact(pack, needed)));
    let at = 0;
    for (;;) {
      const first = at;
      for (; at < branches.length && packs.size < packsAtOnce; at++) {
        if (this.#outOfTime()) return "late";
        for (const pack of await this.#packsOfDeadPages(branches[at]!, needed)) packs.add(pack);
      }
      const outcome = packs.size > 0 ? await this.#compaction.run(packs, mark) : "done";
      if (outcome !== "done") return outcome;
      if (!(await this.#delete(branches.slice(first, at)))) return "late";
      if (at === branches.length) break;
      packs.clear();
    }
    this.#severalForms.clear();
    return "done";
  }

  #mayCompact(pack: string, { objects, owners }: Needed): boolean {
    const key = this.#keys.pack(pack);
    return objects.has(key) && !owners.has(this.#ownerOf(key));
  }

  /** A branch that is damaged, or gone, tells nothing. */
  async #packsOfDeadPages({ key }: ListedObject, needed: Needed): Promise<string[]> {
    try {
      const branch = await readBranch(this.#store, this.#domain, key.slice(this.#keys.pages.length));
      const dead = branch.pages.filter(({ name }) => !needed.objects.has(this.#keys.page(name)));
      return dead.flatMap(({ packs }) => packs).filter((pack) => this.#mayCompact(pack, needed));
    } catch (error) {
      if (isDamage(error)) return [];
      throw error;
    }
  }

  async #droppedNotes(): Promise<Set<string>> {
    const keys = new Set<string>();
    for await (const { key } of this.#store.list(this.#keys.dropped)) keys.add(key);
    return keys;
  }

  async #candidates(prefix: string, startAfter: string): Promise<ListedObject[]> {
    const candidates: ListedObject[] = [];
    for await (const object of this.#store.list(prefix, { startAfter })) {
      candidates.push(object);
      if (candidates.length === candidatesPerRound) break;
    }
    return candidates;
  }

  /** Reads the roots, the pins, and the roots again, as far as there is time. */
  async #needed(): Promise<Needed> {
    this.#damages = new Map();
    this.#chunkBytes = 0;
    this.#wrappedKey = new Uint8Array();
    await this.#markRoots();
    const owners = await this.#markPins();
    await this.#markRoots();
    return { objects: this.#objects, owners, chunkBytes: this.#chunkBytes, wrappedKey: this.#wrappedKey };
  }

  async #markRoots(): Promise<void> {
    const read = async ({ key }: ListedObject) => ({ key, object: await this.#store.get(key) });
    for await (const { key, object } of mapAhead(this.#store.list(this.#keys.roots), readsInFlight, read)) {
      if (this.#outOfTime()) return;
      const snapshotId = key.slice(this.#keys.roots.length);
      // What is named like no snapshot is no root: somebody has put it there by hand.
      if (!object || !isPlainName(snapshotId)) continue;
      await this.#orNote(`the snapshot ${snapshotId}`, () => this.#mark(decodeRoot(object, key)));
    }
  }

  async #markPins(): Promise<Set<string>> {
    const owners = new Set<string>();
    for await (const jobId of jobsIn({ store: this.#store, domain: this.#domain })) {
      if (this.#outOfTime()) break;
      await this.#orNote(`the pin of the job ${jobId}`, async () => {
        const pin = await readPin(this.#store, this.#domain, jobId);
        if (!pin) return;
        owners.add(jobId);
        if (pin.baseRoot.length > 0) await this.#mark(decodeRoot(pin.baseRoot, jobKeys(this.#domain, jobId).pin));
      });
    }
    return owners;
  }

  /** All that is damaged is to be named, not only the first. */
  async #orNote(what: string, mark: () => Promise<void>): Promise<void> {
    try {
      await mark();
    } catch (error) {
      if (!isDamage(error)) throw error;
      this.#damages.set(what, error);
    }
  }

  #damaged(): RepositoryDamaged {
    const named = [...this.#damages].slice(0, namedDamages).map(([what, error]) => `${what} (${error.message})`);
    const more = this.#damages.size > namedDamages ? ` and ${this.#damages.size - namedDamages} more` : "";
    return new RepositoryDamaged(
      `Nothing is swept in ${this.#domain} until these are deleted, as nobody can tell what they need: ${named.join(", ")}${more}.`,
    );
  }

  async #mark(root: Root): Promise<void> {
    this.#chunkBytes = Math.max(this.#chunkBytes, root.chunkBytes);
    if (root.wrappedKey.length > 0) this.#wrappedKey = root.wrappedKey;
    const unmarked = root.branches.filter(({ name }) => !this.#marked.has(name));
    await forEachInFlight(unmarked, readsInFlight, async (reference) => {
      if (this.#outOfTime()) return;
      const branch = await branchOf({ store: this.#store, domain: this.#domain }, reference);
      this.#objects.add(this.#keys.page(reference.name));
      for (const page of branch.pages) {
        this.#objects.add(this.#keys.page(page.name));
        for (const pack of page.packs) this.#objects.add(this.#keys.pack(pack));
      }
      this.#marked.set(reference.name, reference);
    });
  }

  #isNeeded(key: string, needed: Needed): boolean {
    return needed.owners.has(this.#ownerOf(key)) || needed.objects.has(originalPack(key).pack);
  }

  /** The job in `domains/<domain>/<kind>/<job>/…`. */
  #ownerOf(key: string): string {
    return key.split("/")[3]!;
  }

  async #delete(garbage: readonly ListedObject[]): Promise<boolean> {
    for (let at = 0; at < garbage.length; at += deletesPerCall) {
      if (this.#outOfTime()) return false;
      const batch = garbage.slice(at, at + deletesPerCall);
      const { deleted, locked } = await this.#deleteBatch(batch);
      this.#count(deleted);
      this.#locked ??= locked;
    }
    return true;
  }

  #count(deleted: readonly ListedObject[]): void {
    this.deletedObjects += deleted.length;
    this.deletedBytes += deleted.reduce((sum, { size }) => sum + size, 0);
  }

  /** Answers what went: an object under a lock stays, and keeps no other from going. */
  async #deleteBatch(
    batch: readonly ListedObject[],
  ): Promise<{ deleted: readonly ListedObject[]; locked?: ObjectLocked | undefined }> {
    try {
      await this.#store.deleteEveryVersion(batch.map(({ key }) => key));
      return { deleted: batch };
    } catch (error) {
      if (!(error instanceof ObjectLocked)) throw error;
    }
    const deleted: ListedObject[] = [];
    let locked: ObjectLocked | undefined;
    await forEachInFlight(batch, deletesInFlight, async (object) => {
      try {
        await this.#store.deleteEveryVersion([object.key]);
        deleted.push(object);
      } catch (error) {
        if (!(error instanceof ObjectLocked)) throw error;
        locked = error;
      }
    });
    return { deleted, locked };
  }

  /** Takes the notes of old deletions away and, when nothing else is left of the domain, its record. */
  async #closeDomain(): Promise<void> {
    const isEmpty = await this.#isEmpty();
    const old = (this.#options.now ?? Date.now)() - droppedKeptMs;
    const notes: string[] = [];
    for await (const note of this.#store.list(this.#keys.dropped)) {
      if (isEmpty || note.lastModified.getTime() < old) notes.push(note.key);
    }
    if (notes.length > 0) await this.#store.deleteEveryVersion(notes);
    if (isEmpty) await this.#deleteRecord();
  }

  /** Jobs before roots: a backup's root is there before its pin goes. */
  async #isEmpty(): Promise<boolean> {
    for (const prefix of [this.#keys.packs, this.#keys.pages, this.#keys.jobs, this.#keys.roots]) {
      if (await firstBelow(this.#store, prefix)) return false;
    }
    return true;
  }

  /** A backup that starts just now has written its pin before it looked for the record: then the record is put back. */
  async #deleteRecord(): Promise<void> {
    const record = await this.#store.get(this.#keys.record);
    if (!record) return;
    await this.#store.deleteEveryVersion([this.#keys.record]);
    if (!(await this.#isEmpty())) await this.#store.put(this.#keys.record, record, { ifAbsent: true });
  }
}
