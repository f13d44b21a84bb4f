/**
 * XDR (RFC 4506), as far as libvirt uses it: big-endian, everything a multiple of four bytes. A type is a value that can write and read;
 * what is read is bounded by the type and by the bytes that are there, so no length on the wire decides what is allocated.
 */
import { LibvirtArgumentInvalid, LibvirtProtocolError } from "./errors.ts";

export interface XdrType<T> {
  write(writer: XdrWriter, value: T): void;
  /** Throws LibvirtProtocolError for bytes that are no such value. */
  read(reader: XdrReader): T;
}

/** What values of a type are in TypeScript. */
export type Value<X> = X extends XdrType<infer T> ? T : never;

export class XdrWriter {
  readonly #parts: Buffer[] = [];

  push(bytes: Buffer): void {
    this.#parts.push(bytes);
  }

  pushUint(value: number): void {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(value);
    this.#parts.push(bytes);
  }

  /** Adds bytes and what is missing to a multiple of four. */
  pushPadded(bytes: Buffer): void {
    this.#parts.push(bytes, Buffer.alloc(padding(bytes.length)));
  }

  get bytes(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

export class XdrReader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get remaining(): number {
    return this.#bytes.length - this.#at;
  }

  /** The next bytes, which are not copied. */
  take(length: number): Buffer {
    if (length > this.remaining)
      throw new LibvirtProtocolError(`A message of libvirt ends ${length - this.remaining} bytes early.`);
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }

  takeUint(): number {
    return this.take(4).readUInt32BE();
  }

  takePadded(length: number): Buffer {
    const bytes = this.take(length);
    this.take(padding(length));
    return bytes;
  }
}

function padding(length: number): number {
  return (4 - (length % 4)) % 4;
}

/** Throws LibvirtArgumentInvalid for a value that the type does not hold. */
export function encode<T>(type: XdrType<T>, value: T): Buffer {
  const writer = new XdrWriter();
  type.write(writer, value);
  return writer.bytes;
}

/** Throws LibvirtProtocolError unless the bytes are exactly one value. */
export function decode<T>(type: XdrType<T>, bytes: Buffer): T {
  const reader = new XdrReader(bytes);
  const value = type.read(reader);
  if (reader.remaining > 0)
    throw new LibvirtProtocolError(`A message of libvirt is ${reader.remaining} bytes too long.`);
  return value;
}

function assertInteger(value: number, least: number, most: number): void {
  if (Number.isInteger(value) && value >= least && value <= most) return;
  throw new LibvirtArgumentInvalid(`${value} is no integer between ${least} and ${most}.`);
}

export const nothing: XdrType<void> = { write: () => {}, read: () => {} };

export const int: XdrType<number> = {
  write: (writer, value) => {
    assertInteger(value, -(2 ** 31), 2 ** 31 - 1);
    writer.pushUint(value >>> 0);
  },
  read: (reader) => reader.takeUint() | 0,
};

export const uint: XdrType<number> = {
  write: (writer, value) => {
    assertInteger(value, 0, 2 ** 32 - 1);
    writer.pushUint(value);
  },
  read: (reader) => reader.takeUint(),
};

/** An unsigned integer of 64 bits that is within what a number holds exactly. */
export const uhyper: XdrType<number> = {
  write: (writer, value) => {
    assertInteger(value, 0, Number.MAX_SAFE_INTEGER);
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64BE(BigInt(value));
    writer.push(bytes);
  },
  read: (reader) => {
    const value = reader.take(8).readBigUInt64BE();
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new LibvirtProtocolError(`libvirt tells the number ${value}.`);
    return Number(value);
  },
};

/** Text of at most `maxBytes` bytes. */
export function text(maxBytes: number): XdrType<string> {
  return {
    write: (writer, value) => {
      const bytes = Buffer.from(value);
      if (bytes.length > maxBytes)
        throw new LibvirtArgumentInvalid(`A text of ${bytes.length} bytes is longer than ${maxBytes}.`);
      if (value.includes("\0")) throw new LibvirtArgumentInvalid("A text has a NUL character.");
      writer.pushUint(bytes.length);
      writer.pushPadded(bytes);
    },
    read: (reader) => {
      const length = reader.takeUint();
      if (length > maxBytes) throw new LibvirtProtocolError(`libvirt sent a text of ${length} bytes.`);
      return reader.takePadded(length).toString();
    },
  };
}

/** As a text of 36 characters. */
export const uuid: XdrType<string> = {
  write: (writer, value) => {
    if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(value)) {
      throw new LibvirtArgumentInvalid(`${JSON.stringify(value)} is no UUID.`);
    }
    writer.push(Buffer.from(value.replaceAll("-", ""), "hex"));
  },
  read: (reader) =>
    reader
      .take(16)
      .toString("hex")
      .replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, "$1-$2-$3-$4-$5"),
};

/** A value that may be missing. */
export function optional<T>(type: XdrType<T>): XdrType<T | undefined> {
  return {
    write: (writer, value) => {
      writer.pushUint(value === undefined ? 0 : 1);
      if (value !== undefined) type.write(writer, value);
    },
    read: (reader) => {
      const flag = reader.takeUint();
      if (flag > 1) throw new LibvirtProtocolError("A message of libvirt is malformed: neither value nor none.");
      return flag === 0 ? undefined : type.read(reader);
    },
  };
}

/** At most `maxCount` values. */
export function list<T>(type: XdrType<T>, maxCount: number): XdrType<readonly T[]> {
  return {
    write: (writer, values) => {
      if (values.length > maxCount)
        throw new LibvirtArgumentInvalid(`A list of ${values.length} is longer than ${maxCount}.`);
      writer.pushUint(values.length);
      for (const value of values) type.write(writer, value);
    },
    read: (reader) => {
      const count = reader.takeUint();
      if (count > maxCount) throw new LibvirtProtocolError(`libvirt sent a list of ${count}.`);
      return Array.from({ length: count }, () => type.read(reader));
    },
  };
}

/** Fields in the order in which they are written here. */
export function struct<F extends Record<string, XdrType<unknown>>>(
  fields: F,
): XdrType<{ readonly [K in keyof F]: Value<F[K]> }> {
  type Struct = { readonly [K in keyof F]: Value<F[K]> };
  const entries = Object.entries(fields) as unknown as [keyof F, XdrType<Struct[keyof F]>][];
  return {
    write: (writer, value) => {
      for (const [name, type] of entries) type.write(writer, value[name]);
    },
    read: (reader) => Object.fromEntries(entries.map(([name, type]) => [name, type.read(reader)])) as Struct,
  };
}
