/**
 * How a volume's files are told apart. A volume is the chain of one disk: its own file, which it was when Snapferry first saw it, perhaps
 * with other people's files below, and above it one overlay for each snapshot, the newest on top. Merges go down, so the own file stays;
 * its path is the volume's externalId. An overlay's path is its snapshot's installPath, for ever; the snapshot's frozen bytes are what
 * lies below it. Pure.
 */
import { basename, dirname, isAbsolute, join, normalize } from "node:path";
import { PathOutsideDirectory } from "../../domain/errors.ts";

const idPattern = /^[A-Za-z0-9_-]{1,128}$/;
const overlaySuffix = ".qcow2";
/** What a file system takes as one name. */
const maxNameBytes = 255;
/** `.snap_` with a ULID, and {@link overlaySuffix}. */
const overlayNameBytes = 1 + 31 + overlaySuffix.length;

export interface OverlayName {
  readonly externalId: string;
  readonly snapshotId: string;
}

/** Path of the overlay that a snapshot makes. Throws PathOutsideDirectory for what is no absolute path or no id. */
export function overlayPath({ externalId, snapshotId }: OverlayName): string {
  assertFilePath(externalId);
  if (!idPattern.test(snapshotId)) {
    throw new PathOutsideDirectory(`${JSON.stringify(snapshotId)} is not an id of 1 to 128 [A-Za-z0-9_-].`);
  }
  return `${externalId}.${snapshotId}${overlaySuffix}`;
}

/** What {@link overlayPath} made a path of; undefined for any other path. */
export function parseOverlayPath(path: string): OverlayName | undefined {
  if (!isFilePath(path) || !path.endsWith(overlaySuffix)) return undefined;
  const stem = path.slice(0, -overlaySuffix.length);
  const dot = stem.lastIndexOf(".");
  const externalId = stem.slice(0, dot);
  const snapshotId = stem.slice(dot + 1);
  if (dot < 0 || !isFilePath(externalId) || !idPattern.test(snapshotId)) return undefined;
  return { externalId, snapshotId };
}

/** As {@link parseOverlayPath}, for an installPath. Throws PathOutsideDirectory when it is none. */
export function overlayNameOf(installPath: string): OverlayName {
  const name = parseOverlayPath(installPath);
  if (!name) throw new PathOutsideDirectory(`${JSON.stringify(installPath)} is not the path of a snapshot's overlay.`);
  return name;
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
    if (name) overlaid.add(name.externalId);
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
  return top === externalId || parseOverlayPath(top)?.externalId === externalId;
}

function assertFilePath(path: string): void {
  if (!isFilePath(path)) throw new PathOutsideDirectory(`${JSON.stringify(path)} is not the absolute path of a file.`);
}

/** In the one form in which it is compared, and fit for an argument. */
function isFilePath(path: string): boolean {
  const isPlain = isAbsolute(path) && path === normalize(path) && path === join(dirname(path), basename(path));
  return isPlain && path !== "/" && !path.endsWith("/") && path.isWellFormed() && !/\p{Cc}/u.test(path);
}
