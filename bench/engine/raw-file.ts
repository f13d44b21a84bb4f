/** The least that stands for a hypervisor: a raw file to read from, a sparse file to write to. */
import { type FileHandle, open } from "node:fs/promises";

export class RawFile {
  readonly #file: FileHandle;

  constructor(file: FileHandle) {
    this.#file = file;
  }

  static async open(path: string): Promise<RawFile> {
    return new RawFile(await open(path, "r"));
  }

  static async create(path: string, sizeBytes: number): Promise<RawFile> {
    const file = await open(path, "wx+");
    await file.truncate(sizeBytes);
    return new RawFile(file);
  }

  async read(target: Uint8Array, offset: number): Promise<void> {
    for (let done = 0; done < target.length; ) {
      const { bytesRead } = await this.#file.read(target, done, target.length - done, offset + done);
      if (bytesRead === 0) throw new Error(`The file ends before byte ${offset + target.length}.`);
      done += bytesRead;
    }
  }

  async write(data: Uint8Array, offset: number): Promise<void> {
    for (let done = 0; done < data.length; ) {
      done += (await this.#file.write(data, done, data.length - done, offset + done)).bytesWritten;
    }
  }

  async flush(): Promise<void> {
    await this.#file.datasync();
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}
