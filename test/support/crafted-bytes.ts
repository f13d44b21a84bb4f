/** Bytes as damage or malice leaves them: for tests of readers. */
import { hash } from "node:crypto";
import fc from "fast-check";

/** Magic and format, in front of a sealed object's body. */
const headBytes = 10;
const checksumBytes = 32;

/** Lengths, counts and positions that a reader must not believe. */
const u32s = [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff, 1_000_000_000, 65_536, 65_537];
const u64s = [2n ** 32n - 1n, 2n ** 32n, 2n ** 53n - 1n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n];
export const hostileNumbers: readonly Buffer[] = [
  ...u32s.map((value) => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(value);
    return bytes;
  }),
  ...u64s.map((value) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(value);
    return bytes;
  }),
];

/** `bytes` with `part` in the place of as many bytes from `at` on, as far as there are any. */
export function overwritten(bytes: Uint8Array, at: number, part: Uint8Array): Buffer {
  const changed = Buffer.from(bytes);
  changed.set(part.subarray(0, Math.max(0, changed.length - at)), Math.min(at, changed.length));
  return changed;
}

/** Some bytes changed, cut out, put in or repeated, or a hostile number put somewhere. */
export function mutated(original: Uint8Array): fc.Arbitrary<Buffer> {
  const bytes = Buffer.from(original);
  const place = fc.nat(Math.max(bytes.length - 1, 0));
  const flip = fc.tuple(place, fc.integer({ min: 1, max: 255 }));
  const part = fc.oneof(fc.constantFrom(...hostileNumbers), fc.uint8Array({ minLength: 1, maxLength: 9 }));
  return fc.oneof(
    fc.array(flip, { minLength: 1, maxLength: 4 }).map((flips) => {
      const changed = Buffer.from(bytes);
      for (const [at, difference] of flips) if (at < changed.length) changed[at]! ^= difference;
      return changed;
    }),
    fc.tuple(place, part).map(([at, number]) => overwritten(bytes, at, number)),
    place.map((length) => bytes.subarray(0, length)),
    fc.tuple(place, part).map(([at, more]) => Buffer.concat([bytes.subarray(0, at), more, bytes.subarray(at)])),
    fc.tuple(place, place).map(([at, length]) => Buffer.concat([bytes.subarray(0, at + length), bytes.subarray(at)])),
    fc.tuple(place, place).map(([at, length]) => Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + length)])),
  );
}

const hostileTexts = ["0", "1", "2", "4294967296", "9007199254740993", "-1", "0.5", "1e400", '"1"', "null", "[]", "{}"];

/** JSON that is still JSON, but with another number, text, list or nothing in the place of one number. */
export function withOtherNumber(json: Uint8Array): fc.Arbitrary<Buffer> {
  const text = Buffer.from(json).toString("utf8");
  const numbers = [...text.matchAll(/(?<=[[:,])\d+(?=[\],}])/g)];
  return fc.tuple(fc.nat(Math.max(numbers.length - 1, 0)), fc.constantFrom(...hostileTexts)).map(([which, other]) => {
    const number = numbers[which];
    if (!number) return Buffer.from(text);
    return Buffer.from(text.slice(0, number.index) + other + text.slice(number.index + number[0].length));
  });
}

export function bodyOf(object: Uint8Array): Buffer {
  return Buffer.from(object.subarray(headBytes, -checksumBytes));
}

/** A sealed object as `object` is, around another body, with the checksum that belongs to it. */
export function sealedAs(object: Uint8Array, body: Uint8Array): Buffer {
  const sealed = Buffer.concat([object.subarray(0, headBytes), body]);
  return Buffer.concat([sealed, hash("sha256", sealed, "buffer")]);
}
