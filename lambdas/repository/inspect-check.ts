/** Whether a snapshot can be read, from the bucket alone: its whole tree, and its packs by their sizes or byte by byte. */
import type { LostRange } from "./damage.ts";
import { openCipher } from "./domain-cipher.ts";
import type { DomainLocation } from "./domain-record.ts";
import { InFlight } from "./in-flight.ts";
import type { ListedPacks } from "./inspect-packs.ts";
import { Losses } from "./losses.ts";
import type { Root } from "./manifest.ts";
import { lostChunk, PackReader, planRanges, type WantedChunk, wantedChunks } from "./pack-reader.ts";
import { foundPages } from "./salvage.ts";

const rangesInFlight = 6;

export interface CheckOptions {
  /** Reads every chunk and compares it with its id. Without it only chunks are read whose pack the listing lacks or shows too short. */
  readonly full: boolean;
  readonly packs: ListedPacks;
  /** Asked before each page: true ends the work, and what was found so far is answered. */
  readonly stopped: () => boolean;
  /** Called with the bytes of the volume that are done; `bytesToRead` says of how many. */
  readonly onProgress: (bytesDone: number) => void;
}

export interface SnapshotCheck {
  readonly pages: number;
  readonly chunks: number;
  /** Chunks that were read back. */
  readonly chunksRead: number;
  readonly lost: readonly LostRange[];
}

/**
 * Branches and pages are read and compared with the hashes in their names. Throws EncryptionKeyUnavailable when chunks of an encrypted
 * snapshot have to be read and its key is not to be had.
 */
export async function checkSnapshot(source: DomainLocation, root: Root, options: CheckOptions): Promise<SnapshotCheck> {
  const losses = new Losses();
  const flights = new InFlight(rangesInFlight);
  const counts = { pages: 0, chunks: 0, chunksRead: 0 };
  let bytesDone = 0;
  const count = (bytes: number) => {
    bytesDone += bytes;
    options.onProgress(bytesDone);
  };
  let packs: Promise<PackReader> | undefined;
  const isDoubtful = ({ pack, offset, length }: WantedChunk) => !options.packs.holds(pack, offset + length);
  try {
    for await (const { page, lost, bytes } of foundPages(source, root)) {
      if (options.stopped()) break;
      if (lost) losses.add([lost]);
      const chunks = page ? wantedChunks(page, root) : [];
      const read = options.full ? chunks : chunks.filter(isDoubtful);
      counts.pages += page ? 1 : 0;
      counts.chunks += chunks.length;
      counts.chunksRead += read.length;
      if (read.length > 0) packs ??= openPacks(source, root);
      const reader = await packs;
      for (const range of planRanges(read))
        await flights.launch(async () => {
          const missing = await reader?.read(range, async () => undefined);
          losses.add((missing ?? []).map((chunk) => lostChunk(source.domain, chunk)));
          count(range.chunks.length * root.chunkBytes);
        });
      count(bytes - read.length * root.chunkBytes);
    }
    await flights.settle();
  } finally {
    await flights.drain();
  }
  return { ...counts, lost: losses.list() };
}

async function openPacks(source: DomainLocation, root: Root): Promise<PackReader> {
  return new PackReader(source, await openCipher(source, root.wrappedKey));
}
