import type { LostRange } from "../../lambdas/repository/damage.ts";

/** Each object that is missing or damaged, with the bytes of the volume that went with it. */
export function lostText(lost: readonly LostRange[]): string[] {
  const objects = Map.groupBy(lost, ({ object }) => object);
  return [...objects].map(([object, ranges]) => {
    const texts = ranges.map(({ offset, length }) => `${offset}-${offset + length - 1}`);
    return `  ${object} is missing or damaged: bytes ${texts.join(", ")} of the volume are lost`;
  });
}
