import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtemp, open, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, it, type TestContext } from "node:test";
import { promisify } from "node:util";
import fc from "fast-check";
import { mostQcow2Bytes, Qcow2Image } from "./qcow2-image.ts";

const run = promisify(execFile);
const cluster = 65_536;
const GiB = 2 ** 30;

interface Write {
  readonly offset: number;
  readonly data: Uint8Array;
}

let directory: string;
before(async () => {
  directory = await mkdtemp(path.join(tmpdir(), "snapferry-qcow2-"));
});
after(() => rm(directory, { recursive: true }));

let files = 0;
async function write(sizeBytes: number, writes: readonly Write[]): Promise<string> {
  const name = path.join(directory, `${files++}.qcow2`);
  const file = await open(name, "wx+");
  const image = new Qcow2Image(file, sizeBytes);
  await Promise.all(writes.map(({ data, offset }) => image.write(data, offset)));
  await image.flush();
  await file.close();
  return name;
}

/** What the tables of the file say, by the specification: each cluster of the volume that has a place, and each cluster's references. */
async function readTables(name: string) {
  const bytes = await readFile(name);
  const u64 = (at: number) => Number(bytes.readBigUInt64BE(at) & 0x00ff_ffff_ffff_fe00n);
  assert.equal(bytes.toString("latin1", 0, 4), "QFI\u00fb");
  assert.equal(bytes.readUInt32BE(4), 3);
  assert.equal(bytes.readUInt32BE(20), 16);
  assert.deepEqual([bytes.readBigUInt64BE(8), bytes.readUInt32BE(16), bytes.readUInt32BE(32)], [0n, 0, 0]);
  assert.deepEqual([bytes.readBigUInt64BE(72), bytes.readBigUInt64BE(80), bytes.readBigUInt64BE(88)], [0n, 0n, 0n]);
  assert.deepEqual([bytes.readUInt32BE(60), bytes.readUInt32BE(96), bytes.readUInt32BE(100)], [0, 4, 104]);
  assert.equal(bytes.readBigUInt64BE(104), 0n, "no extensions");
  const size = Number(bytes.readBigUInt64BE(24));
  const [entries, first] = [bytes.readUInt32BE(36), Number(bytes.readBigUInt64BE(40))];
  const [references, referenceClusters] = [Number(bytes.readBigUInt64BE(48)), bytes.readUInt32BE(56)];
  const used = new Map<number, number>();
  const use = (place: number) => {
    assert.equal(place % cluster, 0);
    assert.ok(place + cluster <= bytes.length, "inside of the file");
    used.set(place / cluster, (used.get(place / cluster) ?? 0) + 1);
  };
  use(0);
  for (let at = 0; at < entries * 8; at += cluster) use(first + at);
  const places = new Map<number, number>();
  for (let index = 0; index < entries; index++) {
    const table = u64(first + index * 8);
    if (table === 0) continue;
    assert.equal(bytes.readUInt8(first + index * 8), 0x80, "the table is the image's own");
    use(table);
    for (let entry = 0; entry < cluster / 8; entry++) {
      const place = u64(table + entry * 8);
      if (place === 0) continue;
      assert.equal(bytes.readUInt8(table + entry * 8), 0x80, "the cluster is the image's own");
      use(place);
      places.set(index * (cluster / 8) + entry, place);
    }
  }
  for (let at = 0; at < referenceClusters; at++) use(references + at * cluster);
  const blocks = Array.from({ length: (referenceClusters * cluster) / 8 }, (_, at) => u64(references + at * 8));
  for (const block of blocks) if (block !== 0) use(block);
  for (let at = 0; at < bytes.length / cluster; at++) {
    const block = blocks[Math.floor(at / (cluster / 2))] ?? 0;
    const count = block === 0 ? 0 : bytes.readUInt16BE(block + (at % (cluster / 2)) * 2);
    assert.equal(count, used.get(at) ?? 0, `references of cluster ${at}`);
    assert.equal(count, 1, `cluster ${at} is used once`);
  }
  return { bytes, size, places };
}

async function contentOf(name: string): Promise<Buffer> {
  const { bytes, size, places } = await readTables(name);
  const content = Buffer.alloc(Math.ceil(size / cluster) * cluster);
  for (const [at, place] of places) bytes.copy(content, at * cluster, place, place + cluster);
  return content.subarray(0, size);
}

function expected(sizeBytes: number, writes: readonly Write[]): Buffer {
  const content = Buffer.alloc(Math.ceil(sizeBytes / 512) * 512);
  for (const { data, offset } of writes) content.set(data, offset);
  return content;
}

describe("a qcow2 file", () => {
  for (const [what, size, writes] of [
    ["of an empty volume", 0, []],
    ["of one byte", 1, [{ offset: 0, data: Buffer.from("x") }]],
    ["of zeros", 10 * cluster + 17, []],
    ["of whole clusters", 3 * cluster, [{ offset: 0, data: randomBytes(3 * cluster) }]],
    ["whose last sector is not whole", 2 * cluster + 700, [{ offset: cluster + 5, data: randomBytes(cluster + 695) }]],
  ] as [string, number, Write[]][])
    it(`${what} holds what was written, by its own tables`, async () => {
      const name = await write(size, writes);
      assert.ok((await contentOf(name)).equals(expected(size, writes)));
    });

  it("holds any pieces that do not overlap, in any order and all at once", async () => {
    const piece = fc.tuple(fc.integer({ min: 1, max: 200_000 }), fc.boolean());
    await fc.assert(
      fc.asyncProperty(fc.array(piece, { maxLength: 8 }), fc.integer(), async (pieces, seed) => {
        const writes: Write[] = [];
        let offset = 0;
        for (const [length, isWritten] of pieces) {
          if (isWritten) writes.push({ offset, data: randomBytes(length) });
          offset += length;
        }
        const shuffled = writes.toSorted((a, b) => ((a.offset ^ seed) >>> 0) - ((b.offset ^ seed) >>> 0));
        const name = await write(offset, shuffled);
        assert.ok((await contentOf(name)).equals(expected(offset, writes)));
        await rm(name);
      }),
      { numRuns: 25 },
    );
  });

  it("takes room only for what was written, of volumes with more tables than are kept in memory", async () => {
    const size = 100 * GiB + 512;
    const offsets = Array.from({ length: 201 }, (_, at) => at * (GiB / 2));
    const again = [3, 70, 200].map((at) => at * (GiB / 2) + cluster);
    const writes = [...offsets, ...again].map((offset) => ({ offset, data: randomBytes(512) }));
    const name = await write(size, writes);
    const { bytes, places, size: rounded } = await readTables(name);
    assert.equal(rounded, size);
    assert.equal(places.size, writes.length);
    for (const { offset, data } of writes) {
      const place = places.get(offset / cluster) ?? 0;
      assert.ok(bytes.subarray(place, place + 512).equals(data), `at ${offset}`);
    }
    const { size: fileSize } = await stat(name);
    assert.ok(fileSize < 30 * 2 ** 20, `${fileSize} bytes`);
  });

  it("is not made of what no qcow2 file holds", async () => {
    const file = await open(path.join(directory, "large"), "wx+");
    assert.throws(() => new Qcow2Image(file, mostQcow2Bytes + 1), RangeError);
    await file.close();
  });

  it("is one to qemu-img, with the same content", async (context: TestContext) => {
    if (!(await run("qemu-img", ["--version"]).catch(() => undefined)))
      return context.skip("qemu-img is not installed; the tables are checked above");
    const size = 3 * GiB + 1536;
    const writes = [0, 100 * 2 ** 20 + 3, GiB - 7, 2.5 * GiB, size - 900].map((offset) => ({
      offset,
      data: randomBytes(Math.min(300_000, size - offset)),
    }));
    const name = await write(size, writes);
    const raw = path.join(directory, "raw");
    await writeFile(raw, "");
    const file = await open(raw, "r+");
    await file.truncate(size);
    for (const { data, offset } of writes) await file.write(data, 0, data.length, offset);
    await file.close();
    assert.match((await run("qemu-img", ["check", "-f", "qcow2", name])).stdout, /No errors were found/);
    await run("qemu-img", ["compare", "-f", "qcow2", "-F", "raw", name, raw]);
  });
});
