import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { InvalidArgumentError } from "commander";
import { formatSize, parseSize } from "./size.ts";

describe("sizes", () => {
  it("are read as they are written", () => {
    for (const text of ["4GiB", "512MiB", "1TiB", "3KiB"]) assert.equal(formatSize(parseSize(text)), text);
    assert.equal(parseSize("1.5GiB"), 1536 * 1024 * 1024);
  });

  it("are refused when they are none", () => {
    for (const text of ["", "4GB", "-1GiB", "0", "GiB", "0.3"])
      assert.throws(() => parseSize(text), InvalidArgumentError);
  });
});
