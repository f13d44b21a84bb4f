/** Writes a raw image: the volume's bytes as they are. What is never written is a hole. */
import type { FileHandle } from "node:fs/promises";
import { writeFully } from "./file-bytes.ts";

export class RawImage {
  readonly #file: FileHandle;
  readonly #sizeBytes: number;

  constructor(file: FileHandle, sizeBytes: number) {
    this.#file = file;
    this.#sizeBytes = sizeBytes;
  }

  write(data: Uint8Array, offset: number): Promise<void> {
    return writeFully(this.#file, data, offset);
  }

  /** The file gets the volume's size. */
  flush(): Promise<void> {
    return this.#file.truncate(this.#sizeBytes);
  }
}
