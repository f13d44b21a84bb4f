/** A storage pool's definition as libvirt has it. */
import { parseXml, textAt } from "./xml.ts";

/** Kinds of pools whose volumes are files in a folder. */
const kindsWithFolder: ReadonlySet<string | null> = new Set(["dir", "fs", "netfs"]);

/** Absolute path of the folder; undefined for a pool that has none. Throws HypervisorFailed for what is no definition of a pool. */
export function poolFolder(xml: string): string | undefined {
  const pool = parseXml(xml, "pool");
  return kindsWithFolder.has(pool.getAttribute("type")) ? textAt(pool, "target", "path") : undefined;
}
