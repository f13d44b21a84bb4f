/** Full verification: every chunk of some pages is read back, for as long as there is time. */
import type { PageReference } from "./branch.ts";
import { ChunkCheck } from "./chunk-check.ts";
import { openCipher } from "./domain-cipher.ts";
import type { BackupTarget } from "./pin.ts";
import type { VolumeShape } from "./shard-table.ts";

export interface PagesReadBack {
  /** Keys of what is missing or damaged. */
  readonly lost: ReadonlySet<string>;
  /** False: there was no time for the page `next` of the volume and those behind it. */
  readonly finished: boolean;
  /** One behind the last page when finished. */
  readonly next: number;
}

/** Reads those of the pages that are `from` or behind it in the volume. They ascend. */
export async function readBack(
  target: BackupTarget,
  shape: VolumeShape,
  pages: Iterable<PageReference> | AsyncIterable<PageReference>,
  { from, until }: { readonly from: number; readonly until: () => boolean },
): Promise<PagesReadBack> {
  const cipher = await openCipher(target, shape.wrappedKey);
  const check = new ChunkCheck(target, { sizeBytes: shape.sizeBytes, ...shape.geometry }, cipher);
  const lost = () => new Set(check.lost.map(({ object }) => object));
  let next = from;
  for await (const page of pages) {
    if (page.index < from) continue;
    if (until()) return { lost: lost(), finished: false, next };
    await check.page(page);
    next = page.index + 1;
  }
  return { lost: lost(), finished: true, next };
}
