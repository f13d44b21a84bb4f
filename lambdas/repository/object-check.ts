/** Whether an object is in the store as it was written. */
import { sha256 } from "./binary.ts";
import type { ObjectStore } from "./object-store.ts";

/** By the store's own checksum where it keeps one, else by reading the object back. */
export async function isIntact(
  store: ObjectStore,
  expected: { readonly key: string; readonly size: number; readonly sha256: string },
): Promise<boolean> {
  const head = await store.head(expected.key);
  if (head?.size !== expected.size) return false;
  if (head.sha256 !== undefined) return head.sha256 === expected.sha256;
  const bytes = await store.get(expected.key, undefined, expected.size);
  return bytes !== undefined && sha256(bytes) === expected.sha256;
}
