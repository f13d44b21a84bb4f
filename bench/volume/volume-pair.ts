/** A volume and its next version, as files of a work directory. */
import type { Extent } from "../../lambdas/hypervisors/file/sparse.ts";

export interface VolumeVersion {
  readonly path: string;
  /** What `hashContent` answers. */
  readonly contentHash: string;
  /** Ranges that are not holes, ascending. */
  readonly extents: readonly Extent[];
}

export interface VolumePair {
  readonly sizeBytes: number;
  readonly first: VolumeVersion;
  readonly second: VolumeVersion;
  /** Ranges in which the second version differs, ascending: what a hypervisor with change tracking would tell. */
  readonly changed: readonly Extent[];
}

export function totalLength(extents: readonly Extent[]): number {
  return extents.reduce((sum, { length }) => sum + length, 0);
}
