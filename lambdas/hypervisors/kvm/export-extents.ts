/** Which ranges of an export hold data, and which changed since an earlier snapshot: what QEMU tells of each range of the chain. */
import type { NbdPool } from "../../protocols/nbd/pool.ts";
import type { Extent } from "../port.ts";
import type { ExportRecord } from "./export.ts";
import { onHost } from "./host-errors.ts";
import type { ImageLayer } from "./image-chain.ts";

export const allocationContext = "base:allocation";
/** 0: nowhere in the chain; 1: in the topmost file; and so on downwards. */
export const depthContext = "qemu:allocation-depth";

/** Of `base:allocation`: the range reads as zeros. A hole without it may read as anything. */
const readsAsZeros = 2;

/** Ranges within `range` that do not read as zeros. */
export async function* dataExtents(pool: NbdPool, range: Extent): AsyncGenerator<Extent> {
  yield* where(pool, allocationContext, range, (flags) => (flags & readsAsZeros) === 0);
}

/**
 * Ranges that one of the topmost `layers` files of the chain holds, be it as data, zeros or a hole, and everything from `unchangedEnd` on.
 */
export async function* changedExtents(pool: NbdPool, { layers, unchangedEnd }: ChangedLayers): AsyncGenerator<Extent> {
  const { sizeBytes } = pool.info;
  const common = Math.min(unchangedEnd, sizeBytes);
  const isChanged = (depth: number) => depth >= 1 && depth <= layers;
  yield* where(pool, depthContext, { offset: 0, length: common }, isChanged);
  if (sizeBytes > common) yield { offset: common, length: sizeBytes - common };
}

export interface ChangedLayers {
  /** How many files lie on top of the earlier snapshot's frozen ones. */
  readonly layers: number;
  /** The smallest size that the volume had in between, bytes: what lies behind it may have been cut off and grown again. */
  readonly unchangedEnd: number;
}

/** What to look at for the changes since `since`; undefined when its overlay is not among the files of the later snapshot. */
export function changedLayers(frozen: readonly ImageLayer[], since: ExportRecord): ChangedLayers | undefined {
  const index = frozen.findIndex(({ path }) => path === since.installPath);
  if (index < 0 || index + 1 >= frozen.length) return undefined;
  const layers = index + 1;
  return { layers, unchangedEnd: Math.min(...frozen.slice(0, layers + 1).map(({ sizeBytes }) => sizeBytes)) };
}

/** Ranges of which `isWanted` says so, those that touch as one. */
async function* where(
  pool: NbdPool,
  context: string,
  range: Extent,
  isWanted: (flags: number) => boolean,
): AsyncGenerator<Extent> {
  let current: { offset: number; length: number } | undefined;
  const statuses = pool.statusOf(context, range);
  for (;;) {
    const next = await onHost(() => statuses.next());
    if (next.done) break;
    const { offset, length, flags } = next.value;
    if (isWanted(flags)) {
      if (current) current.length += length;
      else current = { offset, length };
    } else if (current) {
      yield current;
      current = undefined;
    }
  }
  if (current) yield current;
}
