/** What a bucket holds, from the bucket alone: domains, the snapshots in them, and what each takes and shares. Nothing is written. */
import { EncryptionKeyUnavailable } from "../domain/errors.ts";
import { openDescription } from "./description.ts";
import { type DomainCipher, openCipher } from "./domain-cipher.ts";
import type { DomainLocation } from "./domain-record.ts";
import { forEachInFlight } from "./in-flight.ts";
import { domainKeys, isPlainName, parsePackName } from "./layout.ts";
import { decodeRoot, type Root, type SnapshotDescription } from "./manifest.ts";
import type { ObjectStore } from "./object-store.ts";
import { branchOf, isDamage } from "./tree.ts";

const domainsPrefix = "domains/";
/** The character after `/`: behind all keys of a domain, and before those of the next. */
const afterSlash = "0";

/** The domains in a store, or those after `after`, with one listing of a page for each: whatever is in them is passed over. */
export async function* domainsIn(store: ObjectStore, after?: string): AsyncGenerator<string> {
  let startAfter = after === undefined ? undefined : `${domainsPrefix}${after}${afterSlash}`;
  for (;;) {
    const key = await firstKey(store, startAfter);
    if (key === undefined) return;
    const [domain = ""] = key.slice(domainsPrefix.length).split("/", 1);
    if (isPlainName(domain)) yield domain;
    startAfter = `${domainsPrefix}${domain}${afterSlash}`;
  }
}

async function firstKey(store: ObjectStore, startAfter: string | undefined): Promise<string | undefined> {
  for await (const { key } of store.list(domainsPrefix, startAfter === undefined ? {} : { startAfter })) return key;
  return undefined;
}

/** A published snapshot as a listing shows it. `publishedAt` is when its root was written. */
export interface ListedSnapshot {
  readonly snapshotId: string;
  readonly publishedAt: Date;
}

/** The snapshots of a domain, or those after `after`, ascending by id. */
export async function* snapshotsIn(store: ObjectStore, domain: string, after?: string): AsyncGenerator<ListedSnapshot> {
  const { roots } = domainKeys(domain);
  for await (const { key, lastModified } of store.list(
    roots,
    after === undefined ? {} : { startAfter: roots + after },
  )) {
    const snapshotId = key.slice(roots.length);
    if (isPlainName(snapshotId)) yield { snapshotId, publishedAt: lastModified };
  }
}

/** HEAD requests at once while a snapshot is looked for. */
const headsInFlight = 16;

/** The domain of a snapshot; undefined when no domain has it. */
export async function domainOf(store: ObjectStore, snapshotId: string): Promise<string | undefined> {
  let found: string | undefined;
  const untilFound = async function* () {
    for await (const domain of domainsIn(store)) {
      if (found !== undefined) return;
      yield domain;
    }
  };
  await forEachInFlight(untilFound(), headsInFlight, async (domain) => {
    if (await store.head(domainKeys(domain).root(snapshotId))) found = domain;
  });
  return found;
}

/** A snapshot's root, or why it cannot be read. */
export type InspectedSnapshot = ListedSnapshot & { readonly domain: string } & (
    | {
        readonly root: Root;
        /** Undefined: it is encrypted, and `keyProblem` says why it cannot be read. */
        readonly description: SnapshotDescription | undefined;
        readonly keyProblem?: string;
      }
    | { readonly damage: string }
  );

/** Reads the roots of one domain. The data key is unwrapped once for all that have the same. */
export class DomainInspection {
  readonly #location: DomainLocation;
  readonly #ciphers = new Map<string, Promise<DomainCipher | undefined>>();

  constructor(location: DomainLocation) {
    this.#location = location;
  }

  /** Throws what is neither damage nor the lack of a key: a store that cannot be reached, or refuses. */
  async read(listed: ListedSnapshot): Promise<InspectedSnapshot> {
    const { store, domain } = this.#location;
    const found = { ...listed, domain };
    const key = domainKeys(domain).root(listed.snapshotId);
    try {
      const object = await store.get(key);
      if (!object) return { ...found, damage: `The object ${key} is missing.` };
      const root = decodeRoot(object, key);
      if (root.snapshotId !== listed.snapshotId)
        return { ...found, damage: `The object ${key} is damaged: it is the root of ${root.snapshotId}.` };
      return { ...found, ...(await this.#opened(object, key, root)) };
    } catch (error) {
      if (isDamage(error)) return { ...found, damage: (error as Error).message };
      throw error;
    }
  }

  /** The root, authenticated where there is a key. */
  async #opened(object: Uint8Array, key: string, root: Root) {
    try {
      const cipher = await this.#cipherOf(root.wrappedKey);
      if (cipher) decodeRoot(object, key, cipher);
      return { root, description: openDescription(cipher, root) };
    } catch (error) {
      if (!(error instanceof EncryptionKeyUnavailable)) throw error;
      return { root, description: openDescription(undefined, root), keyProblem: error.message };
    }
  }

  #cipherOf(wrappedKey: Uint8Array): Promise<DomainCipher | undefined> {
    const name = Buffer.from(wrappedKey).toString("base64");
    const known = this.#ciphers.get(name) ?? openCipher(this.#location, wrappedKey);
    this.#ciphers.set(name, known);
    return known;
  }
}

/** Bytes of the packs and pages of a domain by the job that wrote them. One listing of all of them; memory goes with the number of jobs. */
export async function storedByJob(store: ObjectStore, domain: string): Promise<ReadonlyMap<string, number>> {
  const { packs, pages } = domainKeys(domain);
  const bytes = new Map<string, number>();
  for (const prefix of [packs, pages])
    for await (const { key, size } of store.list(prefix)) {
      const [job = ""] = key.slice(prefix.length).split("/", 1);
      bytes.set(job, (bytes.get(job) ?? 0) + size);
    }
  return bytes;
}

/** The jobs that wrote the packs which a snapshot needs, ascending: its own, and those of the snapshots it shares with. Branches that are damaged tell nothing. */
export async function jobsBehind(location: Pick<DomainLocation, "store" | "domain">, root: Root): Promise<string[]> {
  const jobs = new Set<string>();
  for (const reference of root.branches) {
    const branch = await branchOf(location, reference).catch((error: unknown) => {
      if (isDamage(error)) return undefined;
      throw error;
    });
    for (const { packs } of branch?.pages ?? []) for (const pack of packs) jobs.add(parsePackName(pack)?.jobId ?? "");
  }
  return [...jobs].sort();
}
