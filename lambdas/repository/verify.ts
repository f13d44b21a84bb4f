/** Before a root is published: is every object that it will need in the store, and is it what was written? */
import { z } from "zod";
import { RepositoryDamaged, VerificationFailed } from "../domain/errors.ts";
import { repositoryFormat, sha256 } from "./binary.ts";
import { distrust } from "./distrust.ts";
import { forEachInFlight } from "./in-flight.ts";
import { attemptOfKey, domainKeys, jobKeys, parsePageName } from "./layout.ts";
import type { ObjectStore } from "./object-store.ts";
import type { BackupTarget } from "./pin.ts";
import { openPlan } from "./planner.ts";
import { decodeRecord, encodeRecord } from "./record.ts";
import { decodeResult, type ShardResult } from "./shard-state.ts";

const selectionSchema = z.object({
  format: z.literal(repositoryFormat),
  planHash: z.string(),
  /** For each shard, from 0 on, the attempt whose result counts. */
  attempts: z.array(z.int().min(0)),
});
export type Selection = Omit<z.infer<typeof selectionSchema>, "format">;

/** Shards at once, and HEAD requests of each: 64 of 20 ms give 3,200 a second, so the 65,000 packs of a full TiB take 20 s. */
const shardsInFlight = 8;
const headsInFlight = 8;
/** How many missing objects an error names. */
const namedObjects = 5;

/**
 * Checks the result of every shard and fixes, in `selection`, which results the root is built from. With `finished: false` call again.
 * Throws VerificationFailed when objects are missing or damaged; the next attempt's copyShard then writes the shards concerned anew.
 */
export async function verifyBackup(
  target: BackupTarget,
  options: { readonly planHash: string; readonly until: () => boolean },
): Promise<{ finished: boolean }> {
  const plan = await openPlan(target, options.planHash);
  if (await readSelection(target, options.planHash)) return { finished: true };
  const progress = (await readProgress(target, options.planHash)) ?? { planHash: options.planHash, attempts: [] };
  const outcome = await verifyShards(target, plan.shards.length, { ...options, attempts: progress.attempts });
  if (outcome.losses.length > 0) throw await reject(target, outcome.losses);
  const record = encodeRecord({ format: repositoryFormat, planHash: options.planHash, attempts: outcome.attempts });
  const keys = jobKeys(target.domain, target.jobId);
  const finished = outcome.attempts.length === plan.shards.length;
  if (finished) await target.store.put(keys.selection, record, { ifAbsent: true });
  else await target.store.put(keys.verified, record);
  return { finished };
}

/** Undefined before {@link verifyBackup} has finished. */
export async function readSelection(target: BackupTarget, planHash: string): Promise<Selection | undefined> {
  const key = jobKeys(target.domain, target.jobId).selection;
  const object = await target.store.get(key);
  if (!object) return undefined;
  const selection = decodeRecord(selectionSchema, object, key);
  if (selection.planHash !== planHash)
    throw new VerificationFailed(`The selection ${key} is of another plan than ${planHash}.`);
  return selection;
}

async function readProgress(target: BackupTarget, planHash: string): Promise<Selection | undefined> {
  const key = jobKeys(target.domain, target.jobId).verified;
  const object = await target.store.get(key);
  const progress = object && decodeRecord(selectionSchema, object, key);
  return progress?.planHash === planHash ? progress : undefined;
}

/** The result of a shard. Throws VerificationFailed when it is gone. */
export async function readResult(target: BackupTarget, shard: number, attempt: number): Promise<ShardResult> {
  const key = jobKeys(target.domain, target.jobId).result(shard, attempt);
  const object = await target.store.get(key);
  if (!object) throw new VerificationFailed(`The result ${key} is missing.`);
  return decodeResult(object, key);
}

/** What is wrong with one shard. */
interface Loss {
  readonly shard: number;
  /** Keys of what is missing or damaged. */
  readonly objects: readonly string[];
  /** Packs of the base among them, by name. */
  readonly basePacks: readonly string[];
}

interface VerificationRun {
  readonly planHash: string;
  readonly until: () => boolean;
  /** Of the shards that an earlier call has verified. */
  readonly attempts: readonly number[];
}

/** Goes on after the verified shards. With losses, `attempts` only counts those that are intact. */
async function verifyShards(
  target: BackupTarget,
  shardCount: number,
  run: VerificationRun,
): Promise<{ attempts: number[]; losses: Loss[] }> {
  const attempts = [...run.attempts];
  const losses: Loss[] = [];
  const latest = await latestResults(target);
  while (attempts.length < shardCount && !run.until()) {
    const first = attempts.length + losses.length;
    const shards = Array.from({ length: Math.min(shardsInFlight, shardCount - first) }, (_, at) => first + at);
    if (shards.length === 0) break;
    const verdicts = await Promise.all(
      shards.map((shard) => verifyShard(target, { shard, attempt: latest.get(shard), planHash: run.planHash })),
    );
    for (const [at, loss] of verdicts.entries()) {
      if (loss) losses.push(loss);
      else attempts.push(latest.get(shards[at]!)!);
    }
  }
  return { attempts, losses };
}

/** The newest attempt that has a result, for each shard that has any. */
async function latestResults(target: BackupTarget): Promise<Map<number, number>> {
  const prefix = jobKeys(target.domain, target.jobId).resultsOfAll;
  const latest = new Map<number, number>();
  for await (const { key } of target.store.list(prefix)) {
    const shard = Number(key.slice(prefix.length, key.lastIndexOf("-")));
    latest.set(shard, Math.max(attemptOfKey(key), latest.get(shard) ?? 0));
  }
  return latest;
}

async function verifyShard(
  target: BackupTarget,
  { shard, attempt, planHash }: { shard: number; attempt: number | undefined; planHash: string },
): Promise<Loss | undefined> {
  const resultKey = jobKeys(target.domain, target.jobId).results(shard);
  if (attempt === undefined) return { shard, objects: [`${resultKey}*`], basePacks: [] };
  const result = await readUsableResult(target, shard, attempt);
  if (result?.planHash !== planHash) return { shard, objects: [`${resultKey}${attempt}`], basePacks: [] };
  const objects: string[] = [];
  const basePacks: string[] = [];
  await forEachInFlight(expectedObjects(target.domain, result), headsInFlight, async (expected) => {
    if (await isIntact(target.store, expected)) return;
    objects.push(expected.key);
    if (expected.basePack !== undefined) basePacks.push(expected.basePack);
  });
  return objects.length > 0 ? { shard, objects: objects.sort(), basePacks } : undefined;
}

async function readUsableResult(
  target: BackupTarget,
  shard: number,
  attempt: number,
): Promise<ShardResult | undefined> {
  try {
    return await readResult(target, shard, attempt);
  } catch (error) {
    if (error instanceof RepositoryDamaged || error instanceof VerificationFailed) return undefined;
    throw error;
  }
}

interface ExpectedObject {
  readonly key: string;
  /** Undefined for objects of the base: their writer's verification knew it. */
  readonly size?: number;
  readonly sha256?: string;
  readonly basePack?: string;
}

function* expectedObjects(domain: string, result: ShardResult): Generator<ExpectedObject> {
  const keys = domainKeys(domain);
  for (const pack of result.packs) yield { key: keys.pack(pack.name), size: pack.size, sha256: pack.sha256 };
  for (const page of result.pages) {
    const expected = { key: keys.page(page.name), sha256: parsePageName(page.name)!.sha256 };
    yield page.size > 0 ? { ...expected, size: page.size } : expected;
  }
  for (const pack of result.reused) yield { key: keys.pack(pack), basePack: pack };
}

/** By the store's own checksum where it keeps one, else by reading the object back. */
async function isIntact(store: ObjectStore, expected: ExpectedObject): Promise<boolean> {
  const head = await store.head(expected.key);
  if (!head || (expected.size !== undefined && head.size !== expected.size)) return false;
  if (expected.sha256 === undefined) return true;
  if (head.sha256 !== undefined) return head.sha256 === expected.sha256;
  const bytes = await store.get(expected.key);
  return bytes !== undefined && sha256(bytes) === expected.sha256;
}

/** Makes sure that the next attempt does not build on what is lost, and says what that is. */
async function reject(target: BackupTarget, losses: readonly Loss[]): Promise<VerificationFailed> {
  await distrustBase(target, losses);
  const keys = jobKeys(target.domain, target.jobId);
  for (const { shard } of losses) {
    await target.store.deleteEveryVersionBelow(keys.checkpoints(shard));
    await target.store.deleteEveryVersionBelow(keys.results(shard));
  }
  const objects = losses.flatMap((loss) => loss.objects);
  const named = objects.slice(0, namedObjects).join(", ");
  const more = objects.length > namedObjects ? ` and ${objects.length - namedObjects} more` : "";
  return new VerificationFailed(
    `Missing or damaged after the copy: ${named}${more}. Their shards will be copied again.`,
  );
}

async function distrustBase(target: BackupTarget, losses: readonly Loss[]): Promise<void> {
  const basePacks = losses.flatMap((loss) => loss.basePacks);
  if (basePacks.length > 0) await distrust(target, basePacks);
}
