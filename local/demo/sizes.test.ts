import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { formatSize, parseSize } from "./sizes.ts";

describe("sizes", () => {
  it("are read with and without units", () => {
    assert.equal(parseSize("4GiB"), 4 * 2 ** 30);
    assert.equal(parseSize("1.5 gib"), 1.5 * 2 ** 30);
    assert.equal(parseSize("1GB"), 1e9);
    assert.equal(parseSize("1000"), 1000);
    for (const text of ["", "GiB", "-1", "1 XB", "1e9", "99999999TiB"]) assert.equal(parseSize(text), undefined, text);
  });
  it("are written in the largest unit that fits", () => {
    assert.equal(formatSize(2 ** 30), "1.00 GiB");
    assert.equal(formatSize(512 * 2 ** 20), "512 MiB");
    assert.equal(formatSize(3), "3 B");
  });
});
