/**
 * How a volume's files are told apart. A volume is the chain of one disk: its own file, which it was when Snapferry first saw it, perhaps
 * with other people's files below, and above it one overlay for each snapshot, the newest on top. Merges go down, so the own file stays;
 * its path is the volume's externalId. An overlay's path is its snapshot's installPath, for ever; the snapshot's frozen bytes are what
 * lies below it. Pure.
 */
import { basename, dirname, isAbsolute, join, normalize } from "node:path";
import { PathOutsideDirectory } from "../../domain/errors.ts";
import { type Overlay, overlayOf, overlayPath, parseOverlayPath } from "./overlay-path.ts";

/** What a file system takes as one name. */
const maxNameBytes = 255;
/** `.snap_` with a ULID, and `.qcow2`. */
const overlayNameBytes = 1 + 31 + 6;

/** Path of the overlay that a snapshot will make. Throws PathOutsideDirectory for what is no plain absolute path, or no id of a snapshot. */
export function plannedOverlay({ externalId, snapshotId }: { externalId: string; snapshotId: string }): string {
  const path = overlayPath({ volume: externalId, snapshotId });
  const overlay = parseOverlayPath(path);
  if (isFilePath(externalId) && overlay?.volume === externalId && overlay.snapshotId === snapshotId) return path;
  const name = JSON.stringify(externalId);
  throw new PathOutsideDirectory(`${name} is not the absolute path of a file, or ${JSON.stringify(snapshotId)} no id.`);
}

/** The volume and the snapshot that an installPath names. Throws PathOutsideDirectory for any other path. */
export function plannedBy(installPath: string): Overlay {
  const overlay = overlayOf(installPath);
  plannedOverlay({ externalId: overlay.volume, snapshotId: overlay.snapshotId });
  return overlay;
}

/**
 * The volume's own file in a chain of paths, the topmost first: the lowest that an overlay above it is named after. Without such an overlay
 * it is the topmost: what lies below may be an image that many VMs share.
 */
export function ownFileOf(paths: readonly string[]): string {
  const overlaid = new Set<string>();
  let own = paths[0]!;
  for (const path of paths) {
    if (overlaid.has(path)) own = path;
    const name = parseOverlayPath(path);
    if (name) overlaid.add(name.volume);
  }
  return own;
}

/** Why a file cannot be a volume's own; undefined when it can. */
export function unfitOwnFile(path: string): string | undefined {
  if (!isFilePath(path)) return `${path} is not the plain absolute path of a file.`;
  if (Buffer.byteLength(basename(path)) + overlayNameBytes > maxNameBytes) {
    return `The name of ${path} is too long for snapshots to be named after it.`;
  }
}

/** Whether a file on top of a chain may belong to this volume, as far as names can tell. */
export function mayBeTopOf(externalId: string, top: string): boolean {
  return top === externalId || parseOverlayPath(top)?.volume === externalId;
}

/** In the one form in which it is compared, and fit for an argument. */
function isFilePath(path: string): boolean {
  const isPlain = isAbsolute(path) && path === normalize(path) && path === join(dirname(path), basename(path));
  return isPlain && path !== "/" && !path.endsWith("/") && path.isWellFormed() && !/\p{Cc}/u.test(path);
}
