/** What packs that were found missing or damaged cost a snapshot, also where it was not read yet. */
import type { RepositoryDamaged } from "../domain/errors.ts";
import { ChunkCheck } from "./chunk-check.ts";
import { type LostRange, lostRanges } from "./damage.ts";
import { openCipher } from "./domain-cipher.ts";
import type { DomainLocation } from "./domain-record.ts";
import { domainKeys } from "./layout.ts";
import type { Root } from "./manifest.ts";
import { foundReferences } from "./tree.ts";

/** A pack whose chunks recur all over a large volume is lost in very many places: 100 bytes of memory for each. */
const mostRanges = 100_000;

/**
 * The error for a restore that has met `lost`: it goes on to all other places of the snapshot where chunks of the same packs belong. Branches say which pages
 * these are in, so that nothing else is read. When `stopped` says so it ends, and the error says that there may be more.
 */
export async function lossOf(
  source: DomainLocation,
  root: Root,
  { lost, stopped }: { readonly lost: readonly LostRange[]; readonly stopped: () => boolean },
): Promise<RepositoryDamaged> {
  const keys = domainKeys(source.domain);
  const objects = new Set(lost.map(({ object }) => object));
  const isLost = (pack: string) => objects.has(keys.pack(pack));
  const check = new ChunkCheck(source, root, await openCipher(source, root.wrappedKey));
  check.losses.add(lost);
  for await (const { page } of foundReferences(source, root)) {
    if (!page?.packs.some(isLost)) continue;
    if (stopped() || check.losses.ranges > mostRanges) return lostRanges(check.lost, { andMore: true });
    await check.page(page, ({ pack }) => isLost(pack));
  }
  return lostRanges(check.lost);
}
