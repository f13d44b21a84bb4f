/** Before a root is published: is every object that it will need in the store, and is it what was written? */
import * as z from "zod";
import { RepositoryDamaged, VerificationFailed } from "../domain/errors.ts";
import { repositoryFormat } from "./binary.ts";
import type { PageReference } from "./branch.ts";
import { distrust } from "./distrust.ts";
import type { DomainCipher } from "./domain-cipher.ts";
import { Fingerprints } from "./fingerprints.ts";
import { baseOfHint, ruleOutHint } from "./hint.ts";
import { forEachInFlight } from "./in-flight.ts";
import { attemptOfKey, domainKeys, jobKeys, originalPack, parsePageName } from "./layout.ts";
import type { Root } from "./manifest.ts";
import { isIntact } from "./object-check.ts";
import type { BackupTarget } from "./pin.ts";
import { openPlan, readPlannedPages } from "./planner.ts";
import { type PagesReadBack, readBack } from "./read-back.ts";
import { decodeJobRecord, encodeJobRecord } from "./record.ts";
import { decodeResult, type ShardResult } from "./shard-state.ts";
import type { ShardTable, VolumeShape } from "./shard-table.ts";
import { isDamage, pagesWithin } from "./tree.ts";

const selectionSchema = z.object({
  format: z.literal(repositoryFormat),
  planHash: z.string(),
  /** For each shard, from 0 on, the attempt whose result counts. */
  attempts: z.array(z.int().min(0)),
});
export type Selection = Omit<z.infer<typeof selectionSchema>, "format">;

const progressSchema = selectionSchema.extend({
  /** Of shards behind those in `attempts`: the page of the volume from which on a result is still to be read back. */
  readBack: z.array(z.object({ shard: z.int().min(0), attempt: z.int().min(0), next: z.int().min(0) })).default([]),
  /** The same of what a hinted plan takes over from the base unread. */
  unreadNext: z.int().min(0).default(0),
});
type Progress = Omit<z.infer<typeof progressSchema>, "format">;

/**
 * Shards at once, and HEAD requests of each: a shard of 256 MiB mostly has no more objects. The connection takes 64 of them at a time: of 20 ms these are 3,200
 * a second, so the 26,000 packs of a full TiB take 8 s.
 */
const shardsInFlight = 8;
const headsInFlight = 16;
/** How many missing objects an error names. */
const namedObjects = 5;

export interface VerifyOptions {
  readonly planHash: string;
  readonly until: () => boolean;
  /** Reads back every chunk that the snapshot consists of, those of the base included. */
  readonly full?: boolean;
}

/**
 * Checks the result of every shard and fixes, in `selection`, which results the root is built from. With `finished: false` call again.
 * Throws VerificationFailed when objects are missing or damaged; the next attempt's copyShard then writes the shards concerned anew.
 */
export async function verifyBackup(target: BackupTarget, options: VerifyOptions): Promise<{ finished: boolean }> {
  const opening = openPlan(target, options.planHash);
  const [plan, selection, known, latest] = await Promise.all([
    opening,
    readSelection(target, opening),
    readProgress(target, opening),
    latestResults(target),
  ]);
  if (selection) return { finished: true };
  const progress = known ?? { planHash: options.planHash, attempts: [], readBack: [], unreadNext: 0 };
  const verification = new Verification(target, plan, options, progress);
  const losses = await verification.run(latest);
  if (losses.length > 0) throw await reject(target, plan, losses);
  const { planHash, attempts } = progress;
  const selected = { format: repositoryFormat, planHash, attempts };
  const keys = jobKeys(target.domain, target.jobId);
  const key = verification.finished ? keys.selection : keys.verified;
  const record = encodeJobRecord(verification.finished ? selected : { ...progress, ...selected }, {
    key,
    cipher: plan.cipher,
  });
  await target.store.put(key, record, { ifAbsent: verification.finished });
  return { finished: verification.finished };
}

/** Undefined before {@link verifyBackup} has finished. `opening` is of the plan that was verified. */
export async function readSelection(
  target: BackupTarget,
  opening: Promise<Pick<ShardTable, "hash" | "cipher">>,
): Promise<Selection | undefined> {
  const key = jobKeys(target.domain, target.jobId).selection;
  const [object, { hash: planHash, cipher }] = await Promise.all([target.store.get(key), opening]);
  if (!object) return undefined;
  const selection = decodeJobRecord(selectionSchema, object, { key, cipher });
  if (selection.planHash !== planHash)
    throw new VerificationFailed(`The selection ${key} is of another plan than ${planHash}.`);
  return selection;
}

async function readProgress(
  target: BackupTarget,
  opening: Promise<Pick<ShardTable, "hash" | "cipher">>,
): Promise<Progress | undefined> {
  const key = jobKeys(target.domain, target.jobId).verified;
  const [object, { hash: planHash, cipher }] = await Promise.all([target.store.get(key), opening]);
  const progress = object && decodeJobRecord(progressSchema, object, { key, cipher });
  return progress?.planHash === planHash ? progress : undefined;
}

/** The result of a shard. Throws VerificationFailed when it is gone. */
export async function readResult(
  target: BackupTarget,
  { shard, attempt }: { readonly shard: number; readonly attempt: number },
  cipher: DomainCipher | undefined,
): Promise<ShardResult> {
  const key = jobKeys(target.domain, target.jobId).result(shard, attempt);
  const object = await target.store.get(key);
  if (!object) throw new VerificationFailed(`The result ${key} is missing.`);
  return decodeResult(object, { key, cipher });
}

/** A page as its branch will list it. */
export function referenceTo(page: ShardResult["pages"][number], result: ShardResult): PageReference {
  const own = page.packs.map((number) => result.packs[number]!.name);
  const reused = page.reused.map((number) => result.reused[number]!);
  return { index: page.index, name: page.name, chunks: page.chunks, packs: [...own, ...reused] };
}

/** What is wrong with one shard, or (without a number) with what a hinted plan takes over from the base unread. */
interface Loss {
  readonly shard?: number;
  /** Keys of what is missing or damaged. */
  readonly objects: readonly string[];
  /** Packs of the base among them, by name. */
  readonly basePacks: readonly string[];
}

/** A shard that has lost nothing, as far as it was looked at. */
interface Intact {
  readonly shard: number;
  readonly attempt: number;
  readonly finished: boolean;
  /** Where reading back goes on. */
  readonly next: number;
}

interface TakenOver {
  readonly base: Root;
  readonly unread: () => AsyncGenerator<PageReference>;
  readonly pagesInStore: Fingerprints;
}

class Verification {
  readonly #target: BackupTarget;
  readonly #plan: ShardTable;
  readonly #options: VerifyOptions;
  readonly #progress: Progress;
  #present: Promise<Fingerprints> | undefined;
  finished = false;

  /** Goes on where `progress` ends, and moves that on. */
  constructor(target: BackupTarget, plan: ShardTable, options: VerifyOptions, progress: Progress) {
    this.#target = target;
    this.#plan = plan;
    this.#options = options;
    this.#progress = progress;
  }

  /** `latest`: the newest attempt that has a result, for each shard that has any. */
  async run(latest: ReadonlyMap<number, number>): Promise<Loss[]> {
    const unread = this.#plan.shape.hinted ? this.#pagesTakenOver() : undefined;
    unread?.catch(() => undefined);
    const { attempts } = this.#progress;
    const losses: Loss[] = [];
    const shardCount = this.#plan.shards.length;
    for (let first = attempts.length; first < shardCount; first += shardsInFlight) {
      if (this.#options.until()) return losses;
      const shards = Array.from({ length: Math.min(shardsInFlight, shardCount - first) }, (_, at) => first + at);
      const verdicts = await Promise.all(shards.map((shard) => this.#verifyShard(shard, latest.get(shard))));
      losses.push(...verdicts.filter((verdict) => "objects" in verdict));
      if (!this.#note(verdicts.filter((verdict) => "attempt" in verdict))) return losses;
    }
    if (losses.length > 0 || this.#options.until()) return losses;
    const ofBase = unread && (await this.#verifyUnread(await unread, await this.#packsInStore()));
    this.finished = ofBase !== "again";
    return ofBase === undefined || ofBase === "again" ? [] : [ofBase];
  }

  /** Answers whether there was time for all of them. */
  #note(intact: readonly Intact[]): boolean {
    const { attempts } = this.#progress;
    this.#progress.readBack = [];
    for (const { shard, attempt, finished, next } of intact) {
      if (finished && shard === attempts.length) attempts.push(attempt);
      else this.#progress.readBack.push({ shard, attempt, next });
    }
    return intact.every(({ finished }) => finished);
  }

  /** One listing, when the first shard's objects are looked up, instead of a request for each pack of the base. */
  #packsInStore(): Promise<Fingerprints> {
    this.#present ??= this.#listPacks();
    this.#present.catch(() => undefined);
    return this.#present;
  }

  /** One that was compacted is there by its forms. */
  async #listPacks(): Promise<Fingerprints> {
    const keys = new Fingerprints();
    for await (const { key } of this.#target.store.list(domainKeys(this.#target.domain).packs))
      keys.add(originalPack(key).pack);
    return keys;
  }

  async #verifyShard(shard: number, attempt: number | undefined): Promise<(Loss & { shard: number }) | Intact> {
    const resultKey = jobKeys(this.#target.domain, this.#target.jobId).results(shard);
    if (attempt === undefined) return { shard, objects: [`${resultKey}*`], basePacks: [] };
    const result = await readUsableResult(this.#target, { shard, attempt }, this.#plan.cipher);
    const isWhole = result?.bytesDone === this.#plan.shards[shard]?.bytes;
    if (result?.planHash !== this.#options.planHash || !isWhole)
      return { shard, objects: [`${resultKey}${attempt}`], basePacks: [] };
    const keys = domainKeys(this.#target.domain);
    const objects: string[] = [];
    const listing = this.#packsInStore();
    await forEachInFlight(expectedObjects(this.#target.domain, result), headsInFlight, async (expected) => {
      if (!(await isIntact(this.#target.store, expected))) objects.push(expected.key);
    });
    const present = await listing;
    const basePacks = result.reused.filter((pack) => !present.has(keys.pack(pack)));
    objects.push(...basePacks.map(keys.pack));
    const intact = { shard, attempt, finished: true, next: 0 };
    if (objects.length > 0) return { shard, objects: objects.sort(), basePacks };
    if (!this.#options.full) return intact;
    const pages = result.pages.map((page) => referenceTo(page, result));
    const before = this.#progress.readBack.find((known) => known.shard === shard && known.attempt === attempt);
    const { lost, ...reached } = await this.#readBack(pages, before?.next ?? 0);
    if (lost.size === 0) return { ...intact, ...reached };
    return {
      shard,
      objects: [...lost].sort(),
      basePacks: result.reused.filter((pack) => lost.has(keys.pack(pack))),
    };
  }

  #readBack(pages: Iterable<PageReference> | AsyncIterable<PageReference>, from: number): Promise<PagesReadBack> {
    return readBack(this.#target, this.#plan.shape, pages, { from, until: this.#options.until });
  }

  /** The pages that a hinted plan takes over from the base without a look at the volume, and all pages that the store has. */
  async #pagesTakenOver(): Promise<TakenOver> {
    const [base, copied, pagesInStore] = await Promise.all([
      baseOfHint(this.#target, this.#plan.shape),
      this.#plannedPages(),
      this.#pagesInStore(),
    ]);
    const unread = async function* (target: BackupTarget, shape: VolumeShape) {
      for await (const page of pagesWithin(target, base, shape)) if (!copied.has(page.index)) yield page;
    };
    return { base, unread: () => unread(this.#target, this.#plan.shape), pagesInStore };
  }

  async #verifyUnread(
    { base, unread, pagesInStore }: TakenOver,
    present: Fingerprints,
  ): Promise<Loss | "again" | undefined> {
    const keys = domainKeys(this.#target.domain);
    const objects = new Set<string>();
    try {
      for await (const page of unread()) {
        if (this.#options.until()) return "again";
        if (!pagesInStore.has(keys.page(page.name))) objects.add(keys.page(page.name));
        for (const key of page.packs.map(keys.pack)) if (!present.has(key)) objects.add(key);
      }
      if (this.#options.full && objects.size === 0) {
        const { lost, finished, next } = await this.#readBack(unread(), this.#progress.unreadNext);
        this.#progress.unreadNext = next;
        if (lost.size === 0 && !finished) return "again";
        for (const key of lost) objects.add(key);
      }
    } catch (error) {
      if (!isDamage(error)) throw error;
      for (const { name } of base.branches) objects.add(keys.page(name));
    }
    if (objects.size === 0) return undefined;
    const lost = [...objects].sort();
    return {
      objects: lost,
      basePacks: lost.flatMap((key) => (key.startsWith(keys.packs) ? [key.slice(keys.packs.length)] : [])),
    };
  }

  async #plannedPages(): Promise<Set<number>> {
    const indexes = new Set<number>();
    const shards = this.#plan.shards.keys();
    await forEachInFlight(shards, shardsInFlight, async (shard) => {
      for (const page of await readPlannedPages(this.#target, this.#plan, shard)) indexes.add(page.index);
    });
    return indexes;
  }

  async #pagesInStore(): Promise<Fingerprints> {
    const keys = new Fingerprints();
    for await (const { key } of this.#target.store.list(domainKeys(this.#target.domain).pages)) keys.add(key);
    return keys;
  }
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

async function readUsableResult(
  target: BackupTarget,
  place: { readonly shard: number; readonly attempt: number },
  cipher: DomainCipher | undefined,
): Promise<ShardResult | undefined> {
  try {
    return await readResult(target, place, cipher);
  } catch (error) {
    if (error instanceof RepositoryDamaged || error instanceof VerificationFailed) return undefined;
    throw error;
  }
}

/** What the shard wrote. A page of the base that it took over was read, and found to be what its name tells, by the copy. */
function* expectedObjects(
  domain: string,
  result: ShardResult,
): Generator<{ key: string; size: number; sha256: string }> {
  const keys = domainKeys(domain);
  for (const pack of result.packs) yield { key: keys.pack(pack.name), size: pack.size, sha256: pack.sha256 };
  for (const page of result.pages) {
    if (page.size > 0) yield { key: keys.page(page.name), size: page.size, sha256: parsePageName(page.name)!.sha256 };
  }
}

/** Makes sure that the next attempt does not build on what is lost, and says what that is. */
async function reject(target: BackupTarget, plan: ShardTable, losses: readonly Loss[]): Promise<VerificationFailed> {
  const basePacks = losses.flatMap((loss) => loss.basePacks);
  if (basePacks.length > 0) await distrust(target, basePacks, plan.cipher);
  const objects = losses.flatMap((loss) => loss.objects);
  const named = objects.slice(0, namedObjects).join(", ");
  const more = objects.length > namedObjects ? ` and ${objects.length - namedObjects} more` : "";
  const sentence = `Missing or damaged after the copy: ${named}${more}.`;
  if (plan.shape.hinted && losses.some((loss) => loss.shard === undefined || loss.basePacks.length > 0)) {
    await ruleOutHint(target, sentence);
    return new VerificationFailed(`${sentence} The next attempt reads the whole volume.`);
  }
  const keys = jobKeys(target.domain, target.jobId);
  for (const { shard } of losses) {
    if (shard === undefined) continue;
    await target.store.deleteEveryVersionBelow(keys.checkpoints(shard));
    await target.store.deleteEveryVersionBelow(keys.results(shard));
  }
  return new VerificationFailed(`${sentence} Their shards will be copied again.`);
}
