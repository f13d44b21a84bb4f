/** Merges of a stopped VM hold its files. When the VM is to be started they are ended: nothing is lost, and the merge goes on while it runs. */
import type { DomainDisk } from "./domain-xml.ts";
import type { KvmHost } from "./host.ts";
import { MergeFiles } from "./merge-files.ts";
import { parseOverlayPath } from "./overlay-path.ts";

/** Ends those that work on these disks; tells whether there was one. */
export async function stopMerges(host: KvmHost, disks: readonly DomainDisk[]): Promise<boolean> {
  let found = false;
  for (const { file } of disks) {
    if (file === undefined || !parseOverlayPath(file)) continue;
    for (const { path } of (await host.imageChain(file)) ?? []) {
      if (!parseOverlayPath(path)) continue;
      const files = new MergeFiles(path);
      if (!(await files.look(host)).merges) continue;
      await files.command(host).stop(path);
      found = true;
    }
  }
  return found;
}
