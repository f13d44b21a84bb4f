/** Whole files: their data ranges, their hash, their place in the page cache. */
import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { dataExtents, type Extent } from "../../lambdas/hypervisors/file/sparse.ts";
import { blocksOf } from "./blocks.ts";

const pieceBytes = 4 * 1024 * 1024;

export async function extentsOf(path: string): Promise<Extent[]> {
  return withFile(path, "r", async (file) => {
    const { size } = await file.stat();
    return Array.fromAsync(dataExtents(file.fd, { offset: 0, length: size }));
  });
}

const blockBytes = 64 * 1024;
const zeros = Buffer.alloc(blockBytes);

/**
 * SHA-256, hex, of the size and of each block that is not zeros with its place. The same for the same content, however sparse the file
 * is, and quick for one that is mostly holes.
 */
export async function hashContent(path: string): Promise<string> {
  const hash = createHash("sha256");
  await withFile(path, "r", async (file) => {
    const { size } = await file.stat();
    hash.update(`${size}`);
    const extents = await Array.fromAsync(dataExtents(file.fd, { offset: 0, length: size }));
    for await (const { bytes, offset } of piecesOf(file, blocksOf(extents, size, blockBytes))) {
      if (zeros.compare(bytes, 0, bytes.length, 0, bytes.length) !== 0) hash.update(`@${offset}`).update(bytes);
    }
  });
  return hash.digest("hex");
}
/** Reads all data once, so that every contender finds it in the page cache. */
export async function warmFile(path: string, extents: readonly Extent[]): Promise<void> {
  await withFile(path, "r", async (file) => {
    for await (const _ of piecesOf(file, extents));
  });
}

/** Copies data ranges only; written zeros stay written zeros, which `cp` makes holes of. */
export async function copySparse(from: string, to: string, extents: readonly Extent[]): Promise<void> {
  await withFile(from, "r", async (source) => {
    const { size } = await source.stat();
    await withFile(to, "w", async (target) => {
      await target.truncate(size);
      for await (const { bytes, offset } of piecesOf(source, extents))
        await target.write(bytes, 0, bytes.length, offset);
    });
  });
}

export async function withFile<T>(path: string, flags: string, work: (file: FileHandle) => Promise<T>): Promise<T> {
  const file = await open(path, flags);
  try {
    return await work(file);
  } finally {
    await file.close();
  }
}

/** The bytes of `extents`; a piece is good until the next one is asked for. */
async function* piecesOf(
  file: FileHandle,
  extents: Iterable<Extent>,
): AsyncGenerator<{ bytes: Uint8Array; offset: number }> {
  const buffer = Buffer.allocUnsafe(pieceBytes);
  for (const { offset, length } of extents) {
    for (let at = 0; at < length; ) {
      const { bytesRead } = await file.read(buffer, 0, Math.min(pieceBytes, length - at), offset + at);
      if (bytesRead === 0) return;
      yield { bytes: buffer.subarray(0, bytesRead), offset: offset + at };
      at += bytesRead;
    }
  }
}
