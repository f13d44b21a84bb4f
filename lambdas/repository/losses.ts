/** What is lost of a volume, kept small: neighbours that went with the same object are one range, however many chunks they were. */
import { joinRanges, type LostRange } from "./damage.ts";

export class Losses {
  readonly #byObject = new Map<string, { offset: number; length: number }[]>();

  get any(): boolean {
    return this.#byObject.size > 0;
  }

  /** How many are kept. */
  get ranges(): number {
    return [...this.#byObject.values()].reduce((sum, ranges) => sum + ranges.length, 0);
  }

  add(lost: readonly LostRange[]): void {
    for (const { object, offset, length } of lost) {
      const ranges = this.#byObject.get(object) ?? [];
      const last = ranges.at(-1);
      if (last && last.offset + last.length === offset) last.length += length;
      else ranges.push({ offset, length });
      this.#byObject.set(object, ranges);
    }
  }

  /** Ascending by offset, neighbours of the same object joined in whatever order they were found. */
  list(): LostRange[] {
    return [...this.#byObject]
      .flatMap(([object, ranges]) => joinRanges(ranges).map((range) => ({ ...range, object })))
      .sort((a, b) => a.offset - b.offset);
  }
}
