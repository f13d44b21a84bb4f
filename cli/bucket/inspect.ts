/** `snapferry store inspect`: what a bucket holds, domain by domain. */
import {
  DomainInspection,
  domainOf,
  domainsIn,
  type InspectedSnapshot,
  jobsBehind,
  snapshotsIn,
  storedByJob,
} from "../../lambdas/repository/inspect.ts";
import { bytesToRead } from "../../lambdas/repository/salvage.ts";
import { CliError, exitCodes } from "../exit-codes.ts";
import { ago, bytes, details, printable, table } from "../format.ts";
import type { Terminal } from "../terminal.ts";
import type { BucketFlags } from "./flags.ts";
import { JsonStream } from "./json-stream.ts";
import { type OpenBucket, openBucket } from "./location.ts";
import { bucketProblem } from "./problems.ts";

export interface InspectOptions extends BucketFlags {
  readonly json?: boolean;
  readonly domain?: string;
  readonly sizes?: boolean;
}

/** A snapshot as `--json` shows it. */
interface ShownSnapshot {
  readonly snapshotId: string;
  readonly domain: string;
  /** When the root was written, ISO 8601. */
  readonly publishedAt: string;
  /** What is wrong with the root. The members after it are missing then. */
  readonly damage?: string;
  readonly jobId?: string;
  readonly format?: number;
  readonly encrypted?: boolean;
  /** Why an encrypted description is not shown. */
  readonly keyProblem?: string;
  /** Of the volume. */
  readonly sizeBytes?: number;
  /** Of chunks that are not zeros. */
  readonly dataBytes?: number;
  readonly chunkBytes?: number;
  /** What came to the store with it: with `--sizes` as the store has it now, else as it was when it was published. */
  readonly storedBytes?: number;
  /** With `--sizes`: snapshots whose packs it needs too. */
  readonly sharesWith?: readonly string[];
  /** With `--sizes`: whether it needs packs that came with snapshots which are deleted by now. */
  readonly sharesWithDeleted?: boolean;
  readonly description?: Readonly<Record<string, string>>;
}

/** The format that roots which can be read have. */
const format = 1;

/** Lists everything, or shows the one snapshot. Throws CliError, with the code for damage when a root is damaged. */
export async function inspectBucket(
  snapshotId: string | undefined,
  options: InspectOptions,
  terminal: Terminal,
): Promise<void> {
  const bucket = await openBucket(options);
  try {
    if (snapshotId === undefined) await listAll(bucket, options, terminal);
    else await showOne(bucket, snapshotId, options, terminal);
  } catch (error) {
    throw bucketProblem(error);
  } finally {
    bucket.close();
  }
}

async function listAll(bucket: OpenBucket, options: InspectOptions, terminal: Terminal): Promise<void> {
  const json = options.json ? new JsonStream(terminal, { bucket: options.bucket, format }, "domains") : undefined;
  const counts = { domains: 0, snapshots: 0, damaged: 0 };
  for await (const domain of domainsToShow(bucket, options)) {
    const snapshots = await snapshotsToShow(bucket, domain, options.sizes ?? false);
    counts.domains += 1;
    counts.snapshots += snapshots.length;
    counts.damaged += snapshots.filter(({ damage }) => damage !== undefined).length;
    if (json) json.item({ domain, snapshots });
    else terminal.out(domainText(domain, snapshots));
  }
  json?.end();
  if (!json) terminal.out(`${counts.domains} domains, ${counts.snapshots} snapshots.\n`);
  if (counts.damaged > 0)
    throw new CliError(exitCodes.damaged, `${counts.damaged} of ${counts.snapshots} snapshots have damaged roots.`);
}

async function* domainsToShow({ store }: OpenBucket, { domain }: InspectOptions): AsyncGenerator<string> {
  if (domain === undefined) yield* domainsIn(store);
  else yield domain;
}

async function snapshotsToShow(bucket: OpenBucket, domain: string, sizes: boolean): Promise<ShownSnapshot[]> {
  const inspection = new DomainInspection({ ...bucket, domain });
  const found: InspectedSnapshot[] = [];
  for await (const listed of snapshotsIn(bucket.store, domain)) found.push(await inspection.read(listed));
  const shown = found.map(shownSnapshot);
  return sizes ? withSizes(bucket, domain, found, shown) : shown;
}

function shownSnapshot(snapshot: InspectedSnapshot): ShownSnapshot {
  const { snapshotId, domain } = snapshot;
  const found = { snapshotId, domain, publishedAt: snapshot.publishedAt.toISOString() };
  if ("damage" in snapshot) return { ...found, damage: snapshot.damage };
  const { root, description, keyProblem } = snapshot;
  const stored = Number(description?.storedBytes);
  return {
    ...found,
    jobId: root.jobId,
    format,
    encrypted: root.wrappedKey.length > 0,
    ...(keyProblem === undefined ? {} : { keyProblem }),
    sizeBytes: root.sizeBytes,
    dataBytes: Math.min(bytesToRead(root), root.sizeBytes),
    chunkBytes: root.chunkBytes,
    ...(Number.isFinite(stored) ? { storedBytes: stored } : {}),
    ...(description === undefined ? {} : { description }),
  };
}

/** As the store has them now: of jobs whose snapshots are deleted the rest that others need is nobody's own. */
async function withSizes(
  { store }: OpenBucket,
  domain: string,
  found: readonly InspectedSnapshot[],
  shown: readonly ShownSnapshot[],
): Promise<ShownSnapshot[]> {
  const stored = await storedByJob(store, domain);
  const publishers = new Map(shown.map(({ jobId, snapshotId }) => [jobId, snapshotId]));
  const sized: ShownSnapshot[] = [];
  for (const [at, snapshot] of found.entries()) {
    const text = shown[at]!;
    if ("damage" in snapshot) {
      sized.push(text);
      continue;
    }
    const jobs = (await jobsBehind({ store, domain }, snapshot.root)).filter((job) => job !== snapshot.root.jobId);
    sized.push({
      ...text,
      storedBytes: stored.get(snapshot.root.jobId) ?? 0,
      sharesWith: jobs.flatMap((job) => publishers.get(job) ?? []),
      sharesWithDeleted: jobs.some((job) => !publishers.has(job)),
    });
  }
  return sized;
}

async function showOne(
  bucket: OpenBucket,
  snapshotId: string,
  options: InspectOptions,
  terminal: Terminal,
): Promise<void> {
  const domain = await requireDomain(bucket, snapshotId, options.domain);
  const snapshots = await snapshotsToShow(bucket, domain, true);
  const shown = snapshots.find((snapshot) => snapshot.snapshotId === snapshotId);
  if (!shown) throw missing(snapshotId, options.bucket);
  terminal.out(options.json ? `${JSON.stringify(shown, null, 2)}\n` : snapshotText(shown));
  if (shown.damage !== undefined) throw new CliError(exitCodes.damaged, `${snapshotId} has a damaged root.`);
}

/** The domain that has the snapshot. Throws CliError when none has. */
export async function requireDomain(
  { store }: Pick<OpenBucket, "store">,
  snapshotId: string,
  given: string | undefined,
): Promise<string> {
  const domain = given ?? (await domainOf(store, snapshotId));
  if (domain === undefined) throw missing(snapshotId);
  return domain;
}

function missing(snapshotId: string, bucket?: string): CliError {
  const where = bucket === undefined ? "there" : `in ${bucket}`;
  return new CliError(
    exitCodes.failed,
    `There is no snapshot ${JSON.stringify(snapshotId)} ${where}. snapferry store inspect lists what there is; mind --prefix.`,
  );
}

function domainText(domain: string, snapshots: readonly ShownSnapshot[]): string {
  const [first] = snapshots;
  const encrypted = snapshots.some((snapshot) => snapshot.encrypted) ? ", encrypted" : "";
  const problem = snapshots.find(({ keyProblem }) => keyProblem !== undefined)?.keyProblem;
  const rows = snapshots.map((snapshot) =>
    snapshot.damage === undefined
      ? [
          snapshot.snapshotId,
          printable(snapshot.description?.name ?? "–"),
          printable(snapshot.description?.volumeName ?? snapshot.description?.volumeId ?? "–"),
          ago(snapshot.description?.createdAt ?? snapshot.publishedAt),
          bytes(snapshot.sizeBytes),
          bytes(snapshot.dataBytes),
          bytes(snapshot.storedBytes),
          sharing(snapshot),
        ]
      : [snapshot.snapshotId, "DAMAGED", printable(snapshot.damage)],
  );
  const head = ["ID", "NAME", "VOLUME", "CREATED", "LOGICAL", "DATA", "STORED", "SHARES"];
  const tenant = first?.description?.tenant === undefined ? "" : `, tenant ${printable(first.description.tenant)}`;
  const lines = [
    `Domain ${domain}${tenant}${encrypted}`,
    ...(problem === undefined ? [] : [`  ${printable(problem)}`]),
  ];
  return `${lines.join("\n")}\n${table(head, rows)}\n`;
}

function sharing({ sharesWith, sharesWithDeleted }: ShownSnapshot): string {
  if (sharesWith === undefined) return "";
  const others = sharesWith.length + (sharesWithDeleted ? 1 : 0);
  if (others === 0) return "nothing";
  return `with ${sharesWith.length}${sharesWithDeleted ? " and deleted ones" : ""}`;
}

function snapshotText(snapshot: ShownSnapshot): string {
  return details([
    ["Id", snapshot.snapshotId],
    ["Domain", snapshot.domain],
    ["Damage", snapshot.damage && printable(snapshot.damage)],
    ["Published", snapshot.publishedAt],
    ["Job", snapshot.jobId && printable(snapshot.jobId)],
    ["Format", snapshot.format === undefined ? undefined : String(snapshot.format)],
    ["Encrypted", snapshot.encrypted === undefined ? undefined : snapshot.encrypted ? "yes" : "no"],
    ["Key", snapshot.keyProblem && printable(snapshot.keyProblem)],
    ["Logical", bytes(snapshot.sizeBytes)],
    ["Data", bytes(snapshot.dataBytes)],
    ["Chunks", bytes(snapshot.chunkBytes)],
    ["Stored", bytes(snapshot.storedBytes)],
    [
      "Shares with",
      [...(snapshot.sharesWith ?? []), ...(snapshot.sharesWithDeleted ? ["deleted ones"] : [])].join(", "),
    ],
    ...Object.entries(snapshot.description ?? {}).map(([name, text]): [string, string] => [
      printable(name),
      printable(text),
    ]),
  ]);
}
