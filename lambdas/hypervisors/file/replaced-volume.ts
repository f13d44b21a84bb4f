/**
 * A volume that gets back the bytes that it had: a file in the directory's own folder takes its place when it is complete, by one rename. What
 * it held keeps a second name until that is final. Each step may run twice; which was the last is told from the names that are there.
 */
import { lstat, rename } from "node:fs/promises";
import { dirname } from "node:path";
import { ChainChanged, VolumeNotFound } from "../../domain/errors.ts";
import type { NewVolume, VolumeWriter } from "../port.ts";
import type { VolumeDirectory } from "./directory.ts";
import { hasCode } from "./file-errors.ts";
import { linkUnlessThere, unlinkIfThere } from "./frozen-copy.ts";
import { makeUnfinished, syncUnfinished, writeUnfinished } from "./restored-volume.ts";

export class ReplacedVolume {
  readonly #directory: VolumeDirectory;
  readonly #volume: NewVolume;
  readonly #own: string;
  readonly #unfinished: string;
  readonly #kept: string;

  /** `replaces` of the volume: its externalId. */
  constructor(directory: VolumeDirectory, volume: NewVolume, replaces: string) {
    this.#directory = directory;
    this.#volume = volume;
    this.#own = directory.volumePath(replaces);
    this.#unfinished = directory.restorePath(volume.restoreId);
    this.#kept = directory.replacedPath(volume.restoreId);
  }

  /** Throws VolumeNotFound. */
  async create(): Promise<void> {
    await this.#directory.prepare();
    if (!(await lstatOrNothing(this.#own))?.isFile())
      throw new VolumeNotFound(`There is no volume ${this.#volume.replaces} in ${this.#directory.path}.`);
    if (!(await this.#isExchanged())) await makeUnfinished(this.#directory, this.#volume);
  }

  openWriter(): Promise<VolumeWriter> {
    return writeUnfinished(this.#directory, this.#volume);
  }

  /** Throws VolumeNotFound, ChainChanged. */
  async publish(): Promise<void> {
    await this.#directory.assertInside(this.#unfinished);
    if (await this.#isExchanged()) return;
    await syncUnfinished(this.#directory, this.#volume.restoreId);
    await linkUnlessThere(this.#own, this.#kept);
    if (!(await this.#isOwnKept())) throw this.#changed();
    await this.#directory.syncFolder(dirname(this.#kept));
    await rename(this.#unfinished, this.#own);
    await this.#directory.syncFolder(this.#directory.path);
  }

  /** Throws ChainChanged. */
  async discard(): Promise<void> {
    await this.#directory.assertInside(this.#unfinished);
    if (await this.#isExchanged()) {
      await rename(this.#kept, this.#own);
      await this.#directory.syncFolder(this.#directory.path);
    }
    if ((await lstatOrNothing(this.#kept)) && !(await this.#isOwnKept())) throw this.#changed();
    await unlinkIfThere(this.#kept);
    await unlinkIfThere(this.#unfinished);
  }

  async forgetReplaced(): Promise<void> {
    await this.#directory.assertInside(this.#kept);
    await unlinkIfThere(this.#kept);
  }

  /** The old file has its second name only, and the unfinished one none any more. */
  async #isExchanged(): Promise<boolean> {
    const isThere = async (path: string) => (await lstatOrNothing(path)) !== undefined;
    return (await isThere(this.#kept)) && !(await isThere(this.#unfinished)) && !(await this.#isOwnKept());
  }

  async #isOwnKept(): Promise<boolean> {
    const [own, kept] = await Promise.all([lstatOrNothing(this.#own), lstatOrNothing(this.#kept)]);
    return own !== undefined && own.ino === kept?.ino && own.dev === kept.dev;
  }

  #changed(): ChainChanged {
    return new ChainChanged(
      `${this.#own} is another file than when its restore began; the one of then is ${this.#kept}.`,
    );
  }
}

async function lstatOrNothing(path: string) {
  try {
    return await lstat(path, { bigint: true });
  } catch (error) {
    if (hasCode(error, "ENOENT")) return undefined;
    throw error;
  }
}
