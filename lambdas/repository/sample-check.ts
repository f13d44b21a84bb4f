/** A look at a published backup: some of its chunks are read back and compared with their hashes. */
import { ChunkCheck } from "./chunk-check.ts";
import { describeLost, type LostRange } from "./damage.ts";
import { openCipher } from "./domain-cipher.ts";
import type { WantedChunk } from "./pack-reader.ts";
import { type RestoreSource, readRoot } from "./reader.ts";
import { isSampled } from "./sampling.ts";
import { foundReferences } from "./tree.ts";

export interface SampleCheckOptions {
  /** Share of the chunks that are read, 0 to 100; 100 reads all of them. */
  readonly percent: number;
  /** Another seed picks other chunks. */
  readonly seed: string;
  /** `next` of the call before. */
  readonly from?: number;
  /** Asked before each page: true when time is short. */
  readonly until: () => boolean;
}

export interface SampleCheck {
  readonly finished: boolean;
  /** Page to go on from; absent when finished. */
  readonly next?: number;
  readonly checkedChunks: number;
  readonly checkedBytes: number;
  readonly lost: readonly LostRange[];
  /** Names the objects and ranges; absent when nothing is lost. */
  readonly damage?: string;
}

/** Every page is read, and of its chunks the sample. Throws RepositoryDamaged when the root is missing or damaged: what else is, is told as lost. */
export async function sampleCheck(
  source: Pick<RestoreSource, "store" | "domain" | "snapshotId" | "keys" | "mayBeUnencrypted">,
  options: SampleCheckOptions,
): Promise<SampleCheck> {
  const root = await readRoot(source);
  const check = new ChunkCheck(source, root, await openCipher(source, root.wrappedKey));
  const isWanted = ({ hash }: WantedChunk) =>
    options.percent >= 100 || isSampled(`${options.seed}/${hash}`, options.percent);
  let reached = options.from ?? 0;
  let finished = true;
  for await (const { page, lost, next } of foundReferences(source, root)) {
    if (next <= reached) continue;
    finished = !options.until();
    if (!finished) break;
    if (lost) check.losses.add([lost]);
    if (page) await check.page(page, isWanted);
    reached = next;
  }
  const { checkedChunks, checkedBytes, lost } = check;
  return {
    finished,
    ...(!finished && { next: reached }),
    checkedChunks,
    checkedBytes,
    lost,
    ...(lost.length > 0 && { damage: describeLost(lost) }),
  };
}
