import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { didYouMean, editDistance } from "./did-you-mean.ts";

const known = ["asyncBackup", "name", "description", "storeId", "tags"];

test("a typing mistake is recognised, something else is not", () => {
  assert.equal(didYouMean("asyncBakcup", known), "asyncBackup");
  assert.equal(didYouMean("ASYNCBACKUP", known), "asyncBackup");
  assert.equal(didYouMean("storeid", known), "storeId");
  assert.equal(didYouMean("tag", known), "tags");
  assert.equal(didYouMean("nmae", known), "name");
  assert.equal(didYouMean("colour", known), undefined);
  assert.equal(didYouMean("", known), undefined);
  assert.equal(didYouMean("x".repeat(100_000), known), undefined);
});

test("the distance is a metric on short words: zero for equal ones, symmetric, at most the longer length", () => {
  const word = fc.string({ maxLength: 8 });
  fc.assert(
    fc.property(word, word, (left, right) => {
      const distance = editDistance(left, right);
      assert.equal(distance, editDistance(right, left));
      assert.equal(distance === 0, left === right);
      assert.ok(distance <= Math.max(left.length, right.length));
      assert.ok(distance >= Math.abs(left.length - right.length));
    }),
  );
});
