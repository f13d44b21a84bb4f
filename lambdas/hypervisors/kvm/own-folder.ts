/** The folder of Snapferry's own on a host. Paths of sockets in it have to be short. Pure. */
import { hash } from "node:crypto";
import { HypervisorMisconfigured } from "../../domain/errors.ts";

/** Linux has 108 bytes for the path of a unix socket, with the NUL at its end. */
const maxSocketPathBytes = 107;
/** `/exports/`, the id of a snapshot, `/sock`. */
const longestSocketBytes = 9 + 31 + 5;
/** 48 bits tell the few registrations of one host apart. */
const nameCharacters = 12;

/** Below the home of the user. Registrations of one host, by different tenants for example, have different ones. */
export function ownFolderPath(owner: string): string {
  return `.snapferry/${hash("sha256", owner).slice(0, nameCharacters)}`;
}

/** Throws HypervisorMisconfigured when sockets in this folder cannot be opened. */
export function assertShortEnough(folder: string): void {
  const most = maxSocketPathBytes - longestSocketBytes;
  if (Buffer.byteLength(folder) <= most) return;
  throw new HypervisorMisconfigured(
    `The path of the user's home is too long for sockets in it: ${folder} may have ${most} bytes.`,
  );
}
