/** Reads chunks of a snapshot back and checks each against its hash, without writing them anywhere. */
import type { PageReference } from "./branch.ts";
import type { LostRange } from "./damage.ts";
import type { DomainCipher } from "./domain-cipher.ts";
import { forEachInFlight } from "./in-flight.ts";
import { Losses } from "./losses.ts";
import type { Root } from "./manifest.ts";
import type { ObjectStore } from "./object-store.ts";
import { lostChunk, PackReader, planRanges, type WantedChunk, wantedChunks } from "./pack-reader.ts";
import { readReferencedPage } from "./tree.ts";

const rangesInFlight = 4;

export class ChunkCheck {
  readonly #location: { readonly store: ObjectStore; readonly domain: string };
  readonly #volume: Pick<Root, "sizeBytes" | "chunkBytes" | "pageChunks">;
  readonly #packs: PackReader;
  readonly losses = new Losses();
  checkedChunks = 0;
  /** Bytes of the volume in the chunks that were read. */
  checkedBytes = 0;

  constructor(
    location: { readonly store: ObjectStore; readonly domain: string },
    volume: Pick<Root, "sizeBytes" | "chunkBytes" | "pageChunks">,
    cipher: DomainCipher | undefined,
  ) {
    this.#location = location;
    this.#volume = volume;
    this.#packs = new PackReader(location, cipher);
  }

  /** In joined ranges: of a volume whose packs are all gone, one for each pack and not one for each chunk. */
  get lost(): LostRange[] {
    return this.losses.list();
  }

  /** Checks those chunks of the page that `isWanted` picks; all of them without it. */
  async page(reference: PageReference, isWanted: (chunk: WantedChunk) => boolean = () => true): Promise<void> {
    const { page, lost } = await readReferencedPage(this.#location, reference, this.#volume);
    if (lost) this.losses.add([lost]);
    if (!page) return;
    const wanted = wantedChunks(page, this.#volume).filter(isWanted);
    this.checkedChunks += wanted.length;
    this.checkedBytes += wanted.reduce((sum, { volumeLength }) => sum + volumeLength, 0);
    await forEachInFlight(planRanges(wanted), rangesInFlight, async (range) => {
      const missing = await this.#packs.read(range, async () => undefined);
      this.losses.add(missing.map((chunk) => lostChunk(this.#location.domain, chunk)));
    });
  }
}
