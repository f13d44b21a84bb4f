/**
 * A volume with the kinds of content that real ones have, the same for the same seed and size: half of it allocated, of that a
 * tar archive of this project's dependencies, random bytes (already compressed data), zeros that were written, and holes between.
 */
import { createCipheriv, createHash } from "node:crypto";
import { type FileHandle, glob, open, readFile, rename } from "node:fs/promises";
import path from "node:path";

const MiB = 2 ** 20;

export interface SampleOptions {
  readonly file: string;
  /** Bytes; any number. */
  readonly size: number;
  readonly seed: string;
  /** Folder whose files fill the tar archive. */
  readonly source: string;
  readonly onProgress?: (bytesWritten: number, bytesToWrite: number) => void;
}

/** Shares of the volume's size. What is left, between and after them, are holes. */
const shares = { archive: 0.38, random: 0.08, zeros: 0.04 };

/** Writes the volume; the file appears under its name when it is complete. */
export async function writeSampleVolume(options: SampleOptions): Promise<void> {
  const partial = `${options.file}.partial`;
  const file = await open(partial, "w");
  try {
    await file.truncate(options.size);
    await fill(file, options);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(partial, options.file);
}

async function fill(file: FileHandle, { size, seed, source, onProgress }: SampleOptions): Promise<void> {
  const archiveBytes = Math.floor(size * shares.archive);
  const randomBytes = Math.floor(size * shares.random);
  const zeroBytes = Math.floor(size * shares.zeros);
  const total = archiveBytes + randomBytes + zeroBytes;
  let written = 0;
  const write = async (data: Uint8Array, offset: number) => {
    await file.write(data, 0, data.length, offset);
    written += data.length;
    onProgress?.(written, total);
  };
  const random = randomStream(seed);

  let position = 0;
  for await (const block of archive(source, archiveBytes)) {
    await write(block, position);
    position += block.length;
  }
  // Runs of 1 to 8 MiB, each followed by a hole of about the same size.
  position = Math.ceil(size * 0.5);
  let randomLeft = randomBytes;
  let zeroLeft = zeroBytes;
  for (let run = 0; randomLeft + zeroLeft > 0; run++) {
    const zeros = run % 3 === 2 && zeroLeft > 0;
    const left = zeros || randomLeft === 0 ? zeroLeft : randomLeft;
    const length = Math.min(left, ((run % 8) + 1) * MiB, size - position);
    if (length <= 0) break;
    const isZeros = zeros || randomLeft === 0;
    await write(isZeros ? Buffer.alloc(length) : random(length), position);
    if (isZeros) zeroLeft -= length;
    else randomLeft -= length;
    position += Math.floor(length * 2.1);
  }
  if (size > 0) await write(random(Math.min(size, 4096)), Math.max(0, size - 4096));
}

/** Reproducible bytes that do not compress: AES in counter mode over zeros, keyed by the seed. */
function randomStream(seed: string): (length: number) => Buffer {
  const key = createHash("sha256").update(seed).digest();
  const cipher = createCipheriv("aes-256-ctr", key, Buffer.alloc(16));
  return (length) => cipher.update(Buffer.alloc(length));
}

/**
 * `bytes` of a tar archive of the files below `source`, in order of their names, with fixed times, in blocks of 4 MiB; from
 * the start again, under other names, when the files do not suffice.
 */
async function* archive(source: string, bytes: number): AsyncGenerator<Buffer> {
  const names = (await Array.fromAsync(glob("**/*.{js,ts,json,md,map}", { cwd: source }))).sort();
  const block = Buffer.alloc(4 * MiB);
  let filled = 0;
  let left = bytes;
  for await (const part of tarOf(source, names)) {
    for (let taken = 0; taken < part.length && left > 0; ) {
      const length = Math.min(part.length - taken, block.length - filled, left);
      part.copy(block, filled, taken, taken + length);
      taken += length;
      filled += length;
      left -= length;
      if (filled === block.length || left === 0) {
        yield block.subarray(0, filled);
        filled = 0;
      }
    }
    if (left === 0) return;
  }
}

/** Headers and padded bodies without end. */
async function* tarOf(source: string, names: readonly string[]): AsyncGenerator<Buffer> {
  for (let round = 0; names.length > 0; round++) {
    for (const name of names) {
      const body = await readFile(path.join(source, name));
      yield tarHeader(`${round}/${name}`, body.length);
      yield body;
      yield Buffer.alloc((512 - (body.length % 512)) % 512);
    }
  }
}

/** A ustar header: name, mode, owner, size and time in octal, and the checksum over all of it. */
function tarHeader(name: string, size: number): Buffer {
  const header = Buffer.alloc(512);
  header.write(name.slice(-100), 0, "utf8");
  header.write("0000644\0" + "0000000\0" + "0000000\0", 100);
  header.write(`${size.toString(8).padStart(11, "0")}\0${"0".repeat(11)}\0        0`, 124);
  header.write("ustar\x0000", 257);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return header;
}
