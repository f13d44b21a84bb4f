/** Samples that a repetition picks again: whether something belongs to one depends on its name alone. */
import { hash } from "node:crypto";

/** Whether `name` is among the `percent` of all names that are picked. */
export function isSampled(name: string, percent: number): boolean {
  const fraction = hash("sha256", name, "buffer").readUInt32LE() / 2 ** 32;
  return fraction * 100 < percent;
}
