/** The writing side of a copy: puts chunks into packs, packs and pages into the store, and leaves a checkpoint every few packs. */
import { randomBytes } from "node:crypto";
import { sha256 } from "./binary.ts";
import type { EncodedChunk } from "./chunk.ts";
import type { DomainCipher } from "./domain-cipher.ts";
import type { Geometry } from "./domain-record.ts";
import { InFlight } from "./in-flight.ts";
import { domainKeys, formatPackName, formatPageName, jobKeys } from "./layout.ts";
import { returnBuffer } from "./memory.ts";
import { PackBuilder, packBuffer } from "./pack.ts";
import { decodePage, encodePage, type Page } from "./page.ts";
import type { ChunkLocation, PageChunks } from "./page-chunks.ts";
import type { BackupTarget } from "./pin.ts";
import type { PlannedPage } from "./planner.ts";
import type { ShardPosition } from "./shard-batches.ts";
import { type Checkpoint, encodeCheckpoint, encodeResult, type ShardResult } from "./shard-state.ts";

/** Two packs on their way and one being filled: 51 MiB. */
const uploadsInFlight = 2;
const pageUploadsInFlight = 4;
/** A checkpoint costs a request as a pack does, and has the page so far in it. What a killed worker loses is 64 MiB of packs, some seconds of an upload. */
const packsPerCheckpoint = 4;

/** A page while its chunks come in. */
export interface OpenPage {
  /** Position in the shard's list of planned pages. */
  readonly position: number;
  readonly planned: PlannedPage;
  /** The base's page at the same place. */
  readonly base: Page | undefined;
  readonly chunks: PageChunks;
}

interface OpenPack {
  readonly name: string;
  readonly builder: PackBuilder;
  readonly buffer: Buffer;
}

export interface ShardOutputOptions {
  readonly planHash: string;
  readonly shard: number;
  readonly attempt: number;
  readonly geometry: Geometry;
  /** Of an encrypted domain. */
  readonly cipher: DomainCipher | undefined;
  readonly resumed: Checkpoint | undefined;
}

export class ShardOutput {
  readonly #target: BackupTarget;
  readonly #options: ShardOutputOptions;
  /** New for every invocation: a late one of the same attempt may still write. */
  readonly #token = randomBytes(8).toString("hex");
  readonly #pages: ShardResult["pages"];
  readonly #zeroPages: number[];
  readonly #packs: ShardResult["packs"];
  /** Positions of this shard's packs in the result, by name; of those of the base in its `reused`. */
  readonly #own: Map<string, number>;
  readonly #reused: Map<string, number>;
  readonly #packUploads = new InFlight(uploadsInFlight);
  readonly #pageUploads = new InFlight(pageUploadsInFlight);
  #pack: OpenPack | undefined;
  #packsStarted = 0;
  /** Of the pack that was sealed last: it and all before it are in the store. */
  #lastWritten: Promise<void> = Promise.resolve();
  #position: ShardPosition;
  #partial: OpenPage | undefined;
  /** The page that the resumed checkpoint stopped in, as long as no chunk has come in. */
  #partialBefore: string;
  #bytesDone: number;

  constructor(target: BackupTarget, options: ShardOutputOptions) {
    this.#target = target;
    this.#options = options;
    const { resumed } = options;
    this.#pages = [...(resumed?.pages ?? [])];
    this.#zeroPages = [...(resumed?.zeroPages ?? [])];
    this.#packs = [...(resumed?.packs ?? [])];
    this.#own = new Map(this.#packs.map((pack, at) => [pack.name, at]));
    this.#reused = new Map(resumed?.reused.map((pack, at) => [pack, at]));
    this.#position = { page: resumed?.nextPage ?? 0, chunk: resumed?.nextChunk ?? 0 };
    this.#partialBefore = resumed?.partialPage ?? "";
    this.#bytesDone = resumed?.bytesDone ?? 0;
  }

  /** Where the next chunk belongs. */
  get position(): ShardPosition {
    return this.#position;
  }

  /** Bytes of the volume whose chunks have come in, earlier invocations included. */
  get bytesDone(): number {
    return this.#bytesDone;
  }

  /** Puts a new chunk into a pack. */
  store(hash: string, encoded: EncodedChunk): ChunkLocation {
    this.#pack ??= this.#openPack();
    return { ...this.#pack.builder.append(hash, encoded), pack: this.#pack.name };
  }

  /** Takes the next chunk of a page: where it lies, or undefined for zeros. */
  async add(
    page: OpenPage,
    chunk: { index: number; length: number; location: ChunkLocation | undefined; endsPage: boolean },
  ): Promise<void> {
    page.chunks.set(chunk.index, chunk.location);
    this.#bytesDone += chunk.length;
    this.#partial = chunk.endsPage ? undefined : page;
    this.#partialBefore = "";
    this.#position = chunk.endsPage
      ? { page: page.position + 1, chunk: 0 }
      : { page: page.position, chunk: chunk.index + 1 };
    if (chunk.endsPage) await this.#finishPage(page);
    if (this.#pack?.builder.isFull(this.#options.geometry.packBytes)) await this.#upload(this.#pack);
  }

  #openPack(): OpenPack {
    const { shard, attempt, geometry, cipher } = this.#options;
    const sequence = this.#packsStarted++;
    const name = formatPackName({ jobId: this.#target.jobId, attempt, shard, token: this.#token, sequence });
    const buffer = packBuffer(geometry.packBytes, geometry.chunkBytes);
    this.#own.set(name, this.#own.size);
    return { name, builder: new PackBuilder(buffer, cipher?.packKey(name)), buffer };
  }

  async #finishPage(page: OpenPage): Promise<void> {
    const chunks = page.chunks.count();
    if (chunks === 0) {
      this.#zeroPages.push(page.planned.index);
      return;
    }
    const finished: Page = { index: page.planned.index, chunks: page.chunks };
    const reference = { index: finished.index, chunks, ...this.#packsOf(finished) };
    if (page.planned.base !== undefined && page.base && page.chunks.areLike(page.base.chunks)) {
      this.#pages.push({ ...reference, name: page.planned.base, size: 0 });
      return;
    }
    const object = encodePage(finished);
    const hash = sha256(object);
    const { jobId, store, domain } = this.#target;
    const name = formatPageName({ jobId, attempt: this.#options.attempt, sha256: hash });
    this.#pages.push({ ...reference, name, size: object.length });
    await this.#pageUploads.launch(async () => {
      await store.put(domainKeys(domain).page(name), object, { sha256: hash });
    });
  }

  #packsOf(page: Page): { packs: number[]; reused: number[] } {
    const packs: number[] = [];
    const reused: number[] = [];
    for (const pack of page.chunks.packs()) {
      const own = this.#own.get(pack);
      if (own !== undefined) packs.push(own);
      else reused.push(this.#reusedNumber(pack));
    }
    return { packs, reused };
  }

  #reusedNumber(pack: string): number {
    const known = this.#reused.get(pack) ?? this.#reused.size;
    this.#reused.set(pack, known);
    return known;
  }

  /** With every fourth pack goes a checkpoint, once that and all before it is in the store. */
  async #upload(pack: OpenPack): Promise<void> {
    const upload = this.#seal(pack);
    const checkpoint = this.#packsStarted % packsPerCheckpoint === 0 ? this.#checkpoint() : undefined;
    const before = Promise.all([this.#lastWritten, this.#pageUploads.settle()]);
    before.catch(() => undefined);
    await this.#packUploads.launch(() => {
      const written = upload()
        .then(() => before)
        .then(() => checkpoint && this.#writeCheckpoint(checkpoint));
      this.#lastWritten = written;
      return written;
    });
  }

  /** Closes the pack and answers what uploads it. */
  #seal({ name, builder, buffer }: OpenPack): () => Promise<void> {
    const object = builder.seal();
    const hash = sha256(object);
    this.#packs.push({ name, size: object.length, sha256: hash });
    this.#pack = undefined;
    return async () => {
      await this.#target.store.put(domainKeys(this.#target.domain).pack(name), object, { sha256: hash });
      returnBuffer(buffer);
    };
  }

  /** What is done, as of now: every chunk that came in lies in a sealed pack. */
  #checkpoint(): Checkpoint {
    const partial = this.#partial;
    const partialPage = partial
      ? encodePage({ index: partial.planned.index, chunks: partial.chunks }).toString("base64")
      : this.#partialBefore;
    return { ...this.#result(), nextPage: this.#position.page, nextChunk: this.#position.chunk, partialPage };
  }

  #result(): ShardResult {
    return {
      planHash: this.#options.planHash,
      pages: [...this.#pages],
      zeroPages: [...this.#zeroPages],
      packs: [...this.#packs],
      reused: [...this.#reused.keys()],
      bytesDone: this.#bytesDone,
    };
  }

  async #writeCheckpoint(checkpoint: Checkpoint): Promise<void> {
    const { shard, attempt, cipher } = this.#options;
    const key = jobKeys(this.#target.domain, this.#target.jobId).checkpoint(shard, attempt);
    await this.#target.store.put(key, encodeCheckpoint(checkpoint, { key, cipher }));
  }

  async #flush(): Promise<void> {
    if (this.#pack && !this.#pack.builder.isEmpty) await this.#packUploads.launch(this.#seal(this.#pack));
    await this.#packUploads.settle();
    await this.#pageUploads.settle();
  }

  /** Makes all that came in durable, so that the next invocation goes on from here. */
  async pause(): Promise<void> {
    await this.#flush();
    await this.#writeCheckpoint(this.#checkpoint());
  }

  /** Writes the shard's result. A result that is there already (of a late invocation) is as good. */
  async finish(): Promise<void> {
    await this.#flush();
    const { shard, attempt, cipher } = this.#options;
    const key = jobKeys(this.#target.domain, this.#target.jobId).result(shard, attempt);
    await this.#target.store.put(key, encodeResult(this.#result(), { key, cipher }), { ifAbsent: true });
  }

  /** Waits until nothing is on its way any more, whatever becomes of it. */
  async drain(): Promise<void> {
    await this.#packUploads.drain();
    await this.#pageUploads.drain();
  }
}

/** The chunks of the page that a checkpoint stopped in. */
export function partialChunks(checkpoint: Checkpoint, name: string): Page | undefined {
  if (checkpoint.partialPage === "") return undefined;
  return decodePage(Buffer.from(checkpoint.partialPage, "base64"), name);
}
