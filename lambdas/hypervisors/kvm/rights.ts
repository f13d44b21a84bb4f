/**
 * What the user of a host has to be allowed so that snapshots can be taken, read and merged. libvirt's daemon makes the overlays: while the VM
 * runs nobody but QEMU's user may read them, and afterwards nobody but the daemon's own may write to them. So only that user will do, and root.
 */
import { dirname } from "node:path";
import { HypervisorMisconfigured, HypervisorUnavailable } from "../../domain/errors.ts";
import type { KvmHost } from "./host.ts";
import { parseUri } from "./libvirt-uri.ts";

/** Storage that is gone lets a program wait for ever. */
const lookSeconds = 10;

/** Throws HypervisorUnavailable when there is no libvirt, HypervisorMisconfigured for a user who could not use what it makes. */
export async function assertUser(host: KvmHost): Promise<void> {
  const { sockets } = parseUri(host.uri);
  const text = 'id -u; id -un; for path; do [ -S "$path" ] && stat -L -c %u "$path" && break; done; true';
  const [number = "", name = "", owner = ""] = (await host.script("find-socket", text, sockets)).split("\n");
  if (owner === "") {
    throw new HypervisorUnavailable(`libvirt is not there: ${host.name} has no socket ${sockets.join(" or ")}.`);
  }
  if (number === "0" || number === owner) return;
  throw new HypervisorMisconfigured(
    `${name} could neither read nor merge what libvirt makes for snapshots: Snapferry has to log in as ${owner === "0" ? "root" : `the user ${owner}`}, as whom libvirt runs, or as another user with the number ${owner}.`,
  );
}

/**
 * Those of the files, and of the folders that they lie in, which the user may not read and write, root neither: on NFS, or on a file system
 * that is mounted for reading. What is gone is not meant. Throws HypervisorUnavailable where storage does not answer.
 */
export async function closedPaths(host: KvmHost, files: readonly string[]): Promise<string[]> {
  const paths = new Set(files.flatMap((file) => [file, dirname(file)]));
  if (paths.size === 0) return [];
  const text = `xargs -0 sh -c 'find -H "$@" -maxdepth 0 ! "(" -readable -writable ")" 2>&1' find || true`;
  const options = { input: [...paths].join("\0"), timeoutSeconds: lookSeconds };
  const lines = (await host.script("find-closed", text, [], options)).split("\n");
  // In a folder that may not be entered nothing is found.
  const closed = (line: string) => (line.startsWith("/") ? line : /^find: '(.*)': Permission denied$/.exec(line)?.[1]);
  return lines.flatMap((line) => closed(line) ?? []);
}
