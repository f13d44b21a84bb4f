/**
 * The binary shape that roots, branches, pages, pins and plans share: magic, format, body, SHA-256 of all before it. Integers are
 * unsigned and little-endian. Readers take bytes from outside: every length is checked before anything is allocated.
 */
import { createHmac, hash } from "node:crypto";
import { RepositoryDamaged, UnsupportedFormat } from "../domain/errors.ts";

/** The format that this code writes, and the only one it reads. Format 0 was for development and is read by nobody. */
export const repositoryFormat = 1;

const magics = {
  root: "SNFRROOT",
  branch: "SNFRBRCH",
  page: "SNFRPAGE",
  pin: "SNFR-PIN",
  plan: "SNFRPLAN",
  pack: "SNFRPACK",
  compactedPack: "SNFRCMPT",
} as const;
export type ObjectKind = keyof typeof magics;

export const magicBytes = 8;
export const hashBytes = 32;
const headBytes = magicBytes + 2;

export function sha256(bytes: Uint8Array): string {
  return hash("sha256", bytes, "hex");
}

export function hmacHex(key: Uint8Array, bytes: Uint8Array): string {
  return createHmac("sha256", key).update(bytes).digest("hex");
}

/** Collects an object's bytes. */
export class ByteWriter {
  #buffer = Buffer.allocUnsafe(4096);
  #length = 0;

  #room(bytes: number): number {
    const start = this.#length;
    this.#length += bytes;
    if (this.#length > this.#buffer.length) {
      const larger = Buffer.allocUnsafe(Math.max(this.#length, this.#buffer.length * 2));
      this.#buffer.copy(larger, 0, 0, start);
      this.#buffer = larger;
    }
    return start;
  }

  u8(value: number): this {
    const at = this.#room(1);
    this.#buffer.writeUInt8(value, at);
    return this;
  }

  u16(value: number): this {
    const at = this.#room(2);
    this.#buffer.writeUInt16LE(value, at);
    return this;
  }

  u32(value: number): this {
    const at = this.#room(4);
    this.#buffer.writeUInt32LE(value, at);
    return this;
  }

  u64(value: number): this {
    const at = this.#room(8);
    this.#buffer.writeBigUInt64LE(BigInt(value), at);
    return this;
  }

  bytes(value: Uint8Array): this {
    const at = this.#room(value.length);
    this.#buffer.set(value, at);
    return this;
  }

  hex(value: string): this {
    const at = this.#room(value.length / 2);
    this.#buffer.write(value, at, "hex");
    return this;
  }

  text(value: string): this {
    const encoded = Buffer.from(value, "utf8");
    return this.u16(encoded.length).bytes(encoded);
  }

  finish(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }
}

/** Reads an object's bytes in order. Whatever does not fit is RepositoryDamaged, naming the object. */
export class ByteReader {
  readonly #bytes: Buffer;
  readonly #name: string;
  #at = 0;

  constructor(bytes: Uint8Array, name: string) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#name = name;
  }

  #take(length: number): number {
    const start = this.#at;
    if (length > this.#bytes.length - start) throw this.damaged("it ends too early");
    this.#at += length;
    return start;
  }

  u8(): number {
    return this.#bytes.readUInt8(this.#take(1));
  }

  u16(): number {
    return this.#bytes.readUInt16LE(this.#take(2));
  }

  u32(): number {
    return this.#bytes.readUInt32LE(this.#take(4));
  }

  u64(): number {
    const value = this.#bytes.readBigUInt64LE(this.#take(8));
    if (value > Number.MAX_SAFE_INTEGER) throw this.damaged("a number in it is too large");
    return Number(value);
  }

  /** A u32 count of things that take at least `bytesEach`: more than can follow is damage, found before room is made for them. */
  count(bytesEach: number, limit = 0xffff_ffff): number {
    const count = this.u32();
    if (count > limit || count > this.room(bytesEach)) throw this.damaged("a count in it is too large");
    return count;
  }

  /** How many things of at least `bytesEach` can still follow. */
  room(bytesEach: number): number {
    return Math.floor((this.#bytes.length - this.#at) / bytesEach);
  }

  bytes(length: number): Buffer {
    const start = this.#take(length);
    return this.#bytes.subarray(start, start + length);
  }

  hex(length: number): string {
    return this.bytes(length).toString("hex");
  }

  text(): string {
    return this.bytes(this.u16()).toString("utf8");
  }

  /** What was read so far. */
  past(): Buffer {
    return this.#bytes.subarray(0, this.#at);
  }

  end(): void {
    if (this.#at !== this.#bytes.length) throw this.damaged("bytes follow its end");
  }

  damaged(why: string): RepositoryDamaged {
    return new RepositoryDamaged(`The object ${this.#name} is damaged: ${why}.`);
  }
}

/** The whole object around `body`. */
export function seal(kind: ObjectKind, body: Uint8Array): Buffer {
  const sealed = new ByteWriter().bytes(Buffer.from(magics[kind], "latin1")).u16(repositoryFormat).bytes(body);
  return sealed.hex(sha256(sealed.finish())).finish();
}

/** The body of a sealed object. Throws RepositoryDamaged, or UnsupportedFormat for an intact object of another format. */
export function unseal(kind: ObjectKind, object: Uint8Array, name: string): ByteReader {
  const bytes = Buffer.from(object.buffer, object.byteOffset, object.byteLength);
  const fail = (why: string) => new RepositoryDamaged(`The object ${name} is damaged: ${why}.`);
  if (bytes.length < headBytes + hashBytes) throw fail("it ends too early");
  if (bytes.toString("latin1", 0, magicBytes) !== magics[kind]) throw fail(`it is not a ${kind}`);
  const end = bytes.length - hashBytes;
  if (sha256(bytes.subarray(0, end)) !== bytes.toString("hex", end)) throw fail("its checksum does not match");
  const format = bytes.readUInt16LE(magicBytes);
  if (format !== repositoryFormat) {
    throw new UnsupportedFormat(
      `The object ${name} has format ${format}; this version reads format ${repositoryFormat}.`,
    );
  }
  return new ByteReader(bytes.subarray(headBytes, end), name);
}

/** The magic that starts an object of this kind, or ends a pack. */
export function magicOf(kind: ObjectKind): Buffer {
  return Buffer.from(magics[kind], "latin1");
}
