/** An object store in memory with versions, for unit tests. `test/contract/object-store.ts` holds it to what the real one does. */
import { hash } from "node:crypto";
import { ObjectLocked, RepositoryDamaged, StoreUnavailable, StoreUnfit } from "../../lambdas/domain/errors.ts";
import {
  type ByteRange,
  type ListedObject,
  mostBytes,
  type ObjectHead,
  type ObjectStore,
  type PutOptions,
  type Retention,
  tooLarge,
} from "../../lambdas/repository/object-store.ts";

export type StoreOperation =
  | "put"
  | "get"
  | "head"
  | "list"
  | "delete"
  | "retain"
  | "retainedUntil"
  | "objectLockEnabled";

interface Version {
  readonly body: Uint8Array;
  readonly modified: Date;
  readonly retention?: Retention;
}

export interface MemoryObjectStoreOptions {
  /** Called before each operation takes effect; what it throws, the operation throws. May wait, to let others go first. */
  readonly before?: (operation: StoreOperation, key: string) => void | Promise<void>;
  /** Whether `head` tells the object's SHA-256. Default true. */
  readonly checksums?: boolean;
  /** Whether objects can be retained. Default false, as of buckets. */
  readonly objectLock?: boolean;
  readonly now?: () => number;
}

export class MemoryObjectStore implements ObjectStore {
  readonly #options: MemoryObjectStoreOptions;
  /** Versions of each key, oldest first. */
  readonly #objects = new Map<string, Version[]>();

  constructor(options: MemoryObjectStoreOptions = {}) {
    this.#options = options;
  }

  #now(): number {
    return (this.#options.now ?? Date.now)();
  }

  async put(key: string, body: Uint8Array, options?: PutOptions): Promise<"written" | "exists"> {
    await this.#options.before?.("put", key);
    if (options?.sha256 !== undefined && hash("sha256", body, "hex") !== options.sha256)
      throw new StoreUnavailable(`The body of ${key} is not what its checksum tells.`);
    const versions = this.#objects.get(key) ?? [];
    if (options?.ifAbsent && versions.length > 0) return "exists";
    const modified = new Date(this.#now());
    this.#objects.set(key, [...versions, { body: Uint8Array.from(body), modified }]);
    return "written";
  }

  async get(key: string, range?: ByteRange, most = mostBytes): Promise<Uint8Array | undefined> {
    await this.#options.before?.("get", key);
    const body = this.#objects.get(key)?.at(-1)?.body;
    const bytes = range ? body?.slice(range.offset, range.offset + range.length) : body?.slice();
    if (bytes && !range?.into && bytes.length > most) throw tooLarge(key, bytes.length, most);
    if (!bytes || !range?.into) return bytes;
    range.into.set(bytes);
    return range.into.subarray(0, bytes.length);
  }

  async head(key: string): Promise<ObjectHead | undefined> {
    await this.#options.before?.("head", key);
    const body = this.#objects.get(key)?.at(-1)?.body;
    if (!body) return undefined;
    return this.#options.checksums === false
      ? { size: body.length }
      : { size: body.length, sha256: hash("sha256", body, "hex") };
  }

  async *list(prefix: string, options?: { startAfter?: string }): AsyncGenerator<ListedObject> {
    await this.#options.before?.("list", prefix);
    for (const key of this.keys(prefix)) {
      const current = this.#objects.get(key)?.at(-1);
      const isAfter = options?.startAfter === undefined || key > options.startAfter;
      if (current && isAfter) yield { key, size: current.body.length, lastModified: current.modified };
    }
  }

  async deleteEveryVersion(keys: readonly string[]): Promise<void> {
    for (const key of keys) {
      await this.#options.before?.("delete", key);
      this.#delete(key);
    }
  }

  async deleteEveryVersionBelow(
    prefix: string,
    options?: { until?: () => boolean; last?: string },
  ): Promise<{ deleted: number; finished: boolean }> {
    let deleted = 0;
    const keys = this.keys(prefix);
    const isLast = (key: string) => key === options?.last;
    for (const key of [...keys.filter((key) => !isLast(key)), ...keys.filter(isLast)]) {
      if (options?.until?.()) return { deleted, finished: false };
      await this.#options.before?.("delete", key);
      deleted += this.#delete(key);
    }
    return { deleted, finished: true };
  }

  /** How many versions went. Those under a lock stay. */
  #delete(key: string): number {
    const versions = this.#objects.get(key) ?? [];
    const locked = versions.filter(({ retention }) => retention && retention.until.getTime() > this.#now());
    if (locked.length === 0) this.#objects.delete(key);
    else this.#objects.set(key, locked);
    const until = locked.at(-1)?.retention?.until;
    if (until) throw new ObjectLocked(`${key} is under Object Lock until ${until.toISOString()}.`, until);
    return versions.length;
  }

  async retain(key: string, { mode, until }: Retention): Promise<void> {
    await this.#options.before?.("retain", key);
    if (!this.#options.objectLock) throw new StoreUnfit("The double in memory was made without Object Lock.");
    const versions = this.#objects.get(key) ?? [];
    const current = versions.at(-1);
    if (!current) throw new RepositoryDamaged(`The object ${key} is missing.`);
    const earlier = current.retention;
    const retention: Retention = {
      mode: earlier?.mode === "COMPLIANCE" ? "COMPLIANCE" : mode,
      until: new Date(Math.max(Math.ceil(until.getTime() / 1000) * 1000, earlier?.until.getTime() ?? 0)),
    };
    this.#objects.set(key, [...versions.slice(0, -1), { ...current, retention }]);
  }

  async retainedUntil(key: string): Promise<Date | undefined> {
    await this.#options.before?.("retainedUntil", key);
    return this.retentionOf(key)?.until;
  }

  async objectLockEnabled(): Promise<boolean> {
    await this.#options.before?.("objectLockEnabled", "");
    return this.#options.objectLock ?? false;
  }

  /** How long the current version is retained. */
  retentionOf(key: string): Retention | undefined {
    return this.#objects.get(key)?.at(-1)?.retention;
  }

  /** Keys below `prefix`, ascending. */
  keys(prefix = ""): string[] {
    return [...this.#objects.keys()].filter((key) => key.startsWith(prefix)).sort();
  }

  /** Changes an object behind the repository's back, as a damaged disk does. `undefined` makes it vanish. */
  damage(key: string, change: (body: Uint8Array) => Uint8Array | undefined): void {
    const current = this.#objects.get(key)?.at(-1);
    if (!current) throw new Error(`There is no object ${key} to damage.`);
    const body = change(current.body.slice());
    if (body) this.#objects.set(key, [{ ...current, body }]);
    else this.#objects.delete(key);
  }
}
