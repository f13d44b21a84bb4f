/** Every format: what is written is read back, and whatever is damaged is said so by name, without hanging or filling memory. */
import assert from "node:assert/strict";
import { hash, randomBytes } from "node:crypto";
import { describe, test } from "node:test";
import fc from "fast-check";
import { MemoryObjectStore } from "../../test/support/memory-object-store.ts";
import { pageChunksOf } from "../../test/support/repository.ts";
import { RepositoryDamaged, UnsupportedFormat } from "../domain/errors.ts";
import { ByteReader, seal } from "./binary.ts";
import { type Branch, branchPages, decodeBranch, encodeBranch } from "./branch.ts";
import { chunkHash, decodeChunk, encodeChunk, encodings, isZero } from "./chunk.ts";
import { DomainCipher } from "./domain-cipher.ts";
import { formatPackName, formatPageName, parsePackName, parsePageName } from "./layout.ts";
import { decodeRoot, encodeRoot, type Root } from "./manifest.ts";
import { PackBuilder, packBuffer } from "./pack.ts";
import { readPackIndex } from "./pack-reader.ts";
import { decodePage, encodePage, type Page } from "./page.ts";
import { decodePin } from "./pin.ts";
import { decodeCheckpoint, decodeResult, encodeCheckpoint, encodeResult } from "./shard-state.ts";
import { encodeShardTable, readShardPart, readShardTable } from "./shard-table.ts";

const sha256Hex = fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => Buffer.from(bytes).toString("hex"));
const jobId = fc.constantFrom("job_01A", "job_01B", "job_01C");
const small = fc.nat({ max: 999_999_999 });
const packName = fc
  .record({
    jobId,
    attempt: fc.nat(9),
    shard: fc.nat(9_999),
    token: sha256Hex.map((hex) => hex.slice(0, 16)),
    sequence: fc.nat(50),
  })
  .map(formatPackName);
const pageName = fc.record({ jobId, attempt: fc.nat(9), sha256: sha256Hex }).map(formatPageName);

const location = fc.record(
  {
    hash: sha256Hex,
    pack: packName,
    offset: small,
    length: small,
    encoding: fc.constantFrom(...Object.values(encodings)),
  },
  { noNullPrototype: true },
);
const page: fc.Arbitrary<Page> = fc.record(
  {
    index: small,
    chunks: fc.array(fc.option(location, { nil: undefined }), { maxLength: 20 }).map(pageChunksOf),
  },
  { noNullPrototype: true },
);

const branch: fc.Arbitrary<Branch> = fc
  .record({
    index: fc.nat(9),
    pages: fc.uniqueArray(
      fc.record(
        {
          index: fc.nat(branchPages - 1),
          name: pageName,
          chunks: fc.nat(8),
          packs: fc.uniqueArray(packName, { maxLength: 8 }),
        },
        { noNullPrototype: true },
      ),
      { selector: (one) => one.index, maxLength: 10 },
    ),
  })
  .map(({ index, pages }) => ({
    index,
    pages: pages
      .map((one) => ({ ...one, index: index * branchPages + one.index, packs: inTableOrder(one.packs) }))
      .sort((a, b) => a.index - b.index),
  }));

/** The order in which a branch lists packs: by writer, then by sequence. */
function inTableOrder(packs: readonly string[]): string[] {
  const writer = (pack: string) => pack.slice(0, pack.lastIndexOf("-"));
  const sequence = (pack: string) => parsePackName(pack)!.sequence;
  return packs.toSorted((a, b) =>
    writer(a) === writer(b) ? sequence(a) - sequence(b) : writer(a) < writer(b) ? -1 : 1,
  );
}

const root: fc.Arbitrary<Root> = fc
  .record(
    {
      snapshotId: fc.constantFrom("snap_1", "snap_2"),
      jobId,
      description: fc.dictionary(fc.string({ maxLength: 9 }), fc.string({ maxLength: 30 }), {
        maxKeys: 4,
        noNullPrototype: true,
      }),
      wrappedKey: fc.constantFrom(new Uint8Array(), new Uint8Array(70).fill(7)),
      branches: fc.uniqueArray(
        fc.record({ index: fc.nat(99), name: pageName, chunks: small }, { noNullPrototype: true }),
        { selector: (one) => one.index, maxLength: 10 },
      ),
    },
    { noNullPrototype: true },
  )
  .map(({ branches, ...rest }) => ({
    ...rest,
    sizeBytes: 100 * branchPages * 8 * 512,
    chunkBytes: 512,
    pageChunks: 8,
    branches: branches.toSorted((a, b) => a.index - b.index),
  }));

const cipher = new DomainCipher(new Uint8Array(32).fill(1));

function isNamedDamage(error: unknown): boolean {
  return error instanceof RepositoryDamaged || error instanceof UnsupportedFormat;
}

/** Cut short, lengthened, or with some bytes changed. */
function damaged(object: Uint8Array): fc.Arbitrary<Buffer> {
  const bytes = Buffer.from(object);
  const changed = fc
    .array(fc.tuple(fc.nat(Math.max(bytes.length - 1, 0)), fc.integer({ min: 1, max: 255 })), {
      minLength: 1,
      maxLength: 4,
    })
    .map((changes) => {
      const copy = Buffer.from(bytes);
      for (const [at, difference] of changes) if (at < copy.length) copy[at]! ^= difference;
      return copy;
    });
  const cut = fc.nat(Math.max(bytes.length - 1, 0)).map((length) => bytes.subarray(0, length));
  const longer = fc.uint8Array({ minLength: 1, maxLength: 9 }).map((more) => Buffer.concat([bytes, more]));
  return fc.oneof(
    changed,
    cut,
    longer,
    fc.uint8Array({ maxLength: 200 }).map((other) => Buffer.from(other)),
  );
}

/** Any body with a proper checksum: what reaches the decoder behind it. */
const anyBody = fc.uint8Array({ maxLength: 300 });

describe("names", () => {
  test("of packs and pages are read back", () => {
    fc.assert(fc.property(packName, (name) => formatPackName(parsePackName(name)!) === name));
    fc.assert(fc.property(pageName, (name) => formatPageName(parsePageName(name)!) === name));
  });

  test("that are none are refused", () => {
    for (const name of [
      "",
      "a/b",
      "../x/1-2-0123456789abcdef-0",
      "a/1-2-0123456789abcdeF-0",
      "a/1-2-0123456789abcdef-",
    ]) {
      assert.equal(parsePackName(name), undefined);
      assert.equal(parsePageName(name), undefined);
    }
  });
});

describe("a chunk", () => {
  test("comes back from its encoding", () => {
    const piece = fc.oneof(
      fc.uint8Array({ maxLength: 5_000 }),
      fc.nat(9_000).map((length) => new Uint8Array(length).fill(7)),
    );
    fc.assert(
      fc.property(piece, (bytes) => {
        const encoded = encodeChunk(bytes);
        assert.ok(encoded.bytes.length <= bytes.length);
        const decoded = Buffer.alloc(bytes.length, 1);
        assert.equal(decodeChunk(encoded, chunkHash(bytes), decoded), true);
        assert.deepEqual(decoded, Buffer.from(bytes));
      }),
      { numRuns: 60 },
    );
  });

  test("of random bytes is kept as it is", () => {
    const bytes = randomBytes(256 * 1024);
    assert.equal(encodeChunk(bytes).encoding, encodings.raw);
  });

  test("that is damaged is not returned, does not unpack to more than it should be, and harms none after it", () => {
    const bytes = Buffer.alloc(50_000_000, "bomb");
    const encoded = encodeChunk(bytes);
    const target = Buffer.alloc(4096);
    const before = process.memoryUsage().arrayBuffers;
    assert.equal(decodeChunk(encoded, chunkHash(bytes), target), false);
    assert.ok(process.memoryUsage().arrayBuffers - before < 20_000_000);
    const chunk = encodeChunk(Buffer.alloc(4096, "text"));
    const hash = chunkHash(Buffer.alloc(4096, "text"));
    fc.assert(
      fc.property(damaged(chunk.bytes), (other) => {
        assert.ok(!decodeChunk({ ...chunk, bytes: other }, hash, target) || chunkHash(target) === hash);
        assert.equal(decodeChunk(chunk, hash, target), true);
      }),
    );
  });

  test("is zero only if all of it is", () => {
    fc.assert(
      fc.property(fc.nat(600_000), fc.nat(599_999), (length, at) => {
        const bytes = new Uint8Array(length);
        if (!isZero(bytes)) return false;
        if (at >= length) return true;
        bytes[at] = 1;
        return !isZero(bytes);
      }),
      { numRuns: 30 },
    );
  });
});

describe("a pack", () => {
  async function makePack(): Promise<{ object: Buffer; hashes: string[] }> {
    const builder = new PackBuilder(packBuffer(10_000, 1_000));
    const hashes: string[] = [];
    for (let n = 0; n < 5; n++) {
      const bytes = Buffer.alloc(1_000, `chunk ${n}`);
      hashes.push(chunkHash(bytes));
      builder.append(chunkHash(bytes), await encodeChunk(bytes));
    }
    return { object: Buffer.from(builder.seal()), hashes };
  }

  test("lists its chunks", async () => {
    const { object, hashes } = await makePack();
    const store = new MemoryObjectStore();
    await store.put("pack", object);
    assert.deepEqual(
      (await readPackIndex(store, "pack")).map((chunk) => chunk.hash),
      hashes,
    );
  });

  test("that is damaged is said so", async () => {
    const { object } = await makePack();
    const store = new MemoryObjectStore();
    await fc.assert(
      fc.asyncProperty(damaged(object), async (bytes) => {
        await store.put("pack", bytes);
        await readPackIndex(store, "pack").catch((error: unknown) => assert.ok(isNamedDamage(error), String(error)));
      }),
      { numRuns: 200 },
    );
    await assert.rejects(readPackIndex(store, "no pack"), RepositoryDamaged);
  });
});

describe("a page", () => {
  test("comes back", () => {
    fc.assert(
      fc.property(page, (one) => {
        const { index, chunks } = decodePage(encodePage(one), "page");
        assert.deepEqual({ index, chunks: [...chunks] }, { index: one.index, chunks: [...one.chunks] });
      }),
    );
  });

  test("that is damaged is said so", () => {
    fc.assert(
      fc.property(
        page.chain((one) => damaged(encodePage(one))),
        (bytes) => {
          assert.throws(() => decodePage(bytes, "page"), isNamedDamage);
        },
      ),
    );
    fc.assert(fc.property(anyBody, (body) => decodesOrIsDamaged(() => decodePage(seal("page", body), "page"))));
  });
});

describe("a branch", () => {
  test("comes back", () => {
    fc.assert(fc.property(branch, (one) => assert.deepEqual(decodeBranch(encodeBranch(one), "branch"), one)));
  });

  test("is the same bytes in whatever order its packs were found", () => {
    fc.assert(
      fc.property(branch, (one) => {
        const pages = one.pages.map((page) => ({ ...page, packs: page.packs.toReversed() }));
        assert.deepEqual(encodeBranch({ ...one, pages }), encodeBranch(one));
      }),
    );
  });

  test("that is damaged is said so", () => {
    fc.assert(
      fc.property(
        branch.chain((one) => damaged(encodeBranch(one))),
        (bytes) => {
          assert.throws(() => decodeBranch(bytes, "branch"), isNamedDamage);
        },
      ),
    );
    fc.assert(fc.property(anyBody, (body) => decodesOrIsDamaged(() => decodeBranch(seal("branch", body), "branch"))));
  });
});

describe("a root", () => {
  test("comes back", () => {
    fc.assert(
      fc.property(root, (one) => assert.deepEqual(decodeRoot(encodeRoot(one, cipher), "root", undefined), one)),
    );
  });

  test("may have any name in its description", () => {
    const description = Object.fromEntries(["__proto__", "constructor", "a"].map((name) => [name, "text"]));
    const one = { snapshotId: "snap_1", jobId: "job_1", sizeBytes: 0, chunkBytes: 512, pageChunks: 8, branches: [] };
    const object = encodeRoot({ ...one, description, wrappedKey: new Uint8Array() });
    assert.deepEqual(Object.keys(decodeRoot(object, "root").description), ["__proto__", "a", "constructor"]);
  });

  test("of an encrypted domain tells whether it was written with the domain's key", () => {
    const encrypted = root.filter(({ wrappedKey }) => wrappedKey.length > 0);
    fc.assert(
      fc.property(encrypted, (one) => {
        const object = encodeRoot(one, cipher);
        assert.deepEqual(decodeRoot(object, "root", cipher), one);
        const other = new DomainCipher(new Uint8Array(32).fill(2));
        assert.throws(() => decodeRoot(object, "root", other), RepositoryDamaged);
      }),
    );
  });

  test("that is damaged is said so", () => {
    fc.assert(
      fc.property(
        root.chain((one) => damaged(encodeRoot(one, cipher))),
        (bytes) => {
          assert.throws(() => decodeRoot(bytes, "root"), isNamedDamage);
        },
      ),
    );
    fc.assert(fc.property(anyBody, (body) => decodesOrIsDamaged(() => decodeRoot(seal("root", body), "root"))));
  });

  test("of another format is UnsupportedFormat", () => {
    const sealed = seal("root", new Uint8Array());
    sealed.writeUInt16LE(2, 8);
    const body = sealed.subarray(0, -32);
    const object = Buffer.concat([body, hash("sha256", body, "buffer")]);
    assert.throws(() => decodeRoot(object, "root"), UnsupportedFormat);
  });
});

describe("a pin", () => {
  test("that is damaged is said so", () => {
    fc.assert(fc.property(anyBody, (body) => decodesOrIsDamaged(() => decodePin(seal("pin", body), "pin"))));
  });
});

describe("a plan", () => {
  const geometry = { chunkBytes: 512, pageChunks: 8, packBytes: 1024 };
  const bodies = fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 6 });

  test("gives each shard its part", async () => {
    await fc.assert(
      fc.asyncProperty(bodies, async (parts) => {
        const store = new MemoryObjectStore();
        await store.put(
          "plan",
          encodeShardTable(
            { sizeBytes: 9_999, geometry, wrappedKey: new Uint8Array(), hinted: true },
            parts.map((body) => ({ bytes: body.length, body })),
            { key: "plan", cipher: undefined },
          ),
        );
        const table = await readShardTable({ store, domain: "vol" }, "plan");
        assert.equal(table?.shape.sizeBytes, 9_999);
        assert.equal(table.shape.hinted, true);
        for (const [shard, body] of parts.entries()) {
          const part = await readShardPart(store, "plan", table, shard);
          assert.deepEqual(Buffer.from(part.bytes(body.length)), Buffer.from(body));
          part.end();
        }
      }),
    );
  });

  test("that is damaged is said so, in the table or in the part", async () => {
    const store = new MemoryObjectStore();
    const plan = encodeShardTable(
      { sizeBytes: 1, geometry, wrappedKey: new Uint8Array(), hinted: false },
      [1, 2, 3].map((n) => ({ bytes: n, body: Buffer.alloc(20, n) })),
      { key: "plan", cipher: undefined },
    );
    await fc.assert(
      fc.asyncProperty(damaged(plan), async (bytes) => {
        await store.put("plan", bytes);
        try {
          const table = await readShardTable({ store, domain: "vol" }, "plan");
          for (const shard of [0, 1, 2]) {
            const part = await readShardPart(store, "plan", table!, shard);
            assert.deepEqual(Buffer.from(part.bytes(20)), Buffer.alloc(20, shard + 1));
          }
        } catch (error) {
          assert.ok(isNamedDamage(error), String(error));
        }
      }),
      { numRuns: 300 },
    );
  });
});

describe("a result and a checkpoint", () => {
  const state = {
    planHash: "0".repeat(64),
    pages: [{ index: 1, name: `job/1-${"a".repeat(64)}`, chunks: 3, size: 100, packs: [0], reused: [0] }],
    zeroPages: [7],
    packs: [{ name: "job/1-2-0123456789abcdef-0", size: 5, sha256: "b".repeat(64) }],
    reused: ["old/1-0-0123456789abcdef-7"],
    bytesDone: 77,
  };
  const checkpoint = { ...state, nextPage: 1, nextChunk: 5, partialPage: "" };
  const plain = { key: "object", cipher: undefined };
  const encrypted = { key: "object", cipher: new DomainCipher(randomBytes(32)) };

  test("come back", () => {
    for (const object of [plain, encrypted]) {
      assert.deepEqual(stripFormat(decodeResult(encodeResult(state, object), object)), state);
      assert.deepEqual(stripFormat(decodeCheckpoint(encodeCheckpoint(checkpoint, object), object)), checkpoint);
    }
  });

  test("of an encrypted domain are of that domain and that place alone", () => {
    const others = [plain, { ...encrypted, key: "other" }, { ...encrypted, cipher: new DomainCipher(randomBytes(32)) }];
    for (const other of others) {
      assert.throws(() => decodeResult(encodeResult(state, other), encrypted), RepositoryDamaged);
      assert.throws(() => decodeCheckpoint(encodeCheckpoint(checkpoint, other), encrypted), RepositoryDamaged);
    }
  });

  test("that are damaged are said so", () => {
    fc.assert(
      fc.property(damaged(encodeResult(state, plain)), (bytes) => decodesOrIsDamaged(() => decodeResult(bytes, plain))),
    );
    fc.assert(
      fc.property(damaged(encodeCheckpoint(checkpoint, plain)), (bytes) =>
        decodesOrIsDamaged(() => decodeCheckpoint(bytes, plain)),
      ),
    );
    assert.throws(() => decodeResult(Buffer.from('{"format":2}'), plain), UnsupportedFormat);
  });
});

test("numbers beyond what JavaScript counts exactly are damage", () => {
  assert.throws(() => new ByteReader(Buffer.alloc(8, 0xff), "number").u64(), RepositoryDamaged);
});

function stripFormat(record: object): object {
  return Object.fromEntries(Object.entries(record).filter(([key]) => key !== "format"));
}

function decodesOrIsDamaged(decode: () => unknown): void {
  try {
    decode();
  } catch (error) {
    assert.ok(isNamedDamage(error), String(error));
  }
}
