/**
 * Makes the volume that is backed up, and its next version. Half of it is allocated: an ext4 file system of real files, random bytes
 * that do not compress, zeros that were written. The rest are holes.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { type FileHandle, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Extent } from "../../lambdas/hypervisors/file/sparse.ts";
import { BenchmarkError } from "../errors.ts";
import { formatSize } from "../size.ts";
import { copyFolders, type FileSelection, type Folder, selectFolders } from "./file-tree.ts";
import { copySparse, extentsOf, hashContent, withFile } from "./files.ts";
import { SeededBytes } from "./seeded-bytes.ts";
import type { VolumePair } from "./volume-pair.ts";

const mebibyte = 1024 * 1024;
/** Raised when the same size and seed give other bytes than before. */
const layout = 2;
/** Of the volume's size. */
const share = { fileSystem: 0.8, allocated: 0.5, changed: 0.01 };
/** Of what is allocated. The rest are files. */
const shareOfAllocated = { random: 0.1, zeros: 0.08 };
/** What ext4 takes for itself of the room that the files are given. */
const fileSystemOverhead = 0.02;
/** Where the file system starts, as a first partition does. */
const fileSystemOffset = mebibyte;
/** Below, a file system of four fifths of it would not hold much. */
const smallestVolume = 64 * mebibyte;
const slotBytes = 256 * 1024;
/** Random bytes and zeros lie in stretches of so many slots. */
const stretches = [1, 2, 4, 8, 16, 32];
/** What a changed place is rewritten with: a typical cluster of a qcow2 file, and less than the engine's chunk. */
export const changedBlockBytes = 64 * 1024;
const uuid = "11111111-2222-3333-4444-555555555555";
/** Seconds of the epoch; all times that mke2fs writes itself. */
const fixedTime = "1600000000";

export interface VolumeOptions {
  readonly sizeBytes: number;
  readonly seed: number;
  /** Directory of the files. */
  readonly source: string;
  /** Where volumes are kept. */
  readonly directory: string;
}

/** The volume of that size and seed; makes it when it is not there. Takes about a minute at 4 GiB. Throws BenchmarkError. */
export async function volumePair(options: VolumeOptions, note: (text: string) => void): Promise<VolumePair> {
  if (options.sizeBytes < smallestVolume || options.sizeBytes % mebibyte !== 0)
    throw new BenchmarkError(`A volume has whole MiB and at least ${formatSize(smallestVolume)}.`);
  const directory = join(options.directory, `volume-${formatSize(options.sizeBytes)}-${options.seed}-${layout}`);
  const description = join(directory, "volume.json");
  if (!existsSync(description)) {
    note(`making a volume of ${formatSize(options.sizeBytes)} in ${directory}`);
    rmSync(directory, { recursive: true, force: true });
    mkdirSync(directory, { recursive: true });
    const pair = await make(options, directory);
    writeFileSync(`${description}.tmp`, JSON.stringify(pair));
    renameSync(`${description}.tmp`, description);
  }
  return JSON.parse(readFileSync(description, "utf8")) as VolumePair;
}

async function make(options: VolumeOptions, directory: string): Promise<VolumePair> {
  const { sizeBytes } = options;
  const random = new SeededBytes(`volume ${options.seed}`);
  const allocatedBytes = sizeBytes * share.allocated;
  const fileShare = 1 - shareOfAllocated.random - shareOfAllocated.zeros;
  const budget = allocatedBytes * fileShare * (1 - fileSystemOverhead);
  const selection = selectFolders(options.source, budget, random);
  if (selection.chosen.length === 0) throw new BenchmarkError(`There are no files to use in ${options.source}.`);
  const first = join(directory, "first.raw");
  await withFile(first, "w", (file) => file.truncate(sizeBytes));
  makeFileSystem(first, selection, { ...options, directory });
  await withFile(first, "r+", (file) => fillTail(file, sizeBytes, random));
  const second = join(directory, "second.raw");
  const extents = await extentsOf(first);
  await copySparse(first, second, extents);
  const changed = await withFile(second, "r+", (file) => change(file, { sizeBytes, extents, selection, random }));
  return {
    sizeBytes,
    first: { path: first, contentHash: await hashContent(first), extents },
    second: { path: second, contentHash: await hashContent(second), extents: await extentsOf(second) },
    changed,
  };
}

function makeFileSystem(image: string, selection: FileSelection, options: VolumeOptions): void {
  const stage = join(options.directory, "files");
  copyFolders(selection.chosen, options.source, stage);
  const files = selection.chosen.reduce((sum, folder) => sum + folder.files.length + 1, 0);
  const result = spawnSync(
    "mke2fs",
    [
      ...["-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^has_journal", "-U", uuid],
      ...["-E", `offset=${fileSystemOffset},hash_seed=${uuid},nodiscard,root_owner=0:0`],
      ...["-N", String(files * 2 + 1000), "-d", stage],
      image,
      `${Math.floor((options.sizeBytes * share.fileSystem) / 1024)}k`,
    ],
    {
      encoding: "utf8",
      env: {
        ...process.env,
        PATH: `${process.env.PATH}:/usr/sbin:/sbin`,
        E2FSPROGS_FAKE_TIME: fixedTime,
        SOURCE_DATE_EPOCH: fixedTime,
      },
    },
  );
  rmSync(stage, { recursive: true, force: true });
  if (result.error) throw new BenchmarkError("mke2fs is missing; install it: apt-get install e2fsprogs");
  if (result.status !== 0) throw new BenchmarkError(`mke2fs failed: ${result.stderr.trim()}`);
}

/** Random bytes and written zeros, in stretches, behind the file system. */
async function fillTail(file: FileHandle, sizeBytes: number, random: SeededBytes): Promise<void> {
  const start = Math.ceil((fileSystemOffset + sizeBytes * share.fileSystem) / mebibyte) * mebibyte;
  const slots = Math.floor((sizeBytes - start) / slotBytes);
  const places: { first: number; count: number }[] = [];
  for (let slot = 0; slot < slots; ) {
    const count = Math.min(stretches[random.below(stretches.length)]!, slots - slot);
    places.push({ first: slot, count });
    slot += count;
  }
  const allocated = sizeBytes * share.allocated;
  const left = {
    random: Math.floor((allocated * shareOfAllocated.random) / slotBytes),
    zeros: Math.floor((allocated * shareOfAllocated.zeros) / slotBytes),
  };
  for (const place of random.shuffle(places)) {
    const kind = left.random > 0 ? "random" : "zeros";
    const count = Math.min(place.count, left[kind]);
    left[kind] -= count;
    const bytes = kind === "random" ? random.bytes(count * slotBytes) : Buffer.alloc(count * slotBytes);
    await file.write(bytes, 0, bytes.length, start + place.first * slotBytes);
  }
}

interface Change {
  readonly sizeBytes: number;
  readonly extents: readonly Extent[];
  readonly selection: FileSelection;
  readonly random: SeededBytes;
}

/** Rewrites scattered blocks of what is allocated: half with data of files, half with random bytes. */
async function change(file: FileHandle, { sizeBytes, extents, selection, random }: Change): Promise<Extent[]> {
  const count = Math.floor((sizeBytes * share.changed) / changedBlockBytes);
  const blocks = random
    .shuffle([...wholeBlocks(extents)])
    .slice(0, count)
    .sort((a, b) => a - b);
  const pool = await contentOf(selection.spare, count * changedBlockBytes);
  const changed: { offset: number; length: number }[] = [];
  for (const [at, block] of blocks.entries()) {
    const offset = block * changedBlockBytes;
    const fresh = pool.subarray((at * changedBlockBytes) % pool.length).subarray(0, changedBlockBytes);
    const isFileData = at % 2 === 0 && fresh.length === changedBlockBytes;
    await file.write(isFileData ? fresh : random.bytes(changedBlockBytes), 0, changedBlockBytes, offset);
    const last = changed.at(-1);
    if (last && last.offset + last.length === offset) last.length += changedBlockBytes;
    else changed.push({ offset, length: changedBlockBytes });
  }
  return changed;
}

function* wholeBlocks(extents: readonly Extent[]): Generator<number> {
  for (const { offset, length } of extents) {
    const end = Math.floor((offset + length) / changedBlockBytes);
    for (let block = Math.ceil(offset / changedBlockBytes); block < end; block++) yield block;
  }
}

/** The first `length` bytes of these folders' files, or as many as they have. */
async function contentOf(folders: readonly Folder[], length: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  let gathered = 0;
  for (const file of folders.flatMap((folder) => folder.files)) {
    if (gathered >= length) break;
    const content = await readFile(file).catch(() => Buffer.alloc(0));
    parts.push(content);
    gathered += content.length;
  }
  return Buffer.concat(parts).subarray(0, length);
}
