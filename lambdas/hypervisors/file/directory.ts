/** The one directory that a `file` hypervisor may touch, and the names of what is in it. */
import { constants } from "node:fs";
import { access, type FileHandle, lstat, mkdir, open, readlink, realpath } from "node:fs/promises";
import { isAbsolute, join, relative } from "node:path";
import { HypervisorMisconfigured, PathOutsideDirectory } from "../../domain/errors.ts";
import { fileError, hasCode, onFile } from "./file-errors.ts";

const ownFolder = ".snapferry";
const idPattern = /^[A-Za-z0-9_-]{1,128}$/;
/** What a file system takes as one name. */
const maxNameBytes = 255;

export interface DirectorySettings {
  readonly directory: string;
  /** Directories that may be registered, or lie above those that may. */
  readonly allowedRoots: readonly string[];
}

/** Owner only: these files hold other people's disks. */
const ownFolderMode = 0o700;

export class VolumeDirectory {
  readonly path: string;
  readonly #allowedRoots: readonly string[];

  constructor(settings: DirectorySettings) {
    this.path = settings.directory;
    this.#allowedRoots = settings.allowedRoots;
  }

  /** The path of a volume. Throws PathOutsideDirectory for what is not the name of a plain file. */
  volumePath(name: string): string {
    if (!isVolumeName(name)) {
      throw new PathOutsideDirectory(`${JSON.stringify(name)} is not the name of a file directly in ${this.path}.`);
    }
    return join(this.path, name);
  }

  get snapshotFolder(): string {
    return join(this.path, ownFolder, "snapshots");
  }

  get restoreFolder(): string {
    return join(this.path, ownFolder, "restores");
  }

  snapshotPath(snapshotId: string): string {
    return join(this.snapshotFolder, `${checkId(snapshotId)}.raw`);
  }

  restorePath(restoreId: string): string {
    return join(this.restoreFolder, `${checkId(restoreId)}.raw`);
  }

  replacedPath(restoreId: string): string {
    return join(this.restoreFolder, `${checkId(restoreId)}.replaced`);
  }

  publishedPath(restoreId: string): string {
    return join(this.restoreFolder, `${checkId(restoreId)}.published`);
  }

  /** The snapshot that an install path names. Throws PathOutsideDirectory for any other path. */
  snapshotIdOf(installPath: string): string {
    const name = relative(this.snapshotFolder, installPath);
    const id = name.endsWith(".raw") ? name.slice(0, -".raw".length) : "";
    if (idPattern.test(id) && this.snapshotPath(id) === installPath) return id;
    throw new PathOutsideDirectory(`${JSON.stringify(installPath)} is not a snapshot in ${this.path}.`);
  }

  /** Throws HypervisorMisconfigured with what is wrong with the directory. */
  async check(): Promise<void> {
    const path = this.path;
    if (!isAbsolute(path))
      throw new HypervisorMisconfigured(`The directory ${JSON.stringify(path)} is not an absolute path.`);
    const real = await this.#realPath();
    if (!(await lstat(real)).isDirectory()) throw new HypervisorMisconfigured(`${path} is not a directory.`);
    if (!(await this.#isAllowed(real))) {
      const roots = this.#allowedRoots.join(", ") || "none";
      throw new HypervisorMisconfigured(
        `The directory ${path} lies outside of the directories that are allowed (${roots}).`,
      );
    }
    try {
      await access(real, constants.R_OK | constants.W_OK | constants.X_OK);
    } catch (cause) {
      throw new HypervisorMisconfigured(`The directory ${path} cannot be read and written.`, { cause });
    }
  }

  async #realPath(): Promise<string> {
    try {
      return await realpath(this.path);
    } catch (cause) {
      if (hasCode(cause, "ENOENT", "ENOTDIR"))
        throw new HypervisorMisconfigured(`There is no directory ${this.path}.`, { cause });
      throw fileError(cause, this.path);
    }
  }

  async #isAllowed(real: string): Promise<boolean> {
    for (const root of this.#allowedRoots) {
      const realRoot = await realpath(root).catch(() => undefined);
      if (realRoot !== undefined && isWithin(real, realRoot)) return true;
    }
    return false;
  }

  /** The folders for snapshots and restores, made if need be. */
  async prepare(): Promise<void> {
    await this.assertAllowed();
    for (const folder of [join(this.path, ownFolder), this.snapshotFolder, this.restoreFolder]) {
      await onFile(folder, async () => {
        try {
          await mkdir(folder, { mode: ownFolderMode });
        } catch (error) {
          if (!hasCode(error, "EEXIST")) throw error;
        }
        if (!(await lstat(folder)).isDirectory()) throw new PathOutsideDirectory(`${folder} is not a directory.`);
      });
    }
  }

  /** Throws PathOutsideDirectory when the directory has become a link to elsewhere. */
  async assertAllowed(): Promise<void> {
    const real = await this.#realPath();
    if (!(await this.#isAllowed(real))) {
      throw new PathOutsideDirectory(`${this.path} leads to ${real}, which is not allowed.`);
    }
  }

  /** Throws PathOutsideDirectory when a folder on the way to `path` is a link: what is deleted or linked there is in here. */
  async assertInside(path: string): Promise<void> {
    await this.assertAllowed();
    const folders = relative(this.path, path).split("/").slice(0, -1);
    let folder = this.path;
    for (const name of folders) {
      folder = join(folder, name);
      const stats = await lstat(folder).catch(() => undefined);
      if (stats && !stats.isDirectory()) throw new PathOutsideDirectory(`${folder} is not a directory.`);
    }
  }

  /**
   * Opens a plain file of the directory. Follows no link at its end, and makes sure afterwards that the file which was opened lies
   * where its path says, so that a folder swapped for a link in between is noticed. Errors of the file system pass through.
   */
  async open(path: string, flags: number, mode?: number): Promise<FileHandle> {
    await this.assertInside(path);
    const handle = await open(path, flags | constants.O_NOFOLLOW | constants.O_NONBLOCK, mode);
    try {
      if (!(await handle.stat()).isFile()) throw new PathOutsideDirectory(`${path} is not a plain file.`);
      const opened = await readlink(`/proc/self/fd/${handle.fd}`);
      const expected = join(await realpath(this.path), relative(this.path, path));
      if (opened !== expected) throw new PathOutsideDirectory(`${path} leads to ${opened}.`);
      return handle;
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** Makes names that were added or removed in `folder` durable. */
  async syncFolder(folder: string): Promise<void> {
    const handle = await open(folder, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  }
}

/** Whether a volume may have this name: one plain file name that does not start with a dot. */
export function isVolumeName(name: string): boolean {
  const bytes = Buffer.byteLength(name);
  return bytes >= 1 && bytes <= maxNameBytes && !name.startsWith(".") && !name.includes("/") && !name.includes("\0");
}

function checkId(id: string): string {
  if (idPattern.test(id)) return id;
  throw new PathOutsideDirectory(`${JSON.stringify(id)} is not an id of 1 to 128 [A-Za-z0-9_-].`);
}

function isWithin(path: string, root: string): boolean {
  const way = relative(root, path);
  return way === "" || (way !== ".." && !way.startsWith("../") && !isAbsolute(way));
}
