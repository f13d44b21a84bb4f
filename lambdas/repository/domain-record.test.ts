import assert from "node:assert/strict";
import { test } from "node:test";
import { areSizesOfDomain, geometryFor } from "./domain-record.ts";

const [KiB, MiB, TiB] = [2 ** 10, 2 ** 20, 2 ** 40];

test("the size of a volume decides on the sizes of its domain, as the format says", () => {
  const expected: [volumeBytes: number, chunkBytes: number, pageChunks: number][] = [
    [0, 64 * KiB, 4096],
    [1 * TiB, 64 * KiB, 4096],
    [1 * TiB + 1, 128 * KiB, 2048],
    [4 * TiB, 128 * KiB, 2048],
    [4 * TiB + 1, 256 * KiB, 1024],
    [16 * TiB, 256 * KiB, 1024],
    [16 * TiB + 1, 512 * KiB, 1024],
    [64 * TiB, 512 * KiB, 1024],
  ];
  for (const [volumeBytes, chunkBytes, pageChunks] of expected) {
    const geometry = geometryFor(volumeBytes);
    assert.deepEqual(geometry, { chunkBytes, pageChunks, packBytes: 16 * MiB });
    assert.ok(areSizesOfDomain(geometry));
  }
});
