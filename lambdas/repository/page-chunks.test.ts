import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { pageChunksOf } from "../../test/support/repository.ts";
import { Bitmap } from "./bitmap.ts";
import { KnownChunks } from "./known-chunks.ts";
import { decodePage, encodePage } from "./page.ts";
import { type ChunkLocation, PageChunks } from "./page-chunks.ts";

const packs = ["job1/1-0-0123456789abcdef-0", "job1/1-0-0123456789abcdef-1", "job2/3-1-fedcba9876543210-7"];
const location: fc.Arbitrary<ChunkLocation> = fc.record(
  {
    // Few beginnings, so that some ids have the same one.
    hash: fc
      .tuple(
        fc.constantFrom("00000000", "ffffffff", "80000001"),
        fc.string({ unit: fc.constantFrom(..."07f"), minLength: 56, maxLength: 56 }),
      )
      .map((parts) => parts.join("")),
    pack: fc.constantFrom(...packs),
    offset: fc.nat(0xffff_ffff),
    length: fc.nat(0xffff_ffff),
    encoding: fc.constantFrom(0, 1),
  },
  { noNullPrototype: true },
);
const locations = fc.array(fc.option(location, { nil: undefined }), { maxLength: 70 });

/** As they come from a page's object. */
function stored(chunks: readonly (ChunkLocation | undefined)[]): PageChunks {
  return decodePage(encodePage({ index: 0, chunks: pageChunksOf(chunks) }), "page").chunks;
}

/** What an object would hold of them. */
function written(chunks: PageChunks): (ChunkLocation | undefined)[] {
  return [...decodePage(encodePage({ index: 0, chunks }), "page").chunks];
}

describe("the chunks of a page", () => {
  test("that is like its base but for some of them are these and the base's", () => {
    const changes = fc.array(fc.tuple(fc.nat(80), fc.option(location, { nil: undefined })), { maxLength: 30 });
    fc.assert(
      fc.property(locations, changes, fc.nat(80), (base, changed, length) => {
        const model = Array.from({ length }, (_, at) => base[at]);
        const within = changed.filter(([at]) => at < length);
        const except = Bitmap.of(length, (at) => within.some(([position]) => position === at));
        const chunks = stored(base).without(except);
        for (const [at] of within) model[at] = undefined;
        assert.deepEqual([...chunks], model);
        for (const [at, one] of within) {
          model[at] = one;
          chunks.set(at, one);
        }
        assert.deepEqual([...chunks], model);
        assert.deepEqual(written(chunks), model);
        assert.equal(chunks.count(), model.filter((one) => one).length);
        assert.deepEqual([...chunks.packs()].sort(), [...new Set(model.flatMap((one) => one?.pack ?? []))].sort());
        assert.deepEqual(
          Array.from({ length }, (_, at) => chunks.has(at)),
          model.map((one) => one !== undefined),
        );
      }),
    );
  });

  test("leave those alone that they were made from", () => {
    const base = stored([undefined, { hash: "0".repeat(64), pack: packs[0]!, offset: 1, length: 2, encoding: 1 }]);
    const before = [...base];
    base.without(new Bitmap(2)).set(1, undefined);
    assert.deepEqual([...base], before);
  });

  test("are like others when all are the same in the same places", () => {
    fc.assert(
      fc.property(locations, fc.nat(69), (list, at) => {
        const base = stored(list);
        const bare = () => base.without(new Bitmap(list.length));
        assert.ok(bare().areLike(base) && pageChunksOf(list).areLike(base) && stored(list).areLike(base));
        assert.equal(base.without(new Bitmap(list.length + 1)).areLike(base), false);
        if (at >= list.length) return;
        const same = bare();
        same.set(at, list[at]);
        assert.ok(same.areLike(base));
        const other = list[at]
          ? undefined
          : { hash: "1".repeat(64), pack: packs[0]!, offset: 0, length: 1, encoding: 0 as const };
        for (const changed of [bare(), pageChunksOf(list)]) {
          changed.set(at, other);
          assert.equal(changed.areLike(base), false);
        }
        const [moved, one] = [bare(), list[at]];
        if (one) moved.set(at, { ...one, offset: (one.offset + 1) % 2 ** 32 });
        assert.equal(moved.areLike(base), one === undefined);
      }),
    );
  });

  test("are found by their ids, and nothing else is", () => {
    fc.assert(
      fc.property(locations, location, (list, another) => {
        const chunks = stored(list);
        for (const one of list) if (one) assert.equal(chunks.find(one.hash)?.hash, one.hash);
        const isThere = list.some((one) => one?.hash === another.hash);
        assert.equal(chunks.find(another.hash) !== undefined, isThere);
      }),
    );
  });
});

describe("what a copy knows", () => {
  const one = (digit: string, pack = packs[0]!): ChunkLocation => ({
    hash: digit.repeat(64),
    pack,
    offset: 0,
    length: 1,
    encoding: 0,
  });

  test("is its own, and what lies in packs that are trusted", () => {
    const known = new KnownChunks(({ pack }) => pack !== packs[1]);
    known.addPage(stored([one("a", packs[1]), one("b")]));
    known.addPage(stored([one("a", packs[2])]));
    known.add(one("c"));
    assert.deepEqual(
      ["a", "b", "c", "d"].map((digit) => known.find(digit.repeat(64))?.pack),
      [packs[2], packs[0], packs[0], undefined],
    );
  });

  test("is forgotten when it becomes too much", () => {
    const known = new KnownChunks(() => true);
    const page = stored([one("a"), ...new Array<undefined>(20_000).fill(undefined)]);
    known.addPage(page);
    known.add(one("b"));
    known.addPage(PageChunks.zeros(20_000));
    assert.ok(known.find("a".repeat(64)) && known.find("b".repeat(64)));
    known.addPage(stored([one("c")]));
    assert.deepEqual(
      ["a", "b", "c"].map((digit) => known.find(digit.repeat(64)) !== undefined),
      [false, false, true],
    );
  });
});
