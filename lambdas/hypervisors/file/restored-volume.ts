/** A volume under construction: a file in the directory's own folder that gets its name when it is complete. */
import { constants } from "node:fs";
import { type FileHandle, lstat, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import * as z from "zod";
import { VolumeNameTaken, VolumeNotFound } from "../../domain/errors.ts";
import type { NewVolume, VolumeWriter } from "../port.ts";
import type { VolumeDirectory } from "./directory.ts";
import { fileError, hasCode } from "./file-errors.ts";
import { linkUnlessThere, unlinkIfThere, writeAll } from "./frozen-copy.ts";

const volumeMode = 0o660;
const markerMode = 0o600;

/** Which file a restore gave its name to. The time of birth tells it from a later file that got the same inode number. */
const markerSchema = z.object({ name: z.string(), inode: z.string(), bornNs: z.string() });
type Marker = z.infer<typeof markerSchema>;

async function markerOf(path: string, name: string): Promise<Marker | undefined> {
  try {
    const stats = await lstat(path, { bigint: true });
    return { name, inode: stats.ino.toString(), bornNs: stats.birthtimeNs.toString() };
  } catch (error) {
    if (hasCode(error, "ENOENT")) return undefined;
    throw error;
  }
}

function isSameFile(a: Marker | undefined, b: Marker | undefined): boolean {
  return a !== undefined && b !== undefined && a.name === b.name && a.inode === b.inode && a.bornNs === b.bornNs;
}

export class RestoredVolume {
  readonly #directory: VolumeDirectory;
  readonly #volume: NewVolume;
  readonly #temporary: string;
  readonly #final: string;
  readonly #marker: string;

  constructor(directory: VolumeDirectory, volume: NewVolume) {
    this.#directory = directory;
    this.#volume = volume;
    this.#temporary = directory.restorePath(volume.restoreId);
    this.#final = directory.volumePath(volume.name);
    this.#marker = directory.publishedPath(volume.restoreId);
  }

  async create(): Promise<void> {
    await this.#directory.prepare();
    if (await this.#isPublished()) return;
    if (await markerOf(this.#final, this.#volume.name)) throw this.#nameTaken();
    await makeUnfinished(this.#directory, this.#volume);
  }

  openWriter(): Promise<VolumeWriter> {
    return writeUnfinished(this.#directory, this.#volume);
  }

  /** Notes which file it is, gives it its name, and only then takes the temporary name away: each step may be repeated. */
  async publish(): Promise<void> {
    await this.#directory.assertInside(this.#temporary);
    if (await this.#isPublished()) return this.#dropTemporary();
    await syncUnfinished(this.#directory, this.#volume.restoreId);
    await this.#writeMarker();
    if (!(await linkUnlessThere(this.#temporary, this.#final)) && !(await this.#isPublished())) {
      await unlinkIfThere(this.#marker);
      throw this.#nameTaken();
    }
    await this.#directory.syncFolder(this.#directory.path);
    await this.#dropTemporary();
  }

  async discard(): Promise<void> {
    await this.#directory.assertInside(this.#temporary);
    await unlinkIfThere(this.#temporary);
    await unlinkIfThere(this.#marker);
  }

  async #isPublished(): Promise<boolean> {
    return isSameFile(await this.#readMarker(), await markerOf(this.#final, this.#volume.name));
  }

  async #readMarker(): Promise<Marker | undefined> {
    try {
      const parsed = markerSchema.safeParse(JSON.parse(await readFile(this.#marker, "utf8")));
      return parsed.success ? parsed.data : undefined;
    } catch (error) {
      if (hasCode(error, "ENOENT") || error instanceof SyntaxError) return undefined;
      throw error;
    }
  }

  async #writeMarker(): Promise<void> {
    const marker = await markerOf(this.#temporary, this.#volume.name);
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC;
    const file = await this.#directory.open(this.#marker, flags, markerMode);
    try {
      await file.writeFile(JSON.stringify(marker));
      await file.sync();
    } finally {
      await file.close();
    }
    await this.#directory.syncFolder(dirname(this.#marker));
  }

  async #dropTemporary(): Promise<void> {
    await unlinkIfThere(this.#temporary);
    await this.#directory.syncFolder(dirname(this.#temporary));
  }

  #nameTaken(): VolumeNameTaken {
    return new VolumeNameTaken(`There is a volume ${this.#volume.name} already in ${this.#directory.path}.`);
  }
}

/** Makes the file that a restore writes, or finds it. */
export async function makeUnfinished(directory: VolumeDirectory, { restoreId, sizeBytes }: NewVolume): Promise<void> {
  const path = directory.restorePath(restoreId);
  const file = await directory.open(path, constants.O_RDWR | constants.O_CREAT, volumeMode);
  try {
    const { size } = await file.stat();
    if (size !== sizeBytes) await file.truncate(sizeBytes);
    await file.sync();
  } finally {
    await file.close();
  }
  await directory.syncFolder(dirname(path));
}

/** Throws VolumeNotFound. */
export async function writeUnfinished(
  directory: VolumeDirectory,
  { restoreId, sizeBytes }: NewVolume,
): Promise<VolumeWriter> {
  return new FileVolumeWriter(await openUnfinished(directory, restoreId), directory.restorePath(restoreId), sizeBytes);
}

/** Throws VolumeNotFound. */
export async function syncUnfinished(directory: VolumeDirectory, restoreId: string): Promise<void> {
  const file = await openUnfinished(directory, restoreId);
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

async function openUnfinished(directory: VolumeDirectory, restoreId: string): Promise<FileHandle> {
  try {
    return await directory.open(directory.restorePath(restoreId), constants.O_RDWR);
  } catch (cause) {
    if (!hasCode(cause, "ENOENT")) throw cause;
    throw new VolumeNotFound(`There is no unfinished volume of the restore ${restoreId}.`, { cause });
  }
}

class FileVolumeWriter implements VolumeWriter {
  readonly #file: FileHandle;
  readonly #path: string;
  readonly #sizeBytes: number;

  constructor(file: FileHandle, path: string, sizeBytes: number) {
    this.#file = file;
    this.#path = path;
    this.#sizeBytes = sizeBytes;
  }

  async write(data: Uint8Array, offset: number): Promise<void> {
    if (offset < 0 || offset + data.length > this.#sizeBytes) {
      throw new RangeError(
        `Bytes ${offset}-${offset + data.length - 1} lie outside of a volume of ${this.#sizeBytes} bytes.`,
      );
    }
    await this.#attempt(() => writeAll(this.#file, data, offset));
  }

  async flush(): Promise<void> {
    await this.#attempt(() => this.#file.datasync());
  }

  async #attempt(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      throw fileError(error, this.#path);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }
}
