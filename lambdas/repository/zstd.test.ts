import assert from "node:assert/strict";
import { createHook } from "node:async_hooks";
import { randomBytes } from "node:crypto";
import { describe, test } from "node:test";
import { zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { compress, decompress, decompressInto, mostFrameBytes } from "./zstd.ts";

const text = (bytes: number) => Buffer.alloc(bytes, "Text that repeats itself. ");

function unpacked(frame: Uint8Array, bytes: number): Buffer | undefined {
  const target = Buffer.alloc(bytes);
  return decompressInto(target, frame) ? target : undefined;
}

describe("frames of zstd", () => {
  const contents = [1, 2, 63, 64, 4096, 131_071, 131_072, 131_073, 1_000_000].flatMap((size) => [
    text(size),
    randomBytes(size),
    Buffer.alloc(size),
  ]);

  test("are the ones that Node's documented calls make, and are unpacked to the same bytes by both", () => {
    for (const bytes of contents) {
      const frame = compress(bytes);
      assert.deepEqual(zstdDecompressSync(frame), bytes);
      const room = new Uint8Array(mostFrameBytes(bytes.length));
      assert.deepEqual(Buffer.from(compress(bytes, room)), Buffer.from(frame));
      assert.deepEqual(unpacked(frame, bytes.length), bytes);
      assert.deepEqual(decompress(frame, bytes.length), bytes);
      assert.deepEqual(unpacked(zstdCompressSync(bytes), bytes.length), bytes);
    }
  });

  test("go through contexts that are kept", () => {
    let made = 0;
    const count = (_: number, type: string) => {
      if (type === "ZLIB") made += 1;
    };
    const hook = createHook({ init: count }).enable();
    try {
      for (const bytes of [...contents, ...contents]) assert.deepEqual(unpacked(compress(bytes), bytes.length), bytes);
    } finally {
      hook.disable();
    }
    assert.ok(made <= 8, `${made} contexts for ${contents.length * 2} frames`);
  });

  test("that are none, cut off, followed by something, too long, too short or of a wide window harm none after them", () => {
    const bytes = text(50_000);
    const frame = compress(bytes);
    const whole = () => assert.deepEqual(unpacked(frame, bytes.length), bytes);
    // Magic number, no length, a window of 128 MiB, one last block of 4 bytes as they are.
    const wide = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3, (4 << 3) | 1, 0, 0, 1, 2, 3, 4]);
    assert.deepEqual(unpacked(Buffer.from(wide).fill(13 << 3, 5, 6), 4), Buffer.from([1, 2, 3, 4]));
    for (const [other, length] of [
      [randomBytes(100), 50_000],
      [Buffer.alloc(0), 50_000],
      [frame.subarray(0, 20), 50_000],
      [frame.subarray(0, frame.length - 1), 50_000],
      [frame, 49_999],
      [frame, 1],
      [frame, 0],
      [frame, 50_001],
      [compress(text(5_000_000)), 50_000],
      [wide, 4],
    ] as const) {
      assert.equal(unpacked(other, length), undefined, `${other.length} bytes for ${length}`);
      whole();
      whole();
    }
  });

  test("are written into shared memory", () => {
    const target = new Uint8Array(new SharedArrayBuffer(5000)).subarray(500, 4500);
    assert.equal(decompressInto(target, compress(text(4000))), true);
    assert.deepEqual(Buffer.from(target), text(4000));
  });
});
