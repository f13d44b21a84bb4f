/** Overlays that a take left which was interrupted before any disk used them. */
import * as z from "zod";
import { HypervisorFailed } from "../../domain/errors.ts";
import type { KvmHost } from "./host.ts";

/** Of `qemu-img map`: what lies in the file itself has the depth 0. */
const mapSchema = z.array(z.object({ depth: z.int(), present: z.boolean().default(true) }));

/**
 * Deletes an overlay that no chain has; false when there is none. Throws HypervisorFailed when it holds data, or when a program uses it:
 * then it is not what an interrupted take left.
 */
export async function removeLeftover(host: KvmHost, overlay: string): Promise<boolean> {
  if (!(await host.imageChain(overlay))) return false;
  // Not with -U: the lock tells whether a VM uses the file.
  const map = mapSchema.parse(JSON.parse(await host.run(["qemu-img", "map", "--output=json", "-f", "qcow2", overlay])));
  if (map.some(({ depth, present }) => depth === 0 && present)) {
    throw new HypervisorFailed(`${overlay} is there already and holds data, but the disk does not use it.`);
  }
  await host.run(["rm", "-f", overlay]);
  return true;
}
