import type { FileHandle } from "node:fs/promises";

/** Writes all of `bytes` at `position`: one call of the system may take only a part of them. */
export async function writeFully(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let written = 0; written < bytes.length; )
    written += (await file.write(bytes, written, bytes.length - written, position + written)).bytesWritten;
}
