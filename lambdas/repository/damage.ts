/** What a damaged repository means for a volume: which objects, which bytes. */
import { RepositoryDamaged } from "../domain/errors.ts";

/** A range of a volume that cannot be restored, and the objects that it lay in. */
export interface LostRange {
  readonly offset: number;
  readonly length: number;
  /** Key of the object that is missing or damaged. */
  readonly object: string;
}

/** How many objects and ranges a sentence names: with keys of 150 characters both fit into the 1,000 that are kept of an error's message. */
const namedObjects = 3;
const namedRanges = 10;

/** One error for all that was lost, naming objects and byte ranges. `andMore`: not all that these objects cost is known. */
export function lostRanges(lost: readonly LostRange[], { andMore = false } = {}): RepositoryDamaged {
  return new RepositoryDamaged(
    andMore ? `${describeLost(lost)} There may be more: not all was read.` : describeLost(lost),
  );
}

export function describeLost(lost: readonly LostRange[]): string {
  const objects = [...new Set(lost.map(({ object }) => object))].sort();
  const ranges = joinRanges(lost);
  const texts = ranges.slice(0, namedRanges).map(({ offset, length }) => `${offset}-${offset + length - 1}`);
  const more = ranges.length > namedRanges ? ` and ${ranges.length - namedRanges} more ranges` : "";
  const moreObjects = objects.length > namedObjects ? ` and ${objects.length - namedObjects} more` : "";
  const verb = objects.length > 1 ? "objects are" : "object is";
  return `The ${verb} missing or damaged: ${objects.slice(0, namedObjects).join(", ")}${moreObjects}. Bytes ${texts.join(", ")}${more} of the volume are lost.`;
}

/** Ascending, neighbours made one. */
export function joinRanges(
  lost: readonly Pick<LostRange, "offset" | "length">[],
): { offset: number; length: number }[] {
  const ranges: { offset: number; length: number }[] = [];
  for (const { offset, length } of lost.toSorted((a, b) => a.offset - b.offset)) {
    const last = ranges.at(-1);
    if (last && last.offset + last.length >= offset) last.length = Math.max(last.length, offset + length - last.offset);
    else ranges.push({ offset, length });
  }
  return ranges;
}
