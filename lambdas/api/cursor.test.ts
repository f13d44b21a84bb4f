import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { decodeCursor, encodeCursor } from "./cursor.ts";

test("a cursor leads back to the row that the page ended with", () => {
  assert.equal(decodeCursor(encodeCursor("snap_01JD7QXN8ZK4V1TQ3C5M9R2WEY")), "snap_01JD7QXN8ZK4V1TQ3C5M9R2WEY");
});

test("whatever was never a cursor is refused and never throws", () => {
  fc.assert(fc.property(fc.string(), (text) => decodeCursor(text) === undefined));
  fc.assert(
    fc.property(fc.json(), (json) => {
      const text = Buffer.from(json).toString("base64url");
      assert.equal(decodeCursor(text), undefined);
    }),
  );
  for (const content of [{ after: "" }, { after: 1 }, { after: "a", more: 1 }, null, []])
    assert.equal(decodeCursor(Buffer.from(JSON.stringify(content)).toString("base64url")), undefined);
  assert.equal(decodeCursor("A".repeat(10_000)), undefined);
});
