import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Bitmap } from "./bitmap.ts";

describe("a bitmap", () => {
  it("has one bit for each thing, lowest first", () => {
    const bitmap = Bitmap.of(10, (index) => index % 9 === 0);
    assert.deepEqual([...bitmap.bytes], [0b1, 0b10]);
    assert.deepEqual(bitmap.indexes(), [0, 9]);
  });

  it("tells the positions that are set, across bytes without any", () => {
    for (const length of [0, 1, 7, 8, 9, 63, 64, 65, 1000]) {
      const set = Array.from({ length }, (_, index) => index).filter(
        (index) => index % 23 === 0 || index === length - 1,
      );
      const bitmap = new Bitmap(length);
      for (const index of set) bitmap.set(index);
      assert.deepEqual(bitmap.indexes(), set);
      assert.deepEqual(
        Array.from({ length }, (_, index) => index).filter((index) => bitmap.has(index)),
        set,
      );
    }
  });

  it("takes no notice of what follows its last bit", () => {
    const bitmap = new Bitmap(3, Uint8Array.of(0xff));
    assert.deepEqual(bitmap.indexes(), [0, 1, 2]);
    assert.equal(bitmap.count(), 3);
    assert.equal(bitmap.has(3), false);
    assert.deepEqual(bitmap.without(new Bitmap(1), 20).indexes(), [0, 1, 2]);
  });

  it("without another's bits has those that are left, of any length", () => {
    const all = (length: number) => Bitmap.of(length, () => true);
    assert.deepEqual(
      all(12)
        .without(
          Bitmap.of(10, (index) => index > 3),
          12,
        )
        .indexes(),
      [0, 1, 2, 3, 10, 11],
    );
    assert.deepEqual([...all(16).without(new Bitmap(16), 9).bytes], [0xff, 0b1]);
    assert.equal(all(9).without(new Bitmap(0), 0).count(), 0);
  });
});
