/** Rows for the backups that a store holds: after tables were lost, or for a bucket of an earlier deployment. A page at a time. */
import { SnapferryError, StoreRefused } from "../domain/errors.ts";
import { defaultStoreId } from "../domain/inventory.ts";
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
import { getSnapshot } from "../tables/snapshots.ts";
import { getStore } from "../tables/stores.ts";
import { importBackup } from "../transactions/import-snapshot.ts";
import type { ApiRequest } from "./api-handler.ts";
import { encodeCursor } from "./cursor.ts";
import type { ApiResponse, Caller } from "./http.ts";
import type { ImportPosition } from "./import-position.ts";
import type { operations } from "./operations.ts";
import { notFound, Problem } from "./problem.ts";
import type { ImportReport } from "./response-schemas.ts";

/** API Gateway gives up after 29 seconds, and the last snapshot begun takes a second or two. */
const workMilliseconds = 18_000;

/** What the service names its domains by. Others are not its own. */
const domainName = /^[0-9a-f]{32}$/;

/** May be called again at any time: what has a row is left alone. */
export async function importBackups(
  services: Services,
  { caller, id, query }: ApiRequest<(typeof operations)["importBackups"]>,
): Promise<ApiResponse> {
  if (id !== defaultStoreId && !(await getStore(services.database, caller.tenant, id))) throw notFound("store", id);
  try {
    const run = new Import(services, caller, id);
    return { status: 200, body: await run.page(query) };
  } catch (error) {
    if (error instanceof StoreRefused || (error instanceof SnapferryError && error.retryable))
      throw new Problem("unavailable", `${id} cannot be read now: ${error.message}`, { cause: error });
    throw error;
  }
}

type Verdict = { readonly described: DescribedSnapshot; readonly root: Root } | { readonly refusal: string };

/** What a root says, or why nothing can be made of it. */
function judge(inspected: InspectedSnapshot): Verdict {
  if ("damage" in inspected) return { refusal: inspected.damage };
  const { root, description, domain, keyProblem = "" } = inspected;
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
  readonly #imported: ImportReport["imported"] = [];
  readonly #refused: ImportReport["refused"] = [];
  #known = 0;

  constructor(services: Services, { tenant }: Caller, storeId: string) {
    this.#services = services;
    this.#tenant = tenant;
    this.#storeId = storeId;
  }

  async page({
    limit,
    cursor,
  }: {
    readonly limit: number;
    readonly cursor?: ImportPosition | undefined;
  }): Promise<ImportReport> {
    const store = await this.#services.objectStore(this.#tenant, this.#storeId);
    const keys = await this.#services.keyService(this.#tenant, this.#storeId);
    const mayBeUnencrypted = this.#storeId === defaultStoreId;
    const deadline = Date.now() + workMilliseconds;
    let seen = 0;
    for await (const [domain, after] of domainsFrom(store, cursor)) {
      let position = { domain, snapshotId: after };
      if (Date.now() > deadline) return this.#report(position);
      const inspection = new DomainInspection({ store, domain, ...(keys && { keys, mayBeUnencrypted }) });
      let isOwn = this.#storeId !== defaultStoreId;
      for await (const listed of snapshotsIn(store, domain, after)) {
        if (seen === limit || Date.now() > deadline) return this.#report(position);
        const taken = await this.#take(inspection, listed);
        position = { domain, snapshotId: listed.snapshotId };
        seen += 1;
        if (taken.is === "own") isOwn = true;
        else if (isOwn) this.#refused.push({ snapshotId: listed.snapshotId, domain, reason: taken.reason });
        if (taken.is === "foreign") break;
      }
    }
    return this.#report(undefined);
  }

  #report(next: ImportPosition | undefined): ImportReport {
    return {
      imported: this.#imported,
      known: this.#known,
      refused: this.#refused,
      ...(next === undefined ? {} : { nextCursor: encodeCursor(`${next.domain}/${next.snapshotId}`) }),
    };
  }

  async #take(inspection: DomainInspection, listed: ListedSnapshot): Promise<Taken> {
    const { database } = this.#services;
    const tenant = this.#tenant;
    const { snapshotId, publishedAt } = listed;
    if (await getSnapshot(database, tenant, snapshotId)) {
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
    const found = { tenant, storeId: this.#storeId, snapshotId, jobId, sizeBytes, encrypted, publishedAt, described };
    const outcome = await importBackup(database, found, this.#services.now().toISOString());
    if (outcome === "written") this.#imported.push({ snapshotId, volumeId: described.volumeId });
    else this.#known += 1;
    return { is: "own" };
  }
}

/** The domains to look through, the one of the cursor first, each with the snapshot to go on behind. */
async function* domainsFrom(store: ObjectStore, cursor: ImportPosition | undefined): AsyncGenerator<[string, string]> {
  if (cursor) yield [cursor.domain, cursor.snapshotId];
  for await (const domain of domainsIn(store, cursor?.domain)) if (domainName.test(domain)) yield [domain, ""];
}
