/**
 * Volumes that are raw files in a directory: what the demo and the tests run against, and what serves any host whose disks are files
 * that nobody writes to during a backup. Its own things lie in `.snapferry` in that directory.
 */
import { constants, type Dirent, type Stats } from "node:fs";
import { type FileHandle, lstat, readdir } from "node:fs/promises";
import { ExportLost, PathOutsideDirectory, QuiesceFailed, VolumeNotFound } from "../../domain/errors.ts";
import type {
  Capabilities,
  DeletedSnapshot,
  ExportDescriptor,
  Extent,
  Hypervisor,
  HypervisorReport,
  NewVolume,
  Quiesce,
  SnapshotRequest,
  TakenSnapshot,
  VolumeDescription,
  VolumeReader,
  VolumeWriter,
} from "../port.ts";
import { type DirectorySettings, isVolumeName, VolumeDirectory } from "./directory.ts";
import { fileError, hasCode, onFile } from "./file-errors.ts";
import { consistencyOf, freeze, unfreeze } from "./frozen-copy.ts";
import { ReplacedVolume } from "./replaced-volume.ts";
import { RestoredVolume } from "./restored-volume.ts";
import { dataExtents } from "./sparse.ts";

/** `stat` counts blocks of 512 bytes, whatever the file system's own are. */
const statBlockBytes = 512;

export class FileHypervisor implements Hypervisor {
  readonly kind = "file";
  readonly capabilities: Capabilities = { quiesce: false, changeTracking: false, snapshotCopies: true };
  readonly #directory: VolumeDirectory;

  constructor(settings: DirectorySettings) {
    this.#directory = new VolumeDirectory(settings);
  }

  async check(): Promise<HypervisorReport> {
    await onFile(this.#directory.path, () => this.#directory.check());
    return { versions: {}, warnings: [] };
  }

  async *listVolumes(): AsyncGenerator<VolumeDescription> {
    const entries = await onFile(this.#directory.path, async () => {
      await this.#directory.assertAllowed();
      return readdir(this.#directory.path, { withFileTypes: true });
    });
    for (const entry of entries.filter(isVolumeEntry).sort((a, b) => (a.name < b.name ? -1 : 1))) {
      const description = await this.#describe(entry.name);
      if (description) yield description;
    }
  }

  async describeVolume(externalId: string): Promise<VolumeDescription> {
    await onFile(this.#directory.path, () => this.#directory.assertAllowed());
    const description = await this.#describe(externalId);
    if (!description) throw new VolumeNotFound(`There is no volume ${externalId} in ${this.#directory.path}.`);
    return description;
  }

  /** Undefined for what is not there or not a volume. */
  async #describe(name: string): Promise<VolumeDescription | undefined> {
    const path = this.#directory.volumePath(name);
    return onFile(path, async () => {
      const stats = await lstat(path).catch(undefinedIfMissing);
      if (stats?.isSymbolicLink()) {
        return {
          externalId: name,
          name,
          sizeBytes: 0,
          inUse: false,
          unsupported: "It is a symbolic link, not a file.",
        };
      }
      if (!stats?.isFile()) return undefined;
      const allocatedBytes = stats.blocks * statBlockBytes;
      return { externalId: name, name, sizeBytes: stats.size, allocatedBytes, inUse: false };
    });
  }

  plannedInstallPath(request: SnapshotRequest): string {
    return this.#directory.snapshotPath(request.snapshotId);
  }

  async takeSnapshots(requests: readonly SnapshotRequest[], options: { quiesce: Quiesce }): Promise<TakenSnapshot[]> {
    if (options.quiesce === true) throw new QuiesceFailed("Writes to plain files cannot be held for a snapshot.");
    await this.#directory.prepare();
    const taken: TakenSnapshot[] = [];
    const created: string[] = [];
    try {
      for (const request of requests) {
        const installPath = this.#directory.snapshotPath(request.snapshotId);
        if (await this.#take(request, installPath)) created.push(installPath);
        taken.push(await this.#taken(request.snapshotId, installPath));
      }
      return taken;
    } catch (error) {
      for (const installPath of created) await unfreeze(this.#directory, installPath);
      throw error;
    }
  }

  /** Whether this call made the snapshot. */
  async #take(request: SnapshotRequest, installPath: string): Promise<boolean> {
    const source = this.#directory.volumePath(request.externalId);
    return onFile(source, async () => {
      if (await lstat(installPath).catch(undefinedIfMissing)) return false;
      if (!(await lstat(source).catch(undefinedIfMissing))) {
        throw new VolumeNotFound(`There is no volume ${request.externalId} in ${this.#directory.path}.`);
      }
      return (await freeze(this.#directory, source, installPath)).created;
    });
  }

  async #taken(snapshotId: string, installPath: string): Promise<TakenSnapshot> {
    return onFile(installPath, async () => {
      const { size, blocks } = await statOf(await this.#directory.open(installPath, constants.O_RDONLY));
      const consistency = await consistencyOf(this.#directory, installPath);
      return { snapshotId, installPath, sizeBytes: size, physicalBytes: blocks * statBlockBytes, consistency };
    });
  }

  async deleteSnapshot(installPath: string): Promise<DeletedSnapshot> {
    this.#directory.snapshotIdOf(installPath);
    await onFile(installPath, () => unfreeze(this.#directory, installPath));
    return { finished: true };
  }

  async openExport(snapshot: { snapshotId: string; installPath: string }): Promise<ExportDescriptor> {
    const { snapshotId, installPath } = snapshot;
    if (this.#directory.snapshotIdOf(installPath) !== snapshotId) {
      throw new PathOutsideDirectory(`${installPath} is not the snapshot ${snapshotId}.`);
    }
    const { size } = await statOf(await this.#openFrozen(installPath));
    return { kind: this.kind, snapshotId, installPath, sizeBytes: size };
  }

  async *extents(descriptor: ExportDescriptor, range: Extent): AsyncGenerator<Extent> {
    const file = await this.#openFrozen(descriptor.installPath);
    try {
      yield* dataExtents(file.fd, range);
    } finally {
      await file.close();
    }
  }

  async openReader(descriptor: ExportDescriptor): Promise<VolumeReader> {
    return new FileVolumeReader(await this.#openFrozen(descriptor.installPath), descriptor.installPath);
  }

  /** Nothing is held open between calls. */
  async closeExport(): Promise<void> {}

  async #openFrozen(installPath: string): Promise<FileHandle> {
    this.#directory.snapshotIdOf(installPath);
    try {
      return await this.#directory.open(installPath, constants.O_RDONLY);
    } catch (cause) {
      if (hasCode(cause, "ENOENT")) throw new ExportLost(`The snapshot ${installPath} is gone.`, { cause });
      throw fileError(cause, installPath);
    }
  }

  async createVolume(volume: NewVolume): Promise<void> {
    const restored = this.#underConstruction(volume);
    await onFile(volume.name, () => restored.create());
  }

  async openWriter(volume: NewVolume): Promise<VolumeWriter> {
    const restored = this.#underConstruction(volume);
    return onFile(volume.name, () => restored.openWriter());
  }

  async publishVolume(volume: NewVolume): Promise<VolumeDescription> {
    const restored = this.#underConstruction(volume);
    await onFile(volume.name, () => restored.publish());
    return this.describeVolume(volume.replaces ?? volume.name);
  }

  async discardVolume(volume: NewVolume): Promise<void> {
    const restored = this.#underConstruction(volume);
    await onFile(volume.name, () => restored.discard());
  }

  async forgetReplaced(volume: NewVolume): Promise<void> {
    const { replaces } = volume;
    if (replaces === undefined) return;
    const replaced = new ReplacedVolume(this.#directory, volume, replaces);
    await onFile(volume.name, () => replaced.forgetReplaced());
  }

  #underConstruction(volume: NewVolume): RestoredVolume | ReplacedVolume {
    const { replaces } = volume;
    return replaces === undefined
      ? new RestoredVolume(this.#directory, volume)
      : new ReplacedVolume(this.#directory, volume, replaces);
  }
}

function isVolumeEntry(entry: Dirent): boolean {
  return isVolumeName(entry.name) && (entry.isFile() || entry.isSymbolicLink());
}

function undefinedIfMissing(error: unknown): undefined {
  if (!hasCode(error, "ENOENT")) throw error;
}

class FileVolumeReader implements VolumeReader {
  readonly #file: FileHandle;
  readonly #path: string;

  constructor(file: FileHandle, path: string) {
    this.#file = file;
    this.#path = path;
  }

  async read(target: Uint8Array, offset: number): Promise<void> {
    for (let done = 0; done < target.length; ) {
      const bytesRead = await this.#readSome(target, done, offset);
      if (bytesRead === 0)
        throw new ExportLost(`The snapshot ${this.#path} ends before byte ${offset + target.length}.`);
      done += bytesRead;
    }
  }

  async #readSome(target: Uint8Array, done: number, offset: number): Promise<number> {
    try {
      return (await this.#file.read(target, done, target.length - done, offset + done)).bytesRead;
    } catch (error) {
      throw fileError(error, this.#path);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }
}

/** Closes the file afterwards. */
async function statOf(file: FileHandle): Promise<Stats> {
  try {
    return await file.stat();
  } finally {
    await file.close();
  }
}
