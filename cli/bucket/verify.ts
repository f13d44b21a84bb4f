/** `snapferry store verify`: whether the snapshots in a bucket can be read, and what of them is lost. */

import type { LostRange } from "../../lambdas/repository/damage.ts";
import { DomainInspection, domainsIn, snapshotsIn } from "../../lambdas/repository/inspect.ts";
import { checkSnapshot } from "../../lambdas/repository/inspect-check.ts";
import { ListedPacks } from "../../lambdas/repository/inspect-packs.ts";
import { bytesToRead } from "../../lambdas/repository/salvage.ts";
import { isDamage } from "../../lambdas/repository/tree.ts";
import { CliError, exitCodes } from "../exit-codes.ts";
import { printable } from "../format.ts";
import { showProgress } from "../progress.ts";
import type { Terminal } from "../terminal.ts";
import type { BucketFlags } from "./flags.ts";
import { requireDomain } from "./inspect.ts";
import { JsonStream } from "./json-stream.ts";
import { type OpenBucket, openBucket } from "./location.ts";
import { lostText } from "./lost-text.ts";
import { bucketProblem } from "./problems.ts";

export interface VerifyOptions extends BucketFlags {
  readonly json?: boolean;
  readonly all?: boolean;
  readonly full?: boolean;
  readonly domain?: string;
}

/** A snapshot's verdict, as `--json` shows it. */
interface Verdict {
  readonly snapshotId: string;
  readonly domain: string;
  readonly result: "intact" | "damaged";
  readonly pages: number;
  readonly chunks: number;
  readonly chunksRead: number;
  readonly lost: readonly LostRange[];
  /** Why nothing below the root could be looked at. */
  readonly damage?: string;
  /** Why the root's authenticity could not be checked. */
  readonly keyProblem?: string;
}

/** Throws CliError: with the code for damage when any snapshot is damaged, after all were looked at. */
export async function verifyBucket(
  snapshotIds: readonly string[],
  options: VerifyOptions,
  terminal: Terminal,
): Promise<void> {
  if (snapshotIds.length > 0 === (options.all ?? false))
    throw new CliError(exitCodes.usage, "Name the snapshots to verify, or give --all.");
  const bucket = await openBucket(options);
  let interrupted = false;
  const stopListening = terminal.onInterrupt(() => {
    interrupted = true;
  });
  const json = options.json
    ? new JsonStream(terminal, { bucket: options.bucket, full: options.full ?? false }, "snapshots")
    : undefined;
  const counts = { checked: 0, damaged: 0 };
  try {
    for await (const [domain, ids] of domainsToVerify(bucket, snapshotIds, options)) {
      const packs = await ListedPacks.of(bucket.store, domain);
      for await (const snapshotId of ids) {
        const work = { domain, snapshotId, packs, full: options.full ?? false, stopped: () => interrupted };
        const verdict = await verify(bucket, work, terminal);
        if (interrupted) throw new CliError(exitCodes.interrupted, `Interrupted: ${snapshotId} was not finished.`);
        counts.checked += 1;
        counts.damaged += verdict.result === "damaged" ? 1 : 0;
        if (json) json.item(verdict);
        else terminal.out(verdictText(verdict));
      }
    }
    json?.end(counts);
    if (counts.damaged > 0)
      throw new CliError(
        exitCodes.damaged,
        `${counts.damaged} of ${counts.checked} snapshots are damaged. snapferry store restore --salvage keeps what is left of one.`,
      );
  } catch (error) {
    throw bucketProblem(error);
  } finally {
    stopListening();
    bucket.close();
  }
}

/** Each domain with its snapshots to verify: packs are listed once for all of a domain. */
async function* domainsToVerify(
  bucket: OpenBucket,
  snapshotIds: readonly string[],
  { all, domain: given }: VerifyOptions,
): AsyncGenerator<[domain: string, snapshotIds: Iterable<string> | AsyncIterable<string>]> {
  if (all) {
    for await (const domain of given === undefined ? domainsIn(bucket.store) : [given])
      yield [domain, idsIn(bucket, domain)];
    return;
  }
  const domains = new Map<string, string[]>();
  for (const snapshotId of snapshotIds) {
    const domain = await requireDomain(bucket, snapshotId, given);
    domains.set(domain, [...(domains.get(domain) ?? []), snapshotId]);
  }
  yield* domains;
}

async function* idsIn({ store }: OpenBucket, domain: string): AsyncGenerator<string> {
  for await (const { snapshotId } of snapshotsIn(store, domain)) yield snapshotId;
}

async function verify(
  bucket: OpenBucket,
  {
    domain,
    snapshotId,
    ...work
  }: { domain: string; snapshotId: string; packs: ListedPacks; full: boolean; stopped: () => boolean },
  terminal: Terminal,
): Promise<Verdict> {
  const nothing = { snapshotId, domain, pages: 0, chunks: 0, chunksRead: 0, lost: [] };
  const source = { ...bucket, domain };
  const inspected = await new DomainInspection(source).read({ snapshotId, publishedAt: new Date(0) });
  if ("damage" in inspected) return { ...nothing, result: "damaged", damage: inspected.damage };
  const { root, keyProblem } = inspected;
  const progress = showProgress(terminal, snapshotId, bytesToRead(root));
  try {
    const check = await checkSnapshot(source, root, { ...work, onProgress: progress.show });
    const result = check.lost.length > 0 ? "damaged" : "intact";
    return { snapshotId, domain, result, ...check, ...(keyProblem === undefined ? {} : { keyProblem }) };
  } catch (error) {
    if (!isDamage(error)) throw error;
    return { ...nothing, result: "damaged", damage: (error as Error).message };
  } finally {
    progress.stop();
  }
}

function verdictText({ snapshotId, result, pages, chunks, chunksRead, lost, damage, keyProblem }: Verdict): string {
  const read = chunksRead === 0 ? "" : `, ${chunksRead} of them read`;
  const lines = [
    `${snapshotId}  ${result}  ${pages} pages, ${chunks} chunks${read}`,
    ...(damage === undefined ? [] : [`  ${damage}`]),
    ...(keyProblem === undefined ? [] : [`  Whether it is authentic was not checked: ${keyProblem}`]),
    ...lostText(lost),
  ];
  return lines.map((line) => `${printable(line)}\n`).join("");
}
