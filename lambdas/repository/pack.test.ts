import assert from "node:assert/strict";
import { test } from "node:test";
import { encodings } from "./chunk.ts";
import { PackBuilder, packFooterBytes } from "./pack.ts";

test("chunks of a pack begin at multiples of eight bytes, and nothing of the buffer's former use is between them", () => {
  const builder = new PackBuilder(Buffer.alloc(1024, 0xff));
  const hash = "0".repeat(64);
  const [first, second] = ["eleven byte", "abc"].map((text) =>
    builder.append(hash, { encoding: encodings.raw, bytes: Buffer.from(text) }),
  );
  assert.deepEqual([first?.offset, first?.length], [0, 11]);
  assert.deepEqual([second?.offset, second?.length], [16, 3]);
  const object = builder.seal();
  assert.equal(object.subarray(0, 24).toString("latin1"), "eleven byte\0\0\0\0\0abc\0\0\0\0\0");
  assert.equal(object.length, 24 + 2 * 41 + packFooterBytes);
});
