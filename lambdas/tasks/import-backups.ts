/**
 * Rows for the backups that a store holds: after tables were lost, or for a bucket of an earlier deployment. A page at a time, in a
 * function of its own: those that face the network read no backup and unwrap no key.
 */
import type { ImportAnswer, ImportedPage, ImportPosition, ImportRequest } from "../domain/backup-import.ts";
import { SnapferryError } from "../domain/errors.ts";
import { idPattern } from "../domain/ids.ts";
import { dedupDomain, defaultStoreId } from "../domain/inventory.ts";
import { isPassingFault } from "../domain/passing-faults.ts";
import { type DescribedSnapshot, readDescription } from "../domain/snapshot-description.ts";
import {
  DomainInspection,
  domainsIn,
  type InspectedSnapshot,
  type ListedSnapshot,
  snapshotsIn,
} from "../repository/inspect.ts";
import type { Root } from "../repository/manifest.ts";
import type { ObjectStore } from "../repository/object-store.ts";
import type { Services } from "../services.ts";
import { getSnapshot, recordLongerLock } from "../tables/snapshots.ts";
import { importBackup } from "../transactions/import-snapshot.ts";
import { ImportedLocks } from "./imported-locks.ts";

/** The API that waits gives up after 29 seconds: what is left is for a cold start and the last snapshot begun. */
const workMilliseconds = 16_000;

/** What the service names its domains by. Others are not its own. */
const domainName = /^[0-9a-f]{32}$/;

/** May be called again at any time: what has a row is left alone, but for a lock in the store that ends later than the row says. */
export async function importBackups(services: Services, request: ImportRequest): Promise<ImportAnswer> {
  try {
    const page = await new Import(services, request).page(request);
    const { tenant, storeId } = request;
    const counts = { imported: page.imported.length, known: page.known, refused: page.refused.length };
    services.logger.info("backups imported", { tenant, storeId, ...counts });
    return page;
  } catch (error) {
    if (error instanceof SnapferryError) return { problem: error.message, passes: error.retryable };
    if (isPassingFault(error)) return { problem: error.message, passes: true };
    throw error;
  }
}

type Verdict = { readonly described: DescribedSnapshot; readonly root: Root } | { readonly refusal: string };

/** What a root says, or why nothing can be made of it. */
function judge(inspected: InspectedSnapshot): Verdict {
  if ("damage" in inspected) return { refusal: inspected.damage };
  const { root, description, domain, keyProblem = "" } = inspected;
  if (!idPattern("snapshot").test(root.snapshotId) || !idPattern("job").test(root.jobId))
    return { refusal: "Its id, or that of the job that made it, is none of Snapferry's." };
  if (description === undefined) return { refusal: `Its description is encrypted and cannot be read: ${keyProblem}` };
  const described = readDescription(description, domain);
  return typeof described === "string" ? { refusal: described } : { described, root };
}

/** What came of one snapshot. In the stack's own bucket what is not the caller's own is not the caller's to know, reasons included. */
type Taken = { readonly is: "own" } | { readonly is: "foreign" | "unclear"; readonly reason: string };

class Import {
  readonly #services: Services;
  readonly #tenant: string;
  readonly #storeId: string;
  readonly #imported: ImportedPage["imported"][number][] = [];
  readonly #refused: ImportedPage["refused"][number][] = [];
  #known = 0;

  constructor(services: Services, { tenant, storeId }: ImportRequest) {
    this.#services = services;
    this.#tenant = tenant;
    this.#storeId = storeId;
  }

  async page({ limit, after: begin }: ImportRequest): Promise<ImportedPage> {
    const deadline = Date.now() + workMilliseconds;
    const isLate = () => Date.now() > deadline;
    const store = await this.#services.objectStore(this.#tenant, this.#storeId, isLate);
    const keys = await this.#services.keyService(this.#tenant, this.#storeId);
    const locks = this.#locksOf(store);
    const mayBeUnencrypted = this.#storeId === defaultStoreId;
    let seen = 0;
    for await (const [domain, after] of domainsFrom(store, begin)) {
      let position = { domain, snapshotId: after };
      if (isLate()) return this.#report(position);
      const inspection = new DomainInspection({ store, domain, ...(keys && { keys, mayBeUnencrypted }) });
      let isOwn = await this.#isOwn(position);
      const unclear: ImportedPage["refused"][number][] = [];
      for await (const listed of snapshotsIn(store, domain, after)) {
        if (seen === limit || isLate()) return this.#report(position);
        const taken = await this.#take({ inspection, locks }, domain, listed);
        position = { domain, snapshotId: listed.snapshotId };
        seen += 1;
        if (taken.is === "own") isOwn = true;
        else unclear.push({ snapshotId: listed.snapshotId, domain, reason: taken.reason });
        if (isOwn) this.#refused.push(...unclear.splice(0));
        if (taken.is === "foreign") break;
      }
    }
    return this.#report(undefined);
  }

  /** Undefined for the stack's own bucket: it has no Object Lock, and the function no right to ask. */
  #locksOf(store: ObjectStore): ImportedLocks | undefined {
    const about = { tenant: this.#tenant, storeId: this.#storeId };
    if (this.#storeId === defaultStoreId) return undefined;
    return new ImportedLocks(store, (error) =>
      this.#services.logger.warn("a store does not let its locks be read", { ...about, error }),
    );
  }

  /** Whether all of the domain is the caller's, as far as that is known before anything of it is read: by the snapshot that is behind us. */
  async #isOwn({ domain, snapshotId }: ImportPosition): Promise<boolean> {
    if (this.#storeId !== defaultStoreId) return true;
    return snapshotId !== "" && this.#isKnown(domain, snapshotId);
  }

  async #isKnown(domain: string, snapshotId: string): Promise<boolean> {
    const snapshot = await getSnapshot(this.#services.database, this.#tenant, snapshotId);
    return snapshot !== undefined && dedupDomain(this.#tenant, snapshot.volumeId) === domain;
  }

  #report(next: ImportPosition | undefined): ImportedPage {
    return {
      imported: this.#imported,
      known: this.#known,
      refused: this.#refused,
      ...(next === undefined ? {} : { next }),
    };
  }

  /** What the store locks for longer than the row says: somebody has extended it. */
  async #extendLock(locks: ImportedLocks, domain: string, snapshotId: string): Promise<void> {
    const lockedUntil = await locks.lockedUntil(domain, snapshotId);
    if (lockedUntil === undefined) return;
    const row = { tenant: this.#tenant, id: snapshotId, storeId: this.#storeId };
    await recordLongerLock(this.#services.database, row, lockedUntil);
  }

  async #take(
    { inspection, locks }: { inspection: DomainInspection; locks: ImportedLocks | undefined },
    domain: string,
    listed: ListedSnapshot,
  ): Promise<Taken> {
    const { database } = this.#services;
    const tenant = this.#tenant;
    const { snapshotId, publishedAt } = listed;
    if (await this.#isKnown(domain, snapshotId)) {
      if (locks) await this.#extendLock(locks, domain, snapshotId);
      this.#known += 1;
      return { is: "own" };
    }
    const verdict = judge(await inspection.read(listed));
    if ("refusal" in verdict) return { is: "unclear", reason: verdict.refusal };
    const { root, described } = verdict;
    if (described.tenant !== tenant)
      return { is: "foreign", reason: "It is of another tenant, as is all of its domain." };
    const { jobId, sizeBytes } = root;
    const encrypted = root.wrappedKey.length > 0;
    const lockedUntil = await locks?.lockedUntil(domain, snapshotId);
    const read = { snapshotId, jobId, sizeBytes, encrypted, publishedAt, lockedUntil, described };
    const found = { tenant, storeId: this.#storeId, ...read };
    const outcome = await importBackup(database, found, this.#services.now().toISOString());
    if (outcome === "written") this.#imported.push({ snapshotId, volumeId: described.volumeId });
    else this.#known += 1;
    return { is: "own" };
  }
}

/** The domains to look through, the one of `after` first, each with the snapshot to go on behind. */
async function* domainsFrom(store: ObjectStore, after: ImportPosition | undefined): AsyncGenerator<[string, string]> {
  if (after) yield [after.domain, after.snapshotId];
  for await (const domain of domainsIn(store, after?.domain)) if (domainName.test(domain)) yield [domain, ""];
}
