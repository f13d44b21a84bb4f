/**
 * Where a snapshot's overlay lies: beside the volume's own file, under its name and the snapshot's id. So every retry finds it, and a
 * file tells of which volume it is.
 */
import { PathOutsideDirectory } from "../../domain/errors.ts";

/** Files of Snapferry's own that are no volumes begin with this, wherever they lie. */
export const hiddenPrefix = ".snapferry-";

export interface Overlay {
  /** `externalId` of the volume: the path of the file that it had before its first snapshot. */
  readonly volume: string;
  readonly snapshotId: string;
}

export function overlayPath({ volume, snapshotId }: Overlay): string {
  return `${volume}.${snapshotId}.qcow2`;
}

/** Ids of snapshots have this prefix, which names that people give rarely have, and no dots: a name can be taken apart in one way only. */
const pattern = /^(?<volume>\/.*[^/])\.(?<snapshotId>snap_[A-Za-z0-9_-]+)\.qcow2$/s;

/** Undefined for the path of any other file. */
export function parseOverlayPath(path: string): Overlay | undefined {
  const { volume, snapshotId } = pattern.exec(path)?.groups ?? {};
  return volume === undefined || snapshotId === undefined ? undefined : { volume, snapshotId };
}

/** As {@link parseOverlayPath}; throws PathOutsideDirectory. */
export function overlayOf(installPath: string): Overlay {
  const overlay = parseOverlayPath(installPath);
  if (!overlay) throw new PathOutsideDirectory(`${installPath} is not the path of a snapshot.`);
  return overlay;
}
