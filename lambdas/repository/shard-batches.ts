/** The reading side of a copy: a shard's chunks in order, in batches of a few MiB, the next ones while this one is worked on. */
import type { Geometry } from "./domain-record.ts";
import { chunkLength } from "./manifest.ts";
import { borrowShared, returnShared } from "./memory.ts";
import type { PlannedPage } from "./planner.ts";

/** What the repository needs of a hypervisor's reader. */
export interface VolumeReader {
  /** Fills `target` with the bytes from `offset`. `target` may share its memory with other threads. */
  read(target: Uint8Array, offset: number): Promise<void>;
}

/** A place in a shard: the `page`th of its pages, and a chunk in that page. */
export interface ShardPosition {
  readonly page: number;
  readonly chunk: number;
}

/** Some chunks of one page. */
interface BatchPlan {
  /** Position in the shard's list of pages. */
  readonly page: number;
  /** Positions in the page, ascending. */
  readonly chunks: readonly number[];
  /** Bytes of all of them. */
  readonly length: number;
  /** Whether no other batch of the page follows. */
  readonly endsPage: boolean;
}

export interface Batch extends BatchPlan {
  /** The chunks one behind the other, in shared memory. */
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  /** To be called once when `bytes` is no longer needed: the next reads use it again. */
  release(): void;
}

/** Large enough that a request costs little beside its bytes, small enough that several of them are nothing beside the packs. */
const batchBytes = 2 * 1024 * 1024;
/** Batches that are being read while one is worked on. */
const batchesAhead = 2;

interface ShardToRead {
  readonly pages: readonly PlannedPage[];
  readonly sizeBytes: number;
  readonly geometry: Geometry;
  readonly from: ShardPosition;
}

/** Most chunks that a batch has. */
function chunksPerBatch(geometry: Geometry): number {
  return Math.max(1, Math.floor(batchBytes / geometry.chunkBytes));
}

function* planBatches(shard: ShardToRead): Generator<BatchPlan> {
  const { chunkBytes, pageChunks } = shard.geometry;
  const most = chunksPerBatch(shard.geometry);
  for (const [page, planned] of shard.pages.entries()) {
    if (page < shard.from.page) continue;
    const first = page === shard.from.page ? shard.from.chunk : 0;
    const wanted = planned.toRead.indexes().filter((chunk) => chunk >= first);
    for (let at = 0; at < wanted.length; at += most) {
      const chunks = wanted.slice(at, at + most);
      const last = planned.index * pageChunks + chunks.at(-1)!;
      const length = (chunks.length - 1) * chunkBytes + chunkLength(last, { sizeBytes: shard.sizeBytes, chunkBytes });
      yield { page, chunks, length, endsPage: at + most >= wanted.length };
    }
  }
}

/** Neighbours in the volume are neighbours in the buffer: one read for each run of them. */
async function fill(reader: VolumeReader, shard: ShardToRead, plan: BatchPlan, bytes: Uint8Array): Promise<void> {
  const { chunkBytes, pageChunks } = shard.geometry;
  const firstOfPage = shard.pages[plan.page]!.index * pageChunks;
  const reads: Promise<void>[] = [];
  for (let start = 0, at = 1; at <= plan.chunks.length; at++) {
    if (at < plan.chunks.length && plan.chunks[at] === plan.chunks[at - 1]! + 1) continue;
    const target = bytes.subarray(start * chunkBytes, Math.min(at * chunkBytes, plan.length));
    reads.push(reader.read(target, (firstOfPage + plan.chunks[start]!) * chunkBytes));
    start = at;
  }
  const outcomes = await Promise.allSettled(reads);
  for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
}

/** Reads until the shard's end, or until `until` says that time is short. */
export async function* readBatches(
  reader: VolumeReader,
  shard: ShardToRead,
  until: () => boolean,
): AsyncGenerator<Batch, void, undefined> {
  const plans = planBatches(shard);
  const bufferBytes = chunksPerBatch(shard.geometry) * shard.geometry.chunkBytes;
  const started: Promise<Batch>[] = [];
  let isOver = false;
  const start = () => {
    isOver ||= until();
    const plan = isOver ? undefined : plans.next().value;
    if (!plan) return;
    const memory = borrowShared(bufferBytes);
    const bytes = new Uint8Array(memory, 0, plan.length);
    const reading = fill(reader, shard, plan, bytes);
    const batch = reading.then(() => ({ ...plan, bytes, release: () => returnShared(memory) }));
    batch.catch(() => undefined);
    started.push(batch);
  };
  try {
    for (let ahead = 0; ahead <= batchesAhead; ahead++) start();
    while (started.length > 0) {
      const batch = await started[0]!;
      started.shift();
      start();
      yield batch;
    }
  } finally {
    await Promise.allSettled(started);
  }
}
