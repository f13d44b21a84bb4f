/** Makes the frozen file of a snapshot: a clone where the file system shares blocks, else a copy that keeps holes. */
import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { copyFile, type FileHandle, link, readdir, unlink } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { VolumeChangedDuringCopy } from "../../domain/errors.ts";
import type { Consistency } from "../../domain/snapshot.ts";
import type { VolumeDirectory } from "./directory.ts";
import { hasCode } from "./file-errors.ts";
import { dataExtents } from "./sparse.ts";

/** Owner only. */
const frozenMode = 0o600;
const readBytes = 1024 * 1024;
/** Blocks of zeros are not written: as large as the largest usual block of a file system, so that holes are kept. */
const zeroBlock = Buffer.alloc(64 * 1024);
/** File times are as fine as the kernel's tick (4 to 10 ms): a change within the same tick would not show. */
const timeStepMs = 20;

/**
 * Freezes the file `source` as `target`, unless that exists. Nothing is left of a copy that fails. Throws VolumeChangedDuringCopy
 * when the source was written to meanwhile; errors of the file system pass through.
 */
export async function freeze(
  directory: VolumeDirectory,
  source: string,
  target: string,
): Promise<{ created: boolean }> {
  const partial = `${target.slice(0, -".raw".length)}.${randomBytes(8).toString("hex")}.partial`;
  try {
    const consistency = await cloneOrCopy(directory, source, partial);
    if (consistency === "crash") await noteClone(directory, target);
    return { created: await linkUnlessThere(partial, target) };
  } finally {
    await unlinkIfThere(partial);
    await directory.syncFolder(dirname(target));
  }
}

/** What the bytes of the frozen file are worth: a clone is of one moment, a copy is not. */
export async function consistencyOf(directory: VolumeDirectory, target: string): Promise<Consistency> {
  try {
    await (await directory.open(cloneNote(target), constants.O_RDONLY)).close();
    return "crash";
  } catch (error) {
    if (hasCode(error, "ENOENT")) return "none";
    throw error;
  }
}

/** Deletes the frozen file and whatever interrupted copies left of it. */
export async function unfreeze(directory: VolumeDirectory, target: string): Promise<void> {
  await directory.assertInside(target);
  const folder = dirname(target);
  const stem = `${basename(target, ".raw")}.`;
  const names = await readdir(folder).catch(emptyIfMissing);
  const own = names.filter((name) => name.startsWith(stem));
  for (const name of own) await unlinkIfThere(join(folder, name));
  if (own.length > 0) await directory.syncFolder(folder);
}

function emptyIfMissing(error: unknown): string[] {
  if (hasCode(error, "ENOENT")) return [];
  throw error;
}

function cloneNote(target: string): string {
  return `${target.slice(0, -".raw".length)}.clone`;
}

/** Written before the frozen file gets its name, so that a replay says the same of it. */
async function noteClone(directory: VolumeDirectory, target: string): Promise<void> {
  const note = await directory.open(cloneNote(target), constants.O_WRONLY | constants.O_CREAT, frozenMode);
  await note.close();
}

async function cloneOrCopy(directory: VolumeDirectory, source: string, partial: string): Promise<Consistency> {
  const from = await directory.open(source, constants.O_RDONLY);
  try {
    if (await clone(from, partial)) {
      await syncFile(directory, partial);
      return "crash";
    }
    await copyUnchanged(directory, from, { source, partial });
    return "none";
  } finally {
    await from.close();
  }
}

/** The source is named by its open handle, so that it is the file that was checked. */
async function clone(from: FileHandle, partial: string): Promise<boolean> {
  try {
    const flags = constants.COPYFILE_FICLONE_FORCE | constants.COPYFILE_EXCL;
    await copyFile(`/proc/self/fd/${from.fd}`, partial, flags);
    return true;
  } catch (error) {
    if (!hasCode(error, "ENOTSUP", "EOPNOTSUPP", "ENOTTY", "EXDEV", "EINVAL", "ENOSYS")) throw error;
    await unlinkIfThere(partial);
    return false;
  }
}

async function syncFile(directory: VolumeDirectory, path: string): Promise<void> {
  const handle = await directory.open(path, constants.O_RDWR);
  try {
    await handle.chmod(frozenMode);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function copyUnchanged(
  directory: VolumeDirectory,
  from: FileHandle,
  paths: { readonly source: string; readonly partial: string },
): Promise<void> {
  const before = await settledStamp(from);
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL;
  const to = await directory.open(paths.partial, flags, frozenMode);
  try {
    await to.truncate(before.size);
    await copyData(from, to, before.size);
    await to.sync();
  } finally {
    await to.close();
  }
  const after = await stampOf(from);
  if (after.size !== before.size || after.modified !== before.modified) {
    throw new VolumeChangedDuringCopy(`The volume ${basename(paths.source)} was written to while it was being copied.`);
  }
}

interface FileStamp {
  readonly size: number;
  /** Nanoseconds. */
  readonly modified: bigint;
}

async function stampOf(file: FileHandle): Promise<FileStamp> {
  const { size, mtimeNs } = await file.stat({ bigint: true });
  return { size: Number(size), modified: mtimeNs };
}

/** The stamp of now, at a time when any later change will show in it. */
async function settledStamp(file: FileHandle): Promise<FileStamp> {
  const { mtimeMs } = await file.stat();
  const age = Date.now() - mtimeMs;
  if (age >= 0 && age < timeStepMs) await pause(timeStepMs);
  return stampOf(file);
}

async function copyData(from: FileHandle, to: FileHandle, size: number): Promise<void> {
  const buffer = Buffer.allocUnsafeSlow(readBytes);
  for await (const extent of dataExtents(from.fd, { offset: 0, length: size })) {
    const end = extent.offset + extent.length;
    for (let at = extent.offset; at < end; ) {
      const { bytesRead } = await from.read(buffer, 0, Math.min(readBytes, end - at), at);
      if (bytesRead === 0) return;
      await writeData(to, buffer.subarray(0, bytesRead), at);
      at += bytesRead;
    }
  }
}

/** Writes the runs of blocks that are not all zeros. */
async function writeData(to: FileHandle, bytes: Buffer, offset: number): Promise<void> {
  let start = 0;
  for (let at = 0; at < bytes.length; at += zeroBlock.length) {
    const end = Math.min(at + zeroBlock.length, bytes.length);
    if (zeroBlock.compare(bytes, at, end, 0, end - at) !== 0) continue;
    await writeAll(to, bytes.subarray(start, at), offset + start);
    start = end;
  }
  await writeAll(to, bytes.subarray(start), offset + start);
}

export async function writeAll(to: FileHandle, bytes: Uint8Array, offset: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await to.write(bytes, done, bytes.length - done, offset + done);
    done += bytesWritten;
  }
}

/** Gives the file a second name; false when the name is taken. */
export async function linkUnlessThere(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (error) {
    if (hasCode(error, "EEXIST")) return false;
    throw error;
  }
}

export async function unlinkIfThere(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (!hasCode(error, "ENOENT")) throw error;
  }
}
