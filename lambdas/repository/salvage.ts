/**
 * Reads a whole snapshot into one volume, from the bucket alone: nothing is written to the store, and with `salvage` damage does not end
 * it. For people with a bucket and no service; restores of the service work in shards (reader.ts).
 */
import type { LostRange } from "./damage.ts";
import { openCipher } from "./domain-cipher.ts";
import type { DomainLocation } from "./domain-record.ts";
import { InFlight, mapAhead } from "./in-flight.ts";
import { Losses } from "./losses.ts";
import { lossOf } from "./lost-packs.ts";
import type { Root } from "./manifest.ts";
import { lostChunk, PackReader, planRanges, wantedChunks } from "./pack-reader.ts";
import type { Page } from "./page.ts";
import type { VolumeWriter } from "./reader.ts";
import { type FoundReference, foundReferences, readReferencedPage } from "./tree.ts";

/** More than a worker of the service has, which reads one of many shards. Each has 8 MiB of memory. */
const rangesInFlight = 6;
const pagesAhead = 4;

/** A page of a snapshot, or in its place (or that of a whole branch) the bytes that are lost. */
export interface FoundPage {
  readonly page?: Page;
  readonly lost?: LostRange;
  /** Bytes of chunks that are not zeros, lost ones included. */
  readonly bytes: number;
}

/** Bytes of a snapshot's chunks that are not zeros: an upper bound by less than one chunk. */
export function bytesToRead({ branches, chunkBytes }: Pick<Root, "branches" | "chunkBytes">): number {
  return branches.reduce((sum, { chunks }) => sum + chunks * chunkBytes, 0);
}

/** Everything that the root leads to, in the order of the volume. Throws no damage: it is in what is found. */
export async function* foundPages(
  source: Pick<DomainLocation, "store" | "domain">,
  root: Root,
): AsyncGenerator<FoundPage> {
  const read = async ({ page: reference, lost, chunks }: FoundReference): Promise<FoundPage> => ({
    ...(reference ? await readReferencedPage(source, reference, root) : { lost }),
    bytes: chunks * root.chunkBytes,
  });
  yield* mapAhead(foundReferences(source, root), pagesAhead, read);
}

export interface SalvageOptions {
  readonly writer: VolumeWriter;
  /** Go on past damage; without it the first damage found is thrown, with all that it costs. */
  readonly salvage: boolean;
  /** Asked before each page: true ends the work. */
  readonly stopped: () => boolean;
  /** Called with the bytes that are done, lost ones included; {@link bytesToRead} says of how many. */
  readonly onProgress: (bytesDone: number) => void;
}

/**
 * Writes the snapshot's chunks, each checked, and flushes; zeros and what is lost are not written. Answers what is lost. Throws
 * RepositoryDamaged (without `salvage`) naming objects and byte ranges, EncryptionKeyUnavailable, and what the writer throws.
 */
export async function readOut(
  source: DomainLocation,
  root: Root,
  { writer, salvage, stopped, onProgress }: SalvageOptions,
): Promise<readonly LostRange[]> {
  const packs = new PackReader(source, await openCipher(source, root.wrappedKey));
  const flights = new InFlight(rangesInFlight);
  const losses = new Losses();
  let bytesDone = 0;
  const count = (bytes: number) => {
    bytesDone += bytes;
    onProgress(bytesDone);
  };
  try {
    for await (const { page, lost, bytes } of foundPages(source, root)) {
      if (stopped()) break;
      if (lost) {
        losses.add([lost]);
        count(bytes);
      }
      if (!salvage && losses.any) break;
      for (const range of page ? planRanges(wantedChunks(page, root)) : [])
        await flights.launch(async () => {
          const missing = await packs.read(range, (span) => writer.write(span.bytes, span.volumeOffset));
          losses.add(missing.map((chunk) => lostChunk(source.domain, chunk)));
          count(range.chunks.length * root.chunkBytes);
        });
    }
    await flights.settle();
  } finally {
    await flights.drain();
  }
  if (!salvage && losses.any) throw await lossOf(source, root, { lost: losses.list(), stopped });
  await writer.flush();
  return losses.list();
}
