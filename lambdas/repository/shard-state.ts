/** What a shard's worker leaves behind: checkpoints on the way, one result at the end. Both hold the same things. */
import * as z from "zod";
import { RepositoryDamaged } from "../domain/errors.ts";
import { repositoryFormat } from "./binary.ts";
import { parsePackName, parsePageName } from "./layout.ts";
import { decodeJobRecord, encodeJobRecord, type JobObject } from "./record.ts";

const packName = z.string().refine((text) => parsePackName(text) !== undefined, "a pack has no proper name");
const pageName = z.string().refine((text) => parsePageName(text) !== undefined, "a page has no proper name");
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const bytes = z.int().min(0);

const shardStateSchema = z.object({
  format: z.literal(repositoryFormat),
  planHash: sha256,
  /** `size` is that of the page object, 0 for a page of the base. */
  pages: z.array(
    z.object({
      index: bytes,
      name: pageName,
      chunks: bytes,
      size: bytes,
      /** Positions in `packs` and in `reused` of the packs that its chunks lie in. */
      packs: z.array(bytes),
      reused: z.array(bytes),
    }),
  ),
  /** Indexes of pages in which no chunk is left. */
  zeroPages: z.array(bytes),
  /** Packs that this shard wrote. */
  packs: z.array(z.object({ name: packName, size: bytes, sha256 })),
  /** Packs of the base that the pages refer to. */
  reused: z.array(packName),
  /** Bytes of the volume that are done. */
  bytesDone: bytes,
});

const checkpointSchema = shardStateSchema.extend({
  /** Position in the shard's list of planned pages of the page being worked on. */
  nextPage: bytes,
  /** That page so far (base64 of a page object), up to the chunk `nextChunk`. */
  partialPage: z.string(),
  nextChunk: bytes,
});

export type ShardResult = Omit<z.infer<typeof shardStateSchema>, "format">;
export type Checkpoint = Omit<z.infer<typeof checkpointSchema>, "format">;

export function encodeResult(result: ShardResult, object: JobObject): Buffer {
  return encodeJobRecord({ format: repositoryFormat, ...result }, object);
}

export function decodeResult(bytes: Uint8Array, object: JobObject): ShardResult {
  return consistent(decodeJobRecord(shardStateSchema, bytes, object), object.key);
}

export function encodeCheckpoint(checkpoint: Checkpoint, object: JobObject): Buffer {
  return encodeJobRecord({ format: repositoryFormat, ...checkpoint }, object);
}

export function decodeCheckpoint(bytes: Uint8Array, object: JobObject): Checkpoint {
  return consistent(decodeJobRecord(checkpointSchema, bytes, object), object.key);
}

/** Every position in the state leads to something. */
function consistent<State extends ShardResult>(state: State, key: string): State {
  const { pages, packs, reused } = state;
  const isWhole = pages.every(
    (page) => page.packs.every((at) => at < packs.length) && page.reused.every((at) => at < reused.length),
  );
  if (isWhole) return state;
  throw new RepositoryDamaged(`The object ${key} is damaged: a page in it lies in a pack that it does not list.`);
}
