/** Overlays that a take left which was interrupted before any disk used them. */
import * as z from "zod";
import { HypervisorFailed } from "../../domain/errors.ts";
import type { KvmHost } from "./host.ts";

/** Of `qemu-img map`: whether the file has anything there, be it zeros. QEMU tells it since 6.1; before, all of it counts as data. */
const mapSchema = z.array(z.object({ present: z.boolean().default(true) }));

/**
 * Deletes an overlay that no chain has; false when there is none. Throws HypervisorFailed when it holds data, or when a program uses it:
 * then it is not what an interrupted take left.
 */
export async function removeLeftover(host: KvmHost, overlay: string): Promise<boolean> {
  if (!(await host.imageChain(overlay))) return false;
  // Not with -U: the lock tells whether a VM uses the file. Without what lies below, which the VM may well write to.
  const alone = { driver: "qcow2", file: { driver: "file", filename: overlay }, backing: null };
  const json = await host.run(["qemu-img", "map", "--output=json", `json:${JSON.stringify(alone)}`]);
  if (mapSchema.parse(JSON.parse(json)).some(({ present }) => present)) {
    throw new HypervisorFailed(`${overlay} is there already and holds data, but the disk does not use it.`);
  }
  await host.run(["rm", "-f", overlay]);
  return true;
}
