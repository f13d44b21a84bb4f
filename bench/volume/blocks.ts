import type { Extent } from "../../lambdas/repository/planner.ts";

/** The blocks of a volume that ascending extents touch, each once, ascending. The volume's last block may be shorter. */
export function* blocksOf(extents: Iterable<Extent>, sizeBytes: number, blockBytes: number): Generator<Extent> {
  let next = 0;
  for (const { offset, length } of extents) {
    const end = Math.ceil((offset + length) / blockBytes);
    for (let block = Math.max(next, Math.floor(offset / blockBytes)); block < end; block++) {
      const start = block * blockBytes;
      yield { offset: start, length: Math.min(blockBytes, sizeBytes - start) };
      next = block + 1;
    }
  }
}
