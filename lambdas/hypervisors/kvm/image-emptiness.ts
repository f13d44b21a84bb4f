/** Whether an overlay holds any change: data, or zeros that hide what lies below. */
import * as z from "zod";
import { HypervisorFailed } from "../../domain/errors.ts";
import { SshOutputTooLong } from "../../protocols/ssh/errors.ts";
import type { KvmHost } from "./host.ts";

/** Of `qemu-img map`. QEMU before 6.1 does not say whether anybody holds an extent. */
const extentsSchema = z.array(z.object({ depth: z.int(), present: z.boolean().optional() }));
type Extents = z.infer<typeof extentsSchema>;

/** Some 100,000 extents of the whole chain, for QEMU before 6.1 only. */
const maxChainBytes = 16 * 1024 * 1024;

/** Nobody may write the overlay meanwhile. Throws HypervisorFailed when a program does. */
export async function isEmptyOverlay(host: KvmHost, path: string): Promise<boolean> {
  const alone = JSON.stringify({ driver: "qcow2", file: { driver: "file", filename: path }, backing: null });
  try {
    const own = await map(host, [`json:${alone}`]);
    return holdsNothing(own) ?? holdsNothingOnTop(await map(host, ["-f", "qcow2", path], maxChainBytes));
  } catch (error) {
    // Megabytes of extents are not nothing.
    if (error instanceof HypervisorFailed && error.cause instanceof SshOutputTooLong) return false;
    throw error;
  }
}

async function map(host: KvmHost, image: readonly string[], maxOutputBytes?: number): Promise<Extents> {
  const argv = ["qemu-img", "map", "--output=json", "-U", ...image];
  return extentsSchema.parse(JSON.parse(await host.run(argv, maxOutputBytes === undefined ? {} : { maxOutputBytes })));
}

/** Of the overlay without what lies below; undefined where that cannot be told. */
export function holdsNothing(own: Extents): boolean | undefined {
  return own.some(({ present }) => present === undefined) ? undefined : own.every(({ present }) => !present);
}

/** Of the overlay with what lies below. */
export function holdsNothingOnTop(chain: Extents): boolean {
  return chain.every(({ depth }) => depth > 0);
}
