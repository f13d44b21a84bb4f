/** A reader written from `docs/repository-format.md` alone: if it fails, the document no longer tells the format. */
import assert from "node:assert/strict";
import { hash, randomBytes } from "node:crypto";
import { test } from "node:test";
import { zstdDecompressSync } from "node:zlib";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { backup, SparseVolume, smallGeometry, useGeometry } from "../../test/support/repository.ts";

/** Reads the fields of the document's tables one after the other. */
class Fields {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  take(length: number): Buffer {
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }

  u16 = () => this.take(2).readUInt16LE();
  u32 = () => this.take(4).readUInt32LE();
  u64 = () => Number(this.take(8).readBigUInt64LE());
  text = () => this.take(this.u16()).toString("utf8");
  hex = (length: number) => this.take(length).toString("hex");
  many = <T>(read: () => T): T[] => Array.from({ length: this.u32() }, read);
  isAtEnd = () => this.#at === this.#bytes.length;
}

const sha256 = (bytes: Uint8Array) => hash("sha256", bytes, "hex");

function unseal(object: Buffer, magic: string): Fields {
  assert.equal(sha256(object.subarray(0, -32)), object.subarray(-32).toString("hex"));
  const fields = new Fields(object.subarray(0, -32));
  assert.equal(fields.take(8).toString("ascii"), magic);
  assert.equal(fields.u16(), 1);
  return fields;
}

async function readSnapshot(store: MemoryObjectStore, domain: string, snapshotId: string): Promise<Buffer> {
  const get = async (key: string) => Buffer.from((await store.get(`domains/${domain}/${key}`))!);
  const root = unseal(await get(`roots/${snapshotId}`), "SNFRROOT");
  assert.equal(root.text(), snapshotId);
  root.text();
  const volume = Buffer.alloc(root.u64());
  const [chunkBytes, pageChunks] = [root.u32(), root.u32()];
  assert.equal(root.u32(), 1024);
  JSON.parse(root.text());
  const jobs = root.many(root.text);
  const branches = root.many(() => ({ index: root.u32(), ...readName(root, jobs), chunks: root.u32() }));
  assert.equal(root.u32(), 0);
  assert.ok(root.isAtEnd());

  for (const reference of branches) {
    const object = await get(`pages/${reference.name}`);
    assert.equal(sha256(object), reference.digest);
    const branch = unseal(object, "SNFRBRCH");
    assert.equal(branch.u32(), reference.index);
    const jobsOfBranch = branch.many(branch.text);
    const packs = readPackNames(branch, jobsOfBranch);
    const pages = branch.many(() => {
      const page = { index: branch.u32(), ...readName(branch, jobsOfBranch), chunks: branch.u32() };
      return { ...page, packs: branch.many(branch.u32).map((number) => packs[number]!) };
    });
    assert.ok(branch.isAtEnd());
    assert.equal(
      pages.reduce((sum, { chunks }) => sum + chunks, 0),
      reference.chunks,
    );
    for (const page of pages) await readPage(page);
  }
  return volume;

  async function readPage(reference: { index: number; digest: string; name: string; packs: string[] }): Promise<void> {
    const object = await get(`pages/${reference.name}`);
    assert.equal(sha256(object), reference.digest);
    const page = unseal(object, "SNFRPAGE");
    assert.equal(page.u32(), reference.index);
    const chunks = page.u32();
    const packs = readPackNames(page, page.many(page.text));
    assert.deepEqual(packs, reference.packs);
    const stored = page.take(Math.ceil(chunks / 8));
    for (let n = 0; n < chunks; n++) {
      if ((stored[n >> 3]! & (1 << (n & 7))) === 0) continue;
      const [chunkHash, pack] = [page.hex(32), packs[page.u32()]!];
      const [offset, length, encoding] = [page.u32(), page.u32(), page.take(1)[0]];
      const body = (await get(`packs/${pack}`)).subarray(offset, offset + length);
      const chunk = encoding === 1 ? zstdDecompressSync(body) : body;
      assert.equal(sha256(chunk), chunkHash);
      chunk.copy(volume, (reference.index * pageChunks + n) * chunkBytes);
    }
    assert.ok(page.isAtEnd());
    for (const pack of packs) readPack(await get(`packs/${pack}`));
  }
}

function readName(fields: Fields, jobs: string[]): { digest: string; name: string } {
  const [job, attempt, digest] = [fields.u32(), fields.u32(), fields.hex(32)];
  return { digest, name: `${jobs[job]}/${attempt}-${digest}` };
}

function readPackNames(fields: Fields, jobs: string[]): string[] {
  return fields
    .many(() => {
      const writer = `${jobs[fields.u32()]}/${fields.u32()}-${fields.u32()}-${fields.hex(8)}`;
      return fields
        .many(() => ({ first: fields.u32(), count: fields.u32() }))
        .flatMap(({ first, count }) => Array.from({ length: count }, (_, n) => `${writer}-${first + n}`));
    })
    .flat();
}

function readPack(object: Buffer): void {
  const footer = new Fields(object.subarray(-46));
  const [format, chunks, indexHash, magic] = [
    footer.u16(),
    footer.u32(),
    footer.hex(32),
    footer.take(8).toString("ascii"),
  ];
  assert.deepEqual([format, magic], [1, "SNFRPACK"]);
  const index = object.subarray(-46 - 41 * chunks, -46);
  assert.equal(sha256(index), indexHash);
  const fields = new Fields(index);
  for (let n = 0; n < chunks; n++) {
    const [chunkHash, offset, length, encoding] = [fields.hex(32), fields.u32(), fields.u32(), fields.take(1)[0]];
    const body = object.subarray(offset, offset + length);
    assert.equal(sha256(encoding === 1 ? zstdDecompressSync(body) : body), chunkHash);
  }
}

test("a reader written from the document reads every snapshot of a chain", async () => {
  const store = new MemoryObjectStore();
  await useGeometry(store, "vol", smallGeometry);
  const content = Buffer.concat([
    randomBytes(9_000),
    Buffer.alloc(20_000),
    Buffer.alloc(10_000, "text "),
    randomBytes(77),
  ]);
  const contents: Buffer[] = [];
  for (const n of [1, 2, 3]) {
    content.set(randomBytes(600), n * 5_000);
    contents.push(Buffer.from(content));
    const target = { store, domain: "vol", snapshotId: `snap${n}`, jobId: `job${n}` };
    await backup(target, SparseVolume.of(content), n === 1 ? [] : [`snap${n - 1}`]);
  }
  for (const [n, expected] of contents.entries()) {
    assert.deepEqual(await readSnapshot(store, "vol", `snap${n + 1}`), expected);
  }
});
