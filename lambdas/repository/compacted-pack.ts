/**
 * A compacted pack: what is left of a pack after its dead chunks were taken out. It takes the pack's place without any page being
 * changed. The chunks lie one behind the other as they were stored, and the index is theirs out of the pack's own index, so its offsets
 * are those in the pack: pages name them, and an encrypted chunk is bound to the pack's name and its offset there.
 */
import { RepositoryDamaged } from "../domain/errors.ts";
import {
  decodePackFooter,
  decodePackIndex,
  encodePackFooter,
  encodePackIndex,
  type PackedChunk,
  packFooterBytes,
} from "./pack.ts";

/** A chunk and where its bytes begin in the compacted pack. */
export interface CompactedChunk extends PackedChunk {
  readonly position: number;
}

/** `chunks` are some of the pack's, ascending by offset, as its index has them; `stored` are their bytes. */
export function encodeCompactedPack(chunks: readonly (PackedChunk & { readonly stored: Uint8Array })[]): Buffer {
  const index = encodePackIndex(chunks);
  const footer = encodePackFooter(chunks.length, index, "compactedPack");
  return Buffer.concat([...chunks.map(({ stored }) => stored), index, footer]);
}

/** The chunks, ascending by offset. `tail` is what the object of `objectBytes` bytes ends in. Throws RepositoryDamaged, UnsupportedFormat. */
export function decodeCompactedPack(tail: Uint8Array, objectBytes: number, key: string): CompactedChunk[] {
  const damaged = (what: string) => new RepositoryDamaged(`The object ${key} is damaged: ${what}.`);
  if (tail.length < packFooterBytes) throw damaged("it ends too early");
  const footerAt = tail.length - packFooterBytes;
  const footer = decodePackFooter(tail.subarray(footerAt), key, "compactedPack");
  const indexAt = footerAt - footer.indexBytes;
  if (indexAt < 0) throw damaged("its index is larger than itself");
  const entries = decodePackIndex(tail.subarray(indexAt, footerAt), footer, Number.POSITIVE_INFINITY, key);
  let position = 0;
  let end = 0;
  const chunks = entries.map((entry) => {
    if (entry.offset < end) throw damaged("its index is not in order");
    end = entry.offset + entry.length;
    position += entry.length;
    return { ...entry, position: position - entry.length };
  });
  if (position !== objectBytes - packFooterBytes - footer.indexBytes) throw damaged("its index is of other chunks");
  return chunks;
}
