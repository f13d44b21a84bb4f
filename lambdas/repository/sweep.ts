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
import type { DomainLocation } from "./domain-record.ts";
import { Fingerprints } from "./fingerprints.ts";
import { forEachInFlight } from "./in-flight.ts";
import { domainKeys, jobKeys } from "./layout.ts";
import { decodeRoot, type Root } from "./manifest.ts";
import type { ListedObject, ObjectStore } from "./object-store.ts";
import { readPin, unpinJob } from "./pin.ts";
import { branchOf } from "./tree.ts";

export interface SweepOptions {
  /** True when time is short. */
  readonly until: () => boolean;
  /** Jobs whose objects are kept whether or not they have a pin. */
  readonly protectJobs?: readonly string[];
  /** Milliseconds since the epoch by the store's clock; for tests. */
  readonly now?: () => number;
}

export interface SweepResult {
  readonly deletedObjects: number;
  readonly deletedBytes: number;
  /** False: call again. What is deleted already stays so. */
  readonly finished: boolean;
}

/** Candidates of one round: bounds memory to some 30 MB. */
const candidatesPerRound = 100_000;
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
  return { deletedObjects: sweep.deletedObjects, deletedBytes: sweep.deletedBytes, finished };
}

/** What must stay. */
interface Needed {
  /** Keys of packs and pages. */
  readonly objects: Fingerprints;
  /** Jobs whose objects stay all. */
  readonly owners: ReadonlySet<string>;
}

class Sweep {
  readonly #store: ObjectStore;
  readonly #domain: string;
  readonly #keys: ReturnType<typeof domainKeys>;
  readonly #options: SweepOptions;
  /** Branches whose pages and packs are marked in this round. Most snapshots share most of theirs. */
  readonly #marked = new Set<string>();
  #locked: ObjectLocked | undefined;
  deletedObjects = 0;
  deletedBytes = 0;

  constructor(location: DomainLocation, options: SweepOptions) {
    this.#store = location.store;
    this.#domain = location.domain;
    this.#keys = domainKeys(location.domain);
    this.#options = options;
  }

  async run(): Promise<boolean> {
    for (const prefix of [this.#keys.packs, this.#keys.pages]) {
      if (!(await this.#sweepBelow(prefix))) return false;
    }
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
      if (!(await this.#delete(candidates.filter(({ key }) => !this.#isNeeded(key, needed))))) return false;
      startAfter = candidates.at(-1)!.key;
    }
    return false;
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
    await this.#markRoots(objects);
    const owners = await this.#markPins(objects);
    await this.#markRoots(objects);
    return { objects, owners };
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
    for (const reference of root.branches) {
      if (this.#marked.has(reference.name)) continue;
      objects.add(this.#keys.page(reference.name));
      const branch = await branchOf({ store: this.#store, domain: this.#domain }, reference);
      for (const page of branch.pages) {
        objects.add(this.#keys.page(page.name));
        for (const pack of page.packs) objects.add(this.#keys.pack(pack));
      }
      this.#marked.add(reference.name);
    }
  }

  #isNeeded(key: string, needed: Needed): boolean {
    return needed.owners.has(this.#ownerOf(key)) || needed.objects.has(key);
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
      const deleted = await this.#deleteBatch(batch);
      this.deletedObjects += deleted.length;
      this.deletedBytes += deleted.reduce((sum, { size }) => sum + size, 0);
    }
    return true;
  }

  /** Answers what went: an object under a lock stays, and keeps no other from going. */
  async #deleteBatch(batch: readonly ListedObject[]): Promise<readonly ListedObject[]> {
    try {
      await this.#store.deleteEveryVersion(batch.map(({ key }) => key));
      return batch;
    } catch (error) {
      if (!(error instanceof ObjectLocked)) throw error;
    }
    const deleted: ListedObject[] = [];
    await forEachInFlight(batch, deletesInFlight, async (object) => {
      try {
        await this.#store.deleteEveryVersion([object.key]);
        deleted.push(object);
      } catch (error) {
        if (!(error instanceof ObjectLocked)) throw error;
        this.#locked = error;
      }
    });
    return deleted;
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
