/** Builds a snapshot's root from the verified results and publishes it: from then on the snapshot exists. */
import { RepositoryDamaged, VerificationFailed } from "../domain/errors.ts";
import { ensureDomain } from "./domain-record.ts";
import { forEachInFlight } from "./in-flight.ts";
import { domainKeys } from "./layout.ts";
import { decodeRoot, encodeRoot, type PageReference, type Root } from "./manifest.ts";
import { type BackupTarget, readPin } from "./pin.ts";
import { openPlan } from "./planner.ts";
import type { ShardTable } from "./shard-table.ts";
import { readResult, readSelection } from "./verify.ts";

const resultsInFlight = 16;

export interface PublishedBackup {
  /** Bytes in the store that came with this snapshot: packs and pages that it refers to and its job wrote, and its root. */
  readonly storedBytes: number;
  /** Size of the volume. */
  readonly logicalBytes: number;
  /** Chunks that are not zeros. */
  readonly chunks: number;
}

/**
 * Publishes the snapshot once; a replay finds the same bytes and succeeds. A root that an earlier job published, before its rows
 * could say so, serves as well: it was verified, and the frozen bytes are the same. Throws VerificationFailed before
 * {@link verifyBackup} has finished, RepositoryDamaged when what is published is no root of this volume.
 */
export async function publishRoot(
  target: BackupTarget,
  options: { readonly planHash: string },
): Promise<PublishedBackup> {
  const plan = await openPlan(target, options.planHash);
  const selection = await readSelection(target, options.planHash);
  const isPinned = (await readPin(target.store, target.domain, target.jobId)) !== undefined;
  if (!selection || !isPinned)
    throw new VerificationFailed(`The backup by ${target.jobId} is not verified, or was collected.`);
  const { root, writtenBytes } = await assembleRoot(target, plan, selection.attempts);
  const object = encodeRoot(root);
  await ensureDomain(target.store, target.domain, plan.geometry);
  const published = await putRoot(target, root, object);
  const chunks = published.pages.reduce((sum, page) => sum + page.chunks, 0);
  return { storedBytes: writtenBytes + object.length, logicalBytes: published.sizeBytes, chunks };
}

async function assembleRoot(
  target: BackupTarget,
  plan: ShardTable,
  attempts: readonly number[],
): Promise<{ root: Root; writtenBytes: number }> {
  const pages: PageReference[] = [];
  const packs = new Set<string>();
  let writtenBytes = 0;
  await forEachInFlight(attempts.entries(), resultsInFlight, async ([shard, attempt]) => {
    const result = await readResult(target, shard, attempt);
    for (const { index, name, chunks, size } of result.pages) {
      pages.push({ index, name, chunks });
      writtenBytes += size;
    }
    for (const pack of result.packs) {
      packs.add(pack.name);
      writtenBytes += pack.size;
    }
    for (const pack of result.reused) packs.add(pack);
  });
  pages.sort((a, b) => a.index - b.index);
  const { chunkBytes, pageChunks } = plan.geometry;
  const { snapshotId, jobId } = target;
  return { root: { snapshotId, jobId, sizeBytes: plan.sizeBytes, chunkBytes, pageChunks, pages, packs }, writtenBytes };
}

/** The root that counts: ours, or the one that an earlier job of this snapshot has published. */
async function putRoot(target: BackupTarget, root: Root, object: Uint8Array): Promise<Root> {
  const key = domainKeys(target.domain).root(target.snapshotId);
  if ((await target.store.put(key, object, { ifAbsent: true })) === "written") return root;
  const published = await target.store.get(key);
  const earlier = published && decodeRoot(published, key);
  const isSame = published && Buffer.compare(published, object) === 0;
  if (isSame || (earlier && earlier.jobId !== root.jobId && earlier.sizeBytes === root.sizeBytes))
    return earlier ?? root;
  throw new RepositoryDamaged(
    `The snapshot ${target.snapshotId} is published already with other content (${key}). Delete that backup before making another.`,
  );
}
