/**
 * A reader written from `docs/repository-format.md` alone, with nothing of the code that it is to judge: what it cannot read, or reads
 * otherwise, the document does not tell.
 */
import assert from "node:assert/strict";
import { createDecipheriv, createHmac, hash, hkdfSync } from "node:crypto";
import { zstdDecompressSync } from "node:zlib";

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
  past = () => this.#bytes.subarray(0, this.#at);
  isAtEnd = () => this.#at === this.#bytes.length;
}

const sha256 = (bytes: Uint8Array) => hash("sha256", bytes, "hex");
/** Magic and format. */
const headBytes = 10;

function unseal(object: Buffer, magic: string): Fields {
  assert.equal(sha256(object.subarray(0, -32)), object.subarray(-32).toString("hex"));
  const head = new Fields(object);
  assert.deepEqual([head.take(8).toString("ascii"), head.u16()], [magic, 1]);
  return new Fields(object.subarray(headBytes, -32));
}

/** What comes of an encrypted domain's data key. */
class Keys {
  readonly #dataKey: Uint8Array;

  constructor(dataKey: Uint8Array) {
    this.#dataKey = dataKey;
  }

  #derive(info: string): Buffer {
    return Buffer.from(hkdfSync("sha256", this.#dataKey, new Uint8Array(), info, 32));
  }

  chunkId(chunk: Uint8Array): string {
    return createHmac("sha256", this.#derive("snapferry chunk id")).update(chunk).digest("hex");
  }

  authentication(body: Uint8Array): string {
    return createHmac("sha256", this.#derive("snapferry root")).update(body).digest("hex");
  }

  decrypt(pack: string, offset: number, stored: Buffer): Buffer {
    const nonce = Buffer.alloc(12);
    nonce.writeBigUInt64LE(BigInt(offset));
    return this.#open(`snapferry pack ${pack}`, nonce, stored);
  }

  description(snapshotId: string, sealed: string): string {
    const bytes = Buffer.from(sealed, "base64");
    const text = this.#open(`snapferry description ${snapshotId}`, bytes.subarray(0, 12), bytes.subarray(12));
    const nonceKey = this.#derive(`snapferry description nonce ${snapshotId}`);
    assert.deepEqual(createHmac("sha256", nonceKey).update(text).digest().subarray(0, 12), bytes.subarray(0, 12));
    assert.equal(text.length % 512, 0);
    return text.toString("utf8");
  }

  #open(info: string, nonce: Buffer, stored: Buffer): Buffer {
    const decipher = createDecipheriv("aes-256-gcm", this.#derive(info), nonce, { authTagLength: 16 });
    decipher.setAuthTag(stored.subarray(-16));
    return Buffer.concat([decipher.update(stored.subarray(0, -16)), decipher.final()]);
  }
}

export interface DocumentedDomain {
  readonly domain: string;
  readonly get: (key: string) => Promise<Uint8Array | undefined>;
  /** Of an encrypted domain. */
  readonly unwrap?: (wrappedKey: Uint8Array) => Promise<Uint8Array>;
}

interface Name {
  readonly digest: string;
  readonly name: string;
}

interface BranchEntry extends Name {
  readonly index: number;
  readonly chunks: number;
}

interface PageEntry extends BranchEntry {
  readonly packs: readonly string[];
}

interface Root {
  readonly sizeBytes: number;
  readonly chunkBytes: number;
  readonly pageChunks: number;
  readonly branches: readonly BranchEntry[];
  readonly keys: Keys | undefined;
  readonly description: Readonly<Record<string, string>>;
}

export class DocumentReader {
  readonly #domain: DocumentedDomain;

  constructor(domain: DocumentedDomain) {
    this.#domain = domain;
  }

  /** All bytes of the volume. Reads every pack to its end on the way. */
  async volume(snapshotId: string): Promise<Buffer> {
    const root = await this.#root(snapshotId);
    const volume = Buffer.alloc(root.sizeBytes);
    for (const page of await this.#pages(root)) await this.#readPage(page, root, volume);
    return volume;
  }

  /** What the snapshot is of. */
  async description(snapshotId: string): Promise<Readonly<Record<string, string>>> {
    const { description, keys } = await this.#root(snapshotId);
    const { sealed } = description;
    return keys && sealed !== undefined ? JSON.parse(keys.description(snapshotId, sealed)) : description;
  }

  /** The keys of all objects that the snapshot needs. */
  async neededKeys(snapshotId: string): Promise<Set<string>> {
    const root = await this.#root(snapshotId);
    const keys = new Set([
      this.#key(`roots/${snapshotId}`),
      ...root.branches.map(({ name }) => this.#key(`pages/${name}`)),
    ]);
    for (const page of await this.#pages(root)) {
      keys.add(this.#key(`pages/${page.name}`));
      for (const pack of page.packs) keys.add(this.#key(`packs/${pack}`));
    }
    return keys;
  }

  #key(below: string): string {
    return `domains/${this.#domain.domain}/${below}`;
  }

  async #get(below: string): Promise<Buffer> {
    const object = await this.#domain.get(this.#key(below));
    assert.ok(object, `there is no object ${below}`);
    return Buffer.from(object);
  }

  async #root(snapshotId: string): Promise<Root> {
    const root = unseal(await this.#get(`roots/${snapshotId}`), "SNFRROOT");
    assert.equal(root.text(), snapshotId);
    root.text();
    const [sizeBytes, chunkBytes, pageChunks] = [root.u64(), root.u32(), root.u32()];
    assert.equal(root.u32(), 1024);
    const description = JSON.parse(root.text());
    const jobs = root.many(root.text);
    const branches = root.many(() => ({ index: root.u32(), ...readName(root, jobs), chunks: root.u32() }));
    const wrappedKey = root.take(root.u32());
    const { unwrap } = this.#domain;
    assert.equal(wrappedKey.length > 0, unwrap !== undefined);
    const keys = unwrap && new Keys(await unwrap(wrappedKey));
    if (keys) assert.equal(keys.authentication(root.past()), root.hex(32));
    assert.ok(root.isAtEnd());
    return { sizeBytes, chunkBytes, pageChunks, branches, keys, description };
  }

  async #pages({ branches }: Root): Promise<PageEntry[]> {
    const pages: PageEntry[] = [];
    for (const reference of branches) {
      const branch = await this.#getNamed(reference, "SNFRBRCH");
      assert.equal(branch.u32(), reference.index);
      const jobs = branch.many(branch.text);
      const packs = readPackNames(branch, jobs);
      const ofBranch = branch.many(() => {
        const page = { index: branch.u32(), ...readName(branch, jobs), chunks: branch.u32() };
        return { ...page, packs: branch.many(branch.u32).map((number) => packs[number]!) };
      });
      assert.ok(branch.isAtEnd());
      assert.equal(
        ofBranch.reduce((sum, { chunks }) => sum + chunks, 0),
        reference.chunks,
      );
      pages.push(...ofBranch);
    }
    return pages;
  }

  async #getNamed({ name, digest }: Name, magic: string): Promise<Fields> {
    const object = await this.#get(`pages/${name}`);
    assert.equal(sha256(object), digest);
    return unseal(object, magic);
  }

  async #readPage(reference: PageEntry, root: Root, volume: Buffer): Promise<void> {
    const { chunkBytes, pageChunks, keys } = root;
    const page = await this.#getNamed(reference, "SNFRPAGE");
    assert.equal(page.u32(), reference.index);
    const chunks = page.u32();
    const packs = readPackNames(page, page.many(page.text));
    assert.deepEqual(packs, reference.packs);
    const stored = page.take(Math.ceil(chunks / 8));
    for (let n = 0; n < chunks; n++) {
      if ((stored[n >> 3]! & (1 << (n & 7))) === 0) continue;
      const [id, pack] = [page.hex(32), packs[page.u32()]!];
      const place = { id, pack, offset: page.u32(), length: page.u32(), encoding: page.take(1)[0]! };
      const { bytes } = await this.#pack(pack);
      readChunk(bytes, place, keys).copy(volume, (reference.index * pageChunks + n) * chunkBytes);
    }
    assert.ok(page.isAtEnd());
    for (const name of packs) {
      const { bytes, places } = await this.#pack(name);
      for (const place of places) readChunk(bytes, place, keys);
    }
  }

  /** A pack's bytes by their offsets in it, as far as they are there, and what its index lists. */
  async #pack(name: string): Promise<{ bytes: Buffer; places: Place[] }> {
    const object = await this.#domain.get(this.#key(`packs/${name}`));
    if (object) return { bytes: Buffer.from(object), places: readIndex(Buffer.from(object), name, "SNFRPACK") };
    for (let form = 9; form > 0; form--) {
      const compacted = await this.#domain.get(this.#key(`packs/${name}.${form}`));
      if (compacted) return spread(Buffer.from(compacted), readIndex(Buffer.from(compacted), name, "SNFRCMPT"));
    }
    return { bytes: await this.#get(`packs/${name}`), places: [] };
  }
}

function readName(fields: Fields, jobs: readonly string[]): Name {
  const [job, attempt, digest] = [fields.u32(), fields.u32(), fields.hex(32)];
  return { digest, name: `${jobs[job]}/${attempt}-${digest}` };
}

function readPackNames(fields: Fields, jobs: readonly string[]): string[] {
  return fields
    .many(() => {
      const writer = `${jobs[fields.u32()]}/${fields.u32()}-${fields.u32()}-${fields.hex(8)}`;
      return fields
        .many(() => ({ first: fields.u32(), count: fields.u32() }))
        .flatMap(({ first, count }) => Array.from({ length: count }, (_, n) => `${writer}-${first + n}`));
    })
    .flat();
}

interface Place {
  readonly id: string;
  readonly pack: string;
  readonly offset: number;
  readonly length: number;
  readonly encoding: number;
}

function readChunk(object: Buffer, { id, pack, offset, length, encoding }: Place, keys: Keys | undefined): Buffer {
  const stored = object.subarray(offset, offset + length);
  const encoded = keys ? keys.decrypt(pack, offset, stored) : stored;
  const chunk = encoding === 1 ? zstdDecompressSync(encoded) : encoded;
  assert.equal(keys ? keys.chunkId(chunk) : sha256(chunk), id);
  return chunk;
}

function readIndex(object: Buffer, pack: string, magic: string): Place[] {
  const footer = new Fields(object.subarray(-46));
  const [format, chunks, indexHash] = [footer.u16(), footer.u32(), footer.hex(32)];
  assert.deepEqual([format, footer.take(8).toString("ascii")], [1, magic]);
  const index = object.subarray(-46 - 41 * chunks, -46);
  assert.equal(sha256(index), indexHash);
  const fields = new Fields(index);
  return Array.from({ length: chunks }, () => {
    const [id, offset, length] = [fields.hex(32), fields.u32(), fields.u32()];
    return { id, pack, offset, length, encoding: fields.take(1)[0]! };
  });
}

/** The chunks of a compacted pack, back where they lay in the pack. */
function spread(object: Buffer, places: Place[]): { bytes: Buffer; places: Place[] } {
  const bytes = Buffer.alloc(Math.max(...places.map(({ offset, length }) => offset + length)));
  let position = 0;
  for (const { offset, length } of places) {
    object.copy(bytes, offset, position, position + length);
    position += length;
  }
  assert.equal(position + 41 * places.length + 46, object.length);
  return { bytes, places };
}
