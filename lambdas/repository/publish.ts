/** Builds a snapshot's root from the verified results and publishes it: from then on the snapshot exists. */
import { isDeepStrictEqual } from "node:util";
import { RepositoryDamaged, VerificationFailed } from "../domain/errors.ts";
import { sha256 } from "./binary.ts";
import { type Branch, branchAttempt, branchPages, encodeBranch, type PageReference } from "./branch.ts";
import { sealDescription } from "./description.ts";
import type { DomainCipher } from "./domain-cipher.ts";
import { baseOfHint } from "./hint.ts";
import { InFlight, mapAhead } from "./in-flight.ts";
import { domainKeys, formatPageName, parsePageName } from "./layout.ts";
import { type BranchReference, decodeRoot, encodeRoot, type Root, type SnapshotDescription } from "./manifest.ts";
import { isIntact } from "./object-check.ts";
import { type BackupTarget, readPinnedBase } from "./pin.ts";
import { openPlan } from "./planner.ts";
import { pagesWithin } from "./tree.ts";
import { readResult, readSelection, referenceTo } from "./verify.ts";

const resultsAhead = 16;
const branchesInFlight = 4;

export interface PublishedBackup {
  /** Bytes in the store that came with this snapshot: what its job wrote. */
  readonly storedBytes: number;
  /** Size of the volume. */
  readonly logicalBytes: number;
  /** Chunks that are not zeros. */
  readonly chunks: number;
}

/**
 * Publishes the snapshot once; a replay finds the same bytes and succeeds. A root that an earlier job published, before its rows
 * could say so, serves as well: it was verified, and the frozen bytes are the same. Throws VerificationFailed before
 * {@link verifyBackup} has finished and where a hinted plan has lost its base, RepositoryDamaged when what is published is no root of this volume.
 */
export async function publishRoot(
  target: BackupTarget,
  options: { readonly planHash: string; readonly description?: SnapshotDescription },
): Promise<PublishedBackup> {
  const opening = openPlan(target, options.planHash);
  const ofPlan = opening.then(({ shape }) => shape);
  const [plan, selection, { base }] = await Promise.all([
    opening,
    readSelection(target, opening),
    readPinnedBase(target, ofPlan),
  ]);
  const { sizeBytes, geometry, wrappedKey } = plan.shape;
  const { cipher } = plan;
  if (!selection) throw new VerificationFailed(`The backup by ${target.jobId} is not verified, or was collected.`);
  const results = new ShardResults(target, selection.attempts, cipher);
  const pages = plan.shape.hinted
    ? overlaid(results.pages(), pagesWithin(target, base ?? (await baseOfHint(target, plan.shape)), plan.shape))
    : results.pages();
  const branches = new BranchWriter(target, new Map(base?.branches.map((branch) => [branch.index, branch])));
  await branches.writeAll(pages);
  const { chunkBytes, pageChunks } = geometry;
  const root: Root = {
    snapshotId: target.snapshotId,
    jobId: target.jobId,
    sizeBytes,
    chunkBytes,
    pageChunks,
    description: sealDescription(
      cipher,
      target.snapshotId,
      describedWith(options.description, results.writtenBytes + branches.writtenBytes),
    ),
    wrappedKey,
    branches: branches.references.toSorted((a, b) => a.index - b.index),
  };
  const object = encodeRoot(root, cipher);
  const published = await putRoot(target, root, { object, cipher });
  return {
    storedBytes: results.writtenBytes + branches.writtenBytes + object.length,
    logicalBytes: published.sizeBytes,
    chunks: published.branches.reduce((sum, branch) => sum + branch.chunks, 0),
  };
}

/** The description with what came to the store before the root itself. A caller that describes nothing gets none. */
function describedWith(description: SnapshotDescription = {}, storedBytes: number): SnapshotDescription {
  return Object.keys(description).length === 0 ? {} : { ...description, storedBytes: String(storedBytes) };
}

/** The results that verification has chosen, shard by shard. */
class ShardResults {
  readonly #target: BackupTarget;
  readonly #attempts: readonly number[];
  readonly #cipher: DomainCipher | undefined;
  /** Of packs and pages that the job wrote, as far as {@link pages} was walked. */
  writtenBytes = 0;

  constructor(target: BackupTarget, attempts: readonly number[], cipher: DomainCipher | undefined) {
    this.#target = target;
    this.#attempts = attempts;
    this.#cipher = cipher;
  }

  /** Shards hold ascending pages of the volume, and so do their results. Pages of zeros come with no chunks. */
  async *pages(): AsyncGenerator<PageReference> {
    const shards = this.#attempts.entries();
    const read = ([shard, attempt]: [number, number]) => readResult(this.#target, { shard, attempt }, this.#cipher);
    for await (const result of mapAhead(shards, resultsAhead, read)) {
      this.writtenBytes += [...result.pages, ...result.packs].reduce((sum, { size }) => sum + size, 0);
      const zeros = result.zeroPages.map((index) => ({ index, name: "", chunks: 0, packs: [] }));
      const pages = result.pages.map((page) => referenceTo(page, result));
      yield* [...pages, ...zeros].sort((a, b) => a.index - b.index);
    }
  }
}

/** The pages that were copied, and those of the base everywhere else. */
async function* overlaid(
  copied: AsyncGenerator<PageReference>,
  base: AsyncGenerator<PageReference>,
): AsyncGenerator<PageReference> {
  let below = await base.next();
  for await (const page of copied) {
    for (; !below.done && below.value.index < page.index; below = await base.next()) yield below.value;
    if (!below.done && below.value.index === page.index) below = await base.next();
    yield page;
  }
  for (; !below.done; below = await base.next()) yield below.value;
}

class BranchWriter {
  readonly #target: BackupTarget;
  readonly #base: ReadonlyMap<number, BranchReference>;
  readonly #uploads = new InFlight(branchesInFlight);
  readonly references: BranchReference[] = [];
  writtenBytes = 0;

  constructor(target: BackupTarget, base: ReadonlyMap<number, BranchReference>) {
    this.#target = target;
    this.#base = base;
  }

  /** Writes the branches of these pages, which ascend. */
  async writeAll(pages: AsyncIterable<PageReference>): Promise<void> {
    let current: { index: number; pages: PageReference[] } | undefined;
    try {
      for await (const page of pages) {
        if (page.chunks === 0) continue;
        const index = Math.floor(page.index / branchPages);
        if (current?.index !== index) {
          if (current) await this.#write(current);
          current = { index, pages: [] };
        }
        current.pages.push(page);
      }
      if (current) await this.#write(current);
      await this.#uploads.settle();
    } finally {
      await this.#uploads.drain();
    }
  }

  /** A branch like the base's is referred to, not written again. */
  async #write(branch: Branch): Promise<void> {
    const object = encodeBranch(branch);
    const hash = sha256(object);
    const { index } = branch;
    const chunks = branch.pages.reduce((sum, page) => sum + page.chunks, 0);
    const before = this.#base.get(index);
    if (before && parsePageName(before.name)?.sha256 === hash) {
      this.references.push(before);
      return;
    }
    const name = formatPageName({ jobId: this.#target.jobId, attempt: branchAttempt, sha256: hash });
    this.references.push({ index, name, chunks });
    this.writtenBytes += object.length;
    await this.#uploads.launch(() => this.#upload(name, object, hash));
  }

  /** Verified at once: the root that follows makes it count. */
  async #upload(name: string, object: Buffer, hash: string): Promise<void> {
    const key = domainKeys(this.#target.domain).page(name);
    await this.#target.store.put(key, object, { sha256: hash });
    if (!(await isIntact(this.#target.store, { key, size: object.length, sha256: hash })))
      throw new VerificationFailed(`The object ${key} is missing or damaged right after it was written.`);
  }
}

/**
 * The root that counts: ours, or the one that an earlier job of this snapshot has published, with the same key. A replay finds its own
 * root even when what is told of the snapshot has changed in between: the volume was renamed, or its row is gone.
 */
async function putRoot(
  target: BackupTarget,
  root: Root,
  { object, cipher }: { readonly object: Uint8Array; readonly cipher: DomainCipher | undefined },
): Promise<Root> {
  const key = domainKeys(target.domain).root(target.snapshotId);
  if ((await target.store.put(key, object, { ifAbsent: true })) === "written") return root;
  const published = await target.store.get(key);
  const earlier = published && decodeRoot(published, key, cipher);
  const isSame = earlier && isDeepStrictEqual(contentOf(earlier), contentOf(root));
  if (isSame || (earlier && earlier.jobId !== root.jobId && earlier.sizeBytes === root.sizeBytes)) return earlier;
  throw new RepositoryDamaged(
    `The snapshot ${target.snapshotId} is published already with other content (${key}). Delete that backup before making another.`,
  );
}

/** All that a root leads to, without the words about it. */
function contentOf({ description: _description, wrappedKey, ...content }: Root) {
  return { ...content, wrappedKey: Buffer.from(wrappedKey).toString("hex") };
}
