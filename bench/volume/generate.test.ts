import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { BenchmarkError } from "../errors.ts";
import { hashContent } from "./files.ts";
import { volumePair } from "./generate.ts";
import { totalLength, type VolumePair } from "./volume-pair.ts";

const mebibyte = 1024 * 1024;
const sizeBytes = 64 * mebibyte;

describe("a volume and its next version", () => {
  let directory: string;
  let pair: VolumePair;
  const make = () => volumePair({ sizeBytes, seed: 1, source: join(directory, "source"), directory }, () => {});

  before(async () => {
    directory = mkdtempSync(join(tmpdir(), "bench-volume-"));
    for (let folder = 0; folder < 40; folder++) {
      const path = join(directory, "source", String(folder));
      mkdirSync(path, { recursive: true });
      writeFileSync(join(path, "file"), Buffer.alloc(mebibyte, `file ${folder} `));
    }
    pair = await make();
  });
  after(() => rmSync(directory, { recursive: true, force: true }));

  it("are half allocated", () => {
    const share = totalLength(pair.first.extents) / sizeBytes;
    assert.ok(share > 0.4 && share < 0.6, `${share}`);
  });

  it("differ in the changed ranges and nowhere else", () => {
    const [first, second] = [readFileSync(pair.first.path), readFileSync(pair.second.path)];
    let position = 0;
    for (const { offset, length } of pair.changed) {
      assert.equal(Buffer.compare(first.subarray(position, offset), second.subarray(position, offset)), 0);
      assert.notEqual(
        Buffer.compare(first.subarray(offset, offset + length), second.subarray(offset, offset + length)),
        0,
      );
      position = offset + length;
    }
    assert.equal(Buffer.compare(first.subarray(position), second.subarray(position)), 0);
    assert.equal(totalLength(pair.changed), Math.floor((sizeBytes * 0.01) / 65_536) * 65_536);
  });

  it("are made once", async () => {
    assert.deepEqual(await make(), pair);
  });

  it("are recognised by their content, however sparse the file is", async () => {
    const dense = join(directory, "dense.raw");
    writeFileSync(dense, readFileSync(pair.second.path));
    assert.equal(await hashContent(dense), pair.second.contentHash);
    assert.notEqual(pair.first.contentHash, pair.second.contentHash);
  });

  it("are refused in a size that leaves no room for a file system", async () => {
    const tiny = volumePair({ sizeBytes: mebibyte, seed: 1, source: directory, directory }, () => {});
    await assert.rejects(tiny, BenchmarkError);
  });
});
