/** Tells files that are gone from files that are away: on a file system that is not mounted, as after a restart of the host. */
import { dirname } from "node:path";
import { HypervisorUnavailable } from "../../domain/errors.ts";
import { mayBeTopOf } from "./chain.ts";
import type { KvmHost } from "./host.ts";
import { chainOf, readDisks } from "./host-images.ts";

/** Arguments: paths. Says which is the first that is not there. */
const missingScript = 'for path; do [ -e "$path" ] || { printf "%s" "$path"; break; }; done';

/**
 * Call it before a file of this volume that is not there is taken for gone. The folder has to be there, and every file of the volume that a
 * VM has: of a volume that was deleted no definition is left. Throws HypervisorUnavailable, which says what to do where it is gone for good.
 */
export async function requirePresence(host: KvmHost, volume: string): Promise<void> {
  const folder = dirname(volume);
  const uses = (await readDisks(host)).flatMap(({ domain, disk }) =>
    chainOf(disk).flatMap((path) => (mayBeTopOf(volume, path) ? [{ path, name: domain.name }] : [])),
  );
  const missing = await host.script("look", missingScript, [folder, ...uses.map(({ path }) => path)]);
  if (missing === "") return;
  if (missing === folder) {
    throw new HypervisorUnavailable(
      `${host.name} has no folder ${folder} now: is its file system mounted? If it is gone for good, make it anew, empty.`,
    );
  }
  const { name } = uses.find(({ path }) => path === missing)!;
  throw new HypervisorUnavailable(
    `${name} has ${missing} as its disk, which is not there now: is the file system mounted? If it is gone for good, detach the disk or undefine the VM.`,
  );
}
