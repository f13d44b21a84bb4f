/** The reading side of a copy: a shard's allocated chunks in order, read in large pieces, the next one while this one is worked on. */
import type { Geometry } from "./domain-record.ts";
import { chunkLength } from "./manifest.ts";
import type { PlannedPage } from "./planner.ts";

/** What the repository needs of a hypervisor's reader. */
export interface VolumeReader {
  /** Fills `target` with the bytes from `offset`. */
  read(target: Uint8Array, offset: number): Promise<void>;
}

/** A place in a shard: the `page`th of its pages, and a chunk in that page. */
export interface ShardPosition {
  readonly page: number;
  readonly chunk: number;
}

/** Chunks that lie side by side in one page. */
interface RunPlan extends ShardPosition {
  readonly chunks: number;
  readonly offset: number;
  readonly length: number;
}

export interface Run extends RunPlan {
  readonly bytes: Buffer;
  /** To be called once when `bytes` is no longer needed: the next reads use it again. */
  release(): void;
}

/** Large enough that a request costs little beside its bytes, small enough that two of them are nothing beside the packs. */
const readBytes = 4 * 1024 * 1024;

interface ShardToRead {
  readonly pages: readonly PlannedPage[];
  readonly sizeBytes: number;
  readonly geometry: Geometry;
  readonly from: ShardPosition;
}

function* planRuns(shard: ShardToRead): Generator<RunPlan> {
  const { chunkBytes, pageChunks } = shard.geometry;
  const most = Math.max(1, Math.floor(readBytes / chunkBytes));
  for (const [page, planned] of shard.pages.entries()) {
    if (page < shard.from.page) continue;
    let chunk = page === shard.from.page ? shard.from.chunk : 0;
    while (chunk < planned.allocated.length) {
      const chunks = runLength(planned.allocated, chunk, most);
      if (chunks > 0) {
        const first = planned.index * pageChunks + chunk;
        const last = chunkLength(first + chunks - 1, { sizeBytes: shard.sizeBytes, chunkBytes });
        yield { page, chunk, chunks, offset: first * chunkBytes, length: (chunks - 1) * chunkBytes + last };
      }
      chunk += Math.max(chunks, 1);
    }
  }
}

function runLength(allocated: readonly boolean[], from: number, most: number): number {
  let length = 0;
  while (length < most && allocated[from + length]) length += 1;
  return length;
}

/** Reads until the shard's end, or until `until` says that time is short. */
export async function* readRuns(
  reader: VolumeReader,
  shard: ShardToRead,
  until: () => boolean,
): AsyncGenerator<Run, void, undefined> {
  const plans = planRuns(shard);
  const free: Buffer[] = [];
  const bufferBytes = Math.max(
    shard.geometry.chunkBytes,
    Math.min(readBytes, shard.geometry.chunkBytes * shard.geometry.pageChunks),
  );
  const start = (): Promise<Run> | undefined => {
    const plan = until() ? undefined : plans.next().value;
    if (!plan) return undefined;
    const buffer = free.pop() ?? Buffer.allocUnsafeSlow(bufferBytes);
    const bytes = buffer.subarray(0, plan.length);
    const reading = reader
      .read(bytes, plan.offset)
      .then(() => ({ ...plan, bytes, release: () => void free.push(buffer) }));
    reading.catch(() => undefined);
    return reading;
  };
  let next = start();
  try {
    while (next) {
      const run: Run = await next;
      next = start();
      yield run;
    }
  } finally {
    await next?.catch(() => undefined);
  }
}
