/**
 * Object Lock: once a backup is published, nobody deletes what it consists of before a date. That is the root, its branches, their pages
 * and the packs, older ones that it uses again too, and `domain.json`, which says with which key and sizes the next backup is made.
 */
import { RepositoryDamaged } from "../domain/errors.ts";
import { branchPages } from "./branch.ts";
import { compactedForms } from "./compacted-packs.ts";
import { InFlight } from "./in-flight.ts";
import { domainKeys } from "./layout.ts";
import { type BranchReference, decodeRoot, type Root } from "./manifest.ts";
import type { ObjectStore, Retention } from "./object-store.ts";
import { branchOf, isDamage } from "./tree.ts";

/** A published snapshot. No key is needed, also where it is encrypted. */
export interface PublishedSnapshot {
  readonly store: ObjectStore;
  readonly domain: string;
  readonly snapshotId: string;
}

export interface RetainOptions extends Retention {
  /** Asked before each page: true when time is short. */
  readonly outOfTime: () => boolean;
  /** `next` of the call before. */
  readonly from?: number;
}

/** Two requests for each object: at 20 ms the 26,000 packs of a full TiB take 70 s. */
const retainsInFlight = 16;

/**
 * Retains every object of the snapshot. Extends what is retained for a shorter time, and shortens nothing, so it may run twice. With
 * `finished: false` call again `from: next`, which counts pages of the volume. The root comes last: an attempt that fails before leaves
 * a snapshot that can be given up. Throws RepositoryDamaged when an object is missing.
 */
export async function retainSnapshot(
  snapshot: PublishedSnapshot,
  options: RetainOptions,
): Promise<{ finished: boolean; next: number }> {
  const root = await publishedRoot(snapshot);
  const retaining = new Retaining(snapshot, options);
  let next = options.from ?? 0;
  for (const reference of root.branches) {
    const end = (reference.index + 1) * branchPages;
    if (end <= next) continue;
    next = await retaining.branch(reference, next);
    if (next < end) return { finished: false, next };
  }
  await retaining.ends();
  return { finished: true, next };
}

/** When the snapshot was published, by the store's clock. Throws RepositoryDamaged when it is not (any more). */
export async function publishedAt({ store, domain, snapshotId }: PublishedSnapshot): Promise<Date> {
  const root = domainKeys(domain).root(snapshotId);
  for await (const { key, lastModified } of store.list(root)) {
    if (key !== root) break;
    return lastModified;
  }
  throw new RepositoryDamaged(`The backup of ${snapshotId} is missing: there is no object ${root}.`);
}

async function publishedRoot({ store, domain, snapshotId }: PublishedSnapshot): Promise<Root> {
  const key = domainKeys(domain).root(snapshotId);
  const object = await store.get(key);
  if (!object) throw new RepositoryDamaged(`The backup of ${snapshotId} is missing: there is no object ${key}.`);
  return decodeRoot(object, key);
}

class Retaining {
  readonly #snapshot: PublishedSnapshot;
  readonly #options: RetainOptions;
  readonly #keys: ReturnType<typeof domainKeys>;

  constructor(snapshot: PublishedSnapshot, options: RetainOptions) {
    this.#snapshot = snapshot;
    this.#options = options;
    this.#keys = domainKeys(snapshot.domain);
  }

  /**
   * The branch with its pages from number `from` on and their packs, each once; packs that other branches have too are met again.
   * Answers the first page that is not done.
   */
  async branch(reference: BranchReference, from: number): Promise<number> {
    const branch = await branchOf(this.#snapshot, reference);
    const seen = new Set<string>();
    const flights = new InFlight(retainsInFlight);
    try {
      for (const page of branch.pages) {
        if (page.index < from) continue;
        if (this.#options.outOfTime()) {
          await flights.settle();
          return page.index;
        }
        await flights.launch(() => this.#retain(this.#keys.page(page.name)));
        for (const pack of page.packs.filter((name) => !seen.has(name))) {
          seen.add(pack);
          await flights.launch(() => this.#retainPack(pack));
        }
      }
      await flights.launch(() => this.#retain(this.#keys.page(reference.name)));
      await flights.settle();
    } finally {
      await flights.drain();
    }
    return (reference.index + 1) * branchPages;
  }

  /** What all else hangs on. A lost `domain.json` is none of the snapshot's damage: its root has what readers need of it. */
  async ends(): Promise<void> {
    if (await this.#snapshot.store.head(this.#keys.record)) await this.#retain(this.#keys.record);
    await this.#retain(this.#keys.root(this.#snapshot.snapshotId));
  }

  /** A pack that was compacted before the store was told to lock is there in its newest form. */
  async #retainPack(pack: string): Promise<void> {
    try {
      await this.#retain(this.#keys.pack(pack));
    } catch (error) {
      const { store, domain } = this.#snapshot;
      const newest = isDamage(error) ? (await compactedForms(store, domain, pack)).at(-1) : undefined;
      if (!newest) throw error;
      await this.#retain(newest.key);
    }
  }

  #retain(key: string): Promise<void> {
    const { mode, until } = this.#options;
    return this.#snapshot.store.retain(key, { mode, until });
  }
}
