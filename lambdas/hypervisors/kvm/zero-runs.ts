/** Tells zeros from data, so that zeros take neither room nor time. Pure. */

/** A part of a chunk of bytes. */
export interface Run {
  /** Within the chunk. */
  readonly start: number;
  readonly end: number;
  readonly isZero: boolean;
}

/** QEMU's clusters are as large unless somebody wants others: smaller zeros would only cut writes into pieces. */
export const zeroBlockBytes = 65_536;
const zeros = Buffer.alloc(zeroBlockBytes);

/**
 * Cuts `data`, which belongs at `offset`, where blocks of a volume that are nothing but zeros begin and end. Runs are in order and without
 * gaps; of two neighbours one is zero. A block that `data` has a part of only counts as data.
 */
export function* zeroRuns(data: Uint8Array, offset: number): Generator<Run> {
  let run: Run | undefined;
  for (let start = 0; start < data.length; ) {
    const end = Math.min(data.length, start + zeroBlockBytes - ((offset + start) % zeroBlockBytes));
    const isZero = end - start === zeroBlockBytes && zeros.equals(data.subarray(start, end));
    if (run?.isZero === isZero) run = { ...run, end };
    else {
      if (run) yield run;
      run = { start, end, isZero };
    }
    start = end;
  }
  if (run) yield run;
}
