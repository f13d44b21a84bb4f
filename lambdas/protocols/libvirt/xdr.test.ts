import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { LibvirtArgumentInvalid, LibvirtProtocolError } from "./errors.ts";
import { blockJobEvent, errorMessage, procedures } from "./procedures.ts";
import { decode, encode, int, list, nothing, optional, struct, text, uhyper, uint, uuid, type XdrType } from "./xdr.ts";

const sample = struct({
  name: text(100),
  id: int,
  flags: uint,
  uuid,
  size: uhyper,
  parent: optional(text(100)),
  disks: list(struct({ path: text(100) }), 5),
});

const words = fc
  .string({ unit: "grapheme", maxLength: 20 })
  .filter((value) => !value.includes("\0") && value.isWellFormed());
const samples = fc.record(
  {
    name: words,
    id: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
    flags: fc.nat(2 ** 32 - 1),
    uuid: fc.uuid(),
    size: fc.maxSafeNat(),
    parent: fc.option(words, { nil: undefined }),
    disks: fc.array(fc.record({ path: words }, { noNullPrototype: true }), { maxLength: 5 }),
  },
  { noNullPrototype: true },
);

describe("XDR", () => {
  test("is as RFC 4506 has it", () => {
    const bytes = encode(
      struct({ a: int, b: uhyper, c: text(10), d: optional(int), e: optional(int), f: list(uint, 3) }),
      {
        a: -2,
        b: 5_000_000_000,
        c: "héllo",
        d: undefined,
        e: 7,
        f: [1, 2],
      },
    );
    const expected = [
      ...["fffffffe", "000000012a05f200", "00000006", "68c3a96c6c6f0000"],
      ...["00000000", "0000000100000007", "00000002", "00000001", "00000002"],
    ];
    assert.equal(bytes.toString("hex"), expected.join(""));
  });

  test("brings every value back", () => {
    fc.assert(fc.property(samples, (value) => assert.deepEqual(decode(sample, encode(sample, value)), value)));
  });

  test("refuses values that do not fit", () => {
    const refused: [XdrType<never>, unknown][] = [
      [int, 2 ** 31],
      [int, 1.5],
      [int, Number.NaN],
      [uint, -1],
      [uint, 2 ** 32],
      [uhyper, -1],
      [uhyper, 2 ** 60],
      [text(3), "four"],
      [text(3), "éé"],
      [text(9), "a\0b"],
      [uuid, "not a uuid"],
      [uuid, "00000000-0000-0000-0000-00000000000g"],
      [list(int, 2), [1, 2, 3]],
    ] as never;
    for (const [type, value] of refused)
      assert.throws(() => encode(type, value as never), LibvirtArgumentInvalid, String(value));
  });

  test("refuses bytes that are cut off, too many, or announce too much", () => {
    fc.assert(
      fc.property(samples, fc.nat(), (value, at) => {
        const bytes = encode(sample, value);
        assert.throws(() => decode(sample, bytes.subarray(0, at % bytes.length)), LibvirtProtocolError);
        assert.throws(() => decode(sample, Buffer.concat([bytes, Buffer.alloc(4)])), LibvirtProtocolError);
      }),
    );
    for (const [type, hex] of [
      [text(100), "7fffffff"],
      [text(2 ** 32), "ffffffff00"],
      [list(int, 16_384), "0000400000000000"],
      [list(int, 3), `00000004${"00000000".repeat(4)}`],
      [optional(int), "0000000200000000"],
      [uhyper, "ffffffffffffffff"],
      [uuid, "0000"],
      [nothing, "00"],
    ] as const) {
      assert.throws(() => decode(type as XdrType<unknown>, Buffer.from(hex, "hex")), LibvirtProtocolError, hex);
    }
  });

  test("of every procedure takes whatever bytes come as a value or a named error", () => {
    const results = [...Object.values(procedures).map(({ result }) => result), errorMessage, blockJobEvent.message];
    const word = fc.oneof(fc.constantFrom(0, 1, 2, 4, 16), fc.nat(2 ** 32 - 1));
    const wordBytes = fc.array(word, { maxLength: 30 }).map((values) => {
      const bytes = Buffer.alloc(4 * values.length);
      for (const [index, value] of values.entries()) bytes.writeUInt32BE(value, 4 * index);
      return bytes;
    });
    const noise = fc.uint8Array({ maxLength: 100 }).map((bytes) => Buffer.from(bytes));
    fc.assert(
      fc.property(fc.constantFrom(...(results as XdrType<unknown>[])), fc.oneof(wordBytes, noise), (type, bytes) => {
        try {
          const value = decode(type, bytes);
          assert.deepEqual(decode(type, encode(type, value)), value);
        } catch (error) {
          // A text may hold what cannot be sent back: a NUL character.
          assert.ok(error instanceof LibvirtProtocolError || error instanceof LibvirtArgumentInvalid, String(error));
        }
      }),
      { numRuns: 5_000 },
    );
  });
});

describe("procedures", () => {
  test("have a number each", () => {
    const numbers = Object.values(procedures).map(({ program, number }) => `${program}/${number}`);
    assert.equal(new Set(numbers).size, numbers.length);
  });
});
