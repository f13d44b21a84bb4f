/** How long the backups of a store are locked, as an import finds it. */
import { StoreRefused } from "../domain/errors.ts";
import { domainKeys } from "../repository/layout.ts";
import type { ObjectStore } from "../repository/object-store.ts";

/** Asks whether the store has Object Lock once, when the first backup is looked at, and each root only if it has. */
export class ImportedLocks {
  readonly #store: ObjectStore;
  readonly #refused: (error: StoreRefused) => void;
  #locks: Promise<boolean> | undefined;

  /** `refused` hears of a store that does not let its locks be read, once. Then none are told, and no more is asked. */
  constructor(store: ObjectStore, refused: (error: StoreRefused) => void) {
    this.#store = store;
    this.#refused = refused;
  }

  /**
   * ISO 8601; undefined where nothing locks the backup, or the store does not say. The root tells for all of the backup: it is retained last, and as long as
   * the rest. Throws what passes, so that no lock is missed for it.
   */
  async lockedUntil(domain: string, snapshotId: string): Promise<string | undefined> {
    try {
      this.#locks ??= this.#store.objectLockEnabled();
      if (!(await this.#locks)) return undefined;
      return (await this.#store.retainedUntil(domainKeys(domain).root(snapshotId)))?.toISOString();
    } catch (error) {
      if (!(error instanceof StoreRefused)) throw error;
      this.#locks = Promise.resolve(false);
      this.#refused(error);
      return undefined;
    }
  }
}
