/** What a volume consists of, chunk by chunk, as the engine cuts it. */
import { hash } from "node:crypto";
import { isZero } from "../../lambdas/repository/chunk.ts";
import type { Extent } from "../../lambdas/repository/planner.ts";
import { blocksOf } from "../volume/blocks.ts";
import { withFile } from "../volume/files.ts";
import { totalLength, type VolumePair, type VolumeVersion } from "../volume/volume-pair.ts";

/** Bytes of a volume by what must be done with them. */
export interface VolumeContent {
  /** In chunks with allocated bytes. */
  readonly allocatedBytes: number;
  /** Of those in chunks that are not zeros. */
  readonly dataBytes: number;
  /** Of those in different chunks: what is compressed and stored. */
  readonly uniqueBytes: number;
  /** Places of different chunks. */
  readonly uniqueChunks: readonly Extent[];
}

/** Reads the whole version once. */
export async function contentOf(version: VolumeVersion, sizeBytes: number, chunkBytes: number): Promise<VolumeContent> {
  const seen = new Set<string>();
  const uniqueChunks: Extent[] = [];
  let allocatedBytes = 0;
  let dataBytes = 0;
  await withFile(version.path, "r", async (file) => {
    for (const { offset, length } of blocksOf(version.extents, sizeBytes, chunkBytes)) {
      const chunk = Buffer.allocUnsafe(length);
      await file.read(chunk, 0, length, offset);
      allocatedBytes += length;
      if (isZero(chunk)) continue;
      dataBytes += length;
      const name = hash("sha256", chunk, "base64");
      if (!seen.has(name)) uniqueChunks.push({ offset, length });
      seen.add(name);
    }
  });
  return { allocatedBytes, dataBytes, uniqueBytes: totalLength(uniqueChunks), uniqueChunks };
}

/** Bytes of the chunks that have changed. */
export function changedBytes({ changed, sizeBytes }: VolumePair, chunkBytes: number): number {
  return totalLength([...blocksOf(changed, sizeBytes, chunkBytes)]);
}

/** At most `count` of the volume's different chunks, evenly spread over it. */
export async function sampleChunks(path: string, content: VolumeContent, count: number): Promise<Buffer[]> {
  const { uniqueChunks } = content;
  const step = Math.max(1, uniqueChunks.length / count);
  const places = Array.from(
    { length: Math.min(count, uniqueChunks.length) },
    (_, at) => uniqueChunks[Math.floor(at * step)]!,
  );
  return readPlaces(path, places);
}

export async function readPlaces(path: string, places: readonly Extent[]): Promise<Buffer[]> {
  return withFile(path, "r", async (file) => {
    const read: Buffer[] = [];
    for (const { offset, length } of places) {
      const bytes = Buffer.allocUnsafe(length);
      await file.read(bytes, 0, length, offset);
      read.push(bytes);
    }
    return read;
  });
}
