import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { RepositoryDamaged, StoreUnavailable } from "../domain/errors.ts";
import { readAgainIfDamaged } from "./reread.ts";

/** A read that fails with these, one after the other, and then brings "bytes". */
function failing(...errors: Error[]) {
  let runs = 0;
  const read = async () => {
    const error = errors[runs++];
    if (error) throw error;
    return "bytes";
  };
  return { read, runs: () => runs };
}

describe("what is read again if it is damaged", () => {
  const damaged = new RepositoryDamaged("wrong bytes");

  test("is well when the second read is", async () => {
    assert.equal(await readAgainIfDamaged(failing(damaged).read), "bytes");
  });

  test("is damaged when the second read is too", async () => {
    const twice = failing(damaged, damaged);
    await assert.rejects(readAgainIfDamaged(twice.read), RepositoryDamaged);
    assert.equal(twice.runs(), 2);
  });

  test("is not read again after other errors", async () => {
    const other = failing(new StoreUnavailable("away"));
    await assert.rejects(readAgainIfDamaged(other.read), StoreUnavailable);
    assert.equal(other.runs(), 1);
  });
});
