/** SHA-256 of a volume file. Holes are hashed without being read. */
import { createHash } from "node:crypto";
import { open } from "node:fs/promises";
import { dataExtents } from "../../lambdas/hypervisors/file/sparse.ts";

const block = 4 * 2 ** 20;
const zeros = Buffer.alloc(block);

/** Hex digest of all the bytes; `onProgress` is told how many are done. */
export async function digestOf(file: string, onProgress: (bytesDone: number) => void = () => {}): Promise<string> {
  const handle = await open(file);
  try {
    const { size } = await handle.stat();
    const hash = createHash("sha256");
    const buffer = Buffer.allocUnsafe(block);
    let position = 0;
    const hashZerosUntil = async (end: number) => {
      while (position < end) {
        const length = Math.min(block, end - position);
        hash.update(zeros.subarray(0, length));
        await advance(length);
      }
    };
    const advance = async (length: number) => {
      position += length;
      onProgress(position);
      await new Promise((resolve) => setImmediate(resolve));
    };
    for await (const { offset, length } of dataExtents(handle.fd, { offset: 0, length: size })) {
      await hashZerosUntil(offset);
      while (position < offset + length) {
        const { bytesRead } = await handle.read(buffer, 0, Math.min(block, offset + length - position), position);
        if (bytesRead === 0) throw new Error(`${file} became shorter while it was read`);
        hash.update(buffer.subarray(0, bytesRead));
        await advance(bytesRead);
      }
    }
    await hashZerosUntil(size);
    return hash.digest("hex");
  } finally {
    await handle.close();
  }
}
