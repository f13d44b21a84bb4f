/** A large volume with little in it, scattered all over: what costs memory is the number of places, not the bytes. */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { formatSize } from "../size.ts";
import { extentsOf, hashContent, withFile } from "./files.ts";
import { SeededBytes } from "./seeded-bytes.ts";
import type { VolumePair } from "./volume-pair.ts";

const mebibyte = 1024 * 1024;
/** One piece of data in each stretch: with 64 GiB 4,096 pieces in 512 pages of the engine. */
const stretchBytes = 16 * mebibyte;
const pieceBytes = 64 * 1024;

/** The thin volume of that size; makes it when it is not there. Both versions are the same. */
export async function thinVolume(options: { sizeBytes: number; seed: number; directory: string }): Promise<VolumePair> {
  const { sizeBytes, seed } = options;
  const directory = join(options.directory, `thin-${formatSize(sizeBytes)}-${seed}`);
  const description = join(directory, "volume.json");
  if (!existsSync(description)) {
    rmSync(directory, { recursive: true, force: true });
    mkdirSync(directory, { recursive: true });
    const path = join(directory, "thin.raw");
    const random = new SeededBytes(`thin ${seed}`);
    await withFile(path, "w", async (file) => {
      await file.truncate(sizeBytes);
      for (let start = 0; start + stretchBytes <= sizeBytes; start += stretchBytes) {
        const offset = start + random.below(stretchBytes / pieceBytes) * pieceBytes;
        await file.write(random.bytes(pieceBytes), 0, pieceBytes, offset);
      }
    });
    const version = { path, contentHash: await hashContent(path), extents: await extentsOf(path) };
    const pair: VolumePair = { sizeBytes, first: version, second: version, changed: [] };
    writeFileSync(description, JSON.stringify(pair));
  }
  return JSON.parse(readFileSync(description, "utf8")) as VolumePair;
}
