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
import { forEachInFlight } from "./in-flight.ts";
import { domainKeys, jobKeys, originalPack, parsePageName } from "./layout.ts";
import { type BranchReference, decodeRoot, type Root } from "./manifest.ts";
import type { ListedObject, ObjectStore } from "./object-store.ts";
import { readPin, unpinJob } from "./pin.ts";
import { branchOf, isDamage } from "./tree.ts";

export interface SweepOptions {
  /** True when time is short. */
  readonly until: () => boolean;
  /** Whether packs with little left in them are rewritten (compact.ts). Not in a store that locks objects: there nothing would go. */
  readonly compacts?: boolean;
  /** Jobs whose objects are kept whether or not they have a pin. */
  readonly protectJobs?: readonly string[];
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
}

/** Candidates of one round: bounds memory to some 30 MB. */
const candidatesPerRound = 100_000;
/** Packs that branches are collected for before these are compacted and the branches go: what is done stays done when time is short. */
const packsAtOnce = 20_000;
const deletesPerCall = 1000;
/** Deletions of single objects at once, after a call that met a locked one. */
const deletesInFlight = 16;
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
 * Gives up the work of a backup job whose execution is dead: its pin and work objects go, and the next sweep takes its packs. Only to be
 * called once no worker of the job can still write. Call again until `finished`; gone is success.
 */
export async function collectJob(
  job: DomainLocation & { readonly jobId: string },
  options?: { until?: () => boolean },
): Promise<{ finished: boolean }> {
  return unpinJob(job, options);
}

/**
 * Deletes all that is unreachable in the domain, and the domain's record when nothing is left of it. Throws RepositoryDamaged, with nothing
 * deleted in that round, when it cannot tell what is needed. Throws ObjectLocked at the end, when all else is deleted, if garbage is under Object Lock.
 */
export async function sweepDomain(location: DomainLocation, options: SweepOptions): Promise<SweepResult> {
  const sweep = new Sweep(location, options);
  const finished = await sweep.run();
  const { deletedObjects, deletedBytes, compactedPacks, damagedPacks } = sweep;
  return { deletedObjects, deletedBytes, compactedPacks, damagedPacks, finished };
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
  /** Branches whose pages and packs are marked in this round, by name. Most snapshots share most of theirs. */
  readonly #marked = new Map<string, BranchReference>();
  #chunkBytes = 0;
  #wrappedKey: Uint8Array = new Uint8Array();
  /** Packs with more than one form: a sweep has died between writing one and deleting the other. */
  readonly #severalForms = new Set<string>();
  #lastPack = "";
  #locked: ObjectLocked | undefined;
  deletedObjects = 0;
  deletedBytes = 0;

  constructor(location: DomainLocation, options: SweepOptions) {
    this.#store = location.store;
    this.#domain = location.domain;
    this.#keys = domainKeys(location.domain);
    this.#options = options;
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

  async run(): Promise<boolean> {
    for (const prefix of [this.#keys.packs, this.#keys.pages]) {
      if (!(await this.#sweepBelow(prefix))) return false;
    }
    // While it wrote, another sweep may have found that nobody needs the pack any more.
    if (this.compactedPacks > 0 && !(await this.#sweepBelow(this.#keys.packs))) return false;
    await this.#closeDomain();
    if (this.#locked) throw this.#locked;
    return true;
  }

  async #sweepBelow(prefix: string): Promise<boolean> {
    let startAfter: string | undefined;
    while (!this.#options.until()) {
      const dropped = await this.#droppedNotes();
      const candidates = await this.#candidates(prefix, startAfter);
      if (candidates.length === 0) return true;
      const needed = await this.#needed().catch((error: unknown) => {
        if (error instanceof RepositoryDamaged) return error;
        throw error;
      });
      const isUndisturbed = [...(await this.#droppedNotes())].every((note) => dropped.has(note));
      if (!isUndisturbed) continue;
      if (needed instanceof RepositoryDamaged) throw needed;
      let garbage = candidates.filter(({ key }) => !this.#isNeeded(key, needed));
      if (this.#options.compacts && prefix === this.#keys.packs) this.#noteForms(candidates);
      if (this.#options.compacts && prefix === this.#keys.pages) {
        const outcome = await this.#deleteBranches(garbage.filter(this.#isBranch), needed);
        if (outcome === "late") return false;
        if (outcome === "disturbed") continue;
        garbage = garbage.filter((object) => !this.#isBranch(object));
      }
      if (!(await this.#delete(garbage))) return false;
      startAfter = candidates.at(-1)!.key;
    }
    return false;
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
        if (this.#options.until()) return "late";
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

  async #candidates(prefix: string, startAfter: string | undefined): Promise<ListedObject[]> {
    const candidates: ListedObject[] = [];
    for await (const object of this.#store.list(prefix, startAfter === undefined ? {} : { startAfter })) {
      candidates.push(object);
      if (candidates.length === candidatesPerRound) break;
    }
    return candidates;
  }

  /** Reads the roots, the pins, and the roots again. */
  async #needed(): Promise<Needed> {
    const objects = new Fingerprints();
    this.#marked.clear();
    this.#chunkBytes = 0;
    this.#wrappedKey = new Uint8Array();
    await this.#markRoots(objects);
    const owners = await this.#markPins(objects);
    await this.#markRoots(objects);
    return { objects, owners, chunkBytes: this.#chunkBytes, wrappedKey: this.#wrappedKey };
  }

  async #markRoots(objects: Fingerprints): Promise<void> {
    for await (const { key } of this.#store.list(this.#keys.roots)) {
      const object = await this.#store.get(key);
      if (object) await this.#mark(decodeRoot(object, key), objects);
    }
  }

  async #markPins(objects: Fingerprints): Promise<Set<string>> {
    const owners = new Set(this.#options.protectJobs);
    for await (const jobId of this.#jobIds()) {
      const pin = await readPin(this.#store, this.#domain, jobId);
      if (!pin) continue;
      owners.add(jobId);
      if (pin.baseRoot.length > 0)
        await this.#mark(decodeRoot(pin.baseRoot, jobKeys(this.#domain, jobId).pin), objects);
    }
    return owners;
  }

  /** Jobs with any object, one listing each, however many objects they have. */
  async *#jobIds(): AsyncGenerator<string> {
    let startAfter = "";
    for (;;) {
      const next = await firstOf(this.#store.list(this.#keys.jobs, startAfter === "" ? {} : { startAfter }));
      if (!next) return;
      const jobId = this.#ownerOf(next.key);
      yield jobId;
      startAfter = `${this.#keys.jobs}${jobId}${followsSlash}`;
    }
  }

  async #mark(root: Root, objects: Fingerprints): Promise<void> {
    this.#chunkBytes = Math.max(this.#chunkBytes, root.chunkBytes);
    if (root.wrappedKey.length > 0) this.#wrappedKey = root.wrappedKey;
    for (const reference of root.branches) {
      if (this.#marked.has(reference.name)) continue;
      objects.add(this.#keys.page(reference.name));
      const branch = await branchOf({ store: this.#store, domain: this.#domain }, reference);
      for (const page of branch.pages) {
        objects.add(this.#keys.page(page.name));
        for (const pack of page.packs) objects.add(this.#keys.pack(pack));
      }
      this.#marked.set(reference.name, reference);
    }
  }

  #isNeeded(key: string, needed: Needed): boolean {
    return needed.owners.has(this.#ownerOf(key)) || needed.objects.has(originalPack(key).pack);
  }

  /** The job in `domains/<domain>/<kind>/<job>/…`. */
  #ownerOf(key: string): string {
    const owner = key.split("/")[3];
    if (owner === undefined) throw new RepositoryDamaged(`The object ${key} does not belong into a repository.`);
    return owner;
  }

  async #delete(garbage: readonly ListedObject[]): Promise<boolean> {
    for (let at = 0; at < garbage.length; at += deletesPerCall) {
      if (this.#options.until()) return false;
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
      if (await firstOf(this.#store.list(prefix))) return false;
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

/** The character after `/`: a key that sorts behind all keys below a folder and before the next folder. */
const followsSlash = "0";

async function firstOf<T>(items: AsyncIterable<T>): Promise<T | undefined> {
  for await (const item of items) return item;
  return undefined;
}
