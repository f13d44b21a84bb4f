import assert from "node:assert/strict";
import { test } from "node:test";
import { ago, bytes, percentage, table } from "./format.ts";

test("sizes have two or three digits", () => {
  const cases: [number, string][] = [
    [0, "0 B"],
    [1023, "1023 B"],
    [1024, "1 KiB"],
    [1536, "1.5 KiB"],
    [6.2 * 1024 ** 3, "6.2 GiB"],
    [40 * 1024 ** 3, "40 GiB"],
    [1024 ** 3 - 1, "1 GiB"],
    [2 ** 60, "1024 PiB"],
  ];
  for (const [count, text] of cases) assert.equal(bytes(count), text);
  assert.equal(bytes(undefined), "–");
});

test("times are relative in their largest unit", () => {
  const now = new Date("2026-01-10T12:00:00Z");
  const before = (seconds: number) => ago(new Date(now.getTime() - seconds * 1000).toISOString(), now);
  assert.deepEqual([-5, 0, 9, 240, 7200, 259_200].map(before), [
    "now",
    "now",
    "9 s ago",
    "4 min ago",
    "2 h ago",
    "3 d ago",
  ]);
});

test("a share of nothing is all of it", () => {
  assert.equal(percentage({ bytesDone: 0, bytesTotal: 0 }), "100 %");
  assert.equal(percentage({ bytesDone: 999, bytesTotal: 1000 }), "99 %");
  assert.equal(percentage(undefined), "");
});

test("columns are as wide as they must be", () => {
  assert.equal(
    table(
      ["A", "B", ""],
      [
        ["–", "x", ""],
        ["long", "y", "z"],
      ],
    ),
    "A     B\n–     x\nlong  y  z\n",
  );
});
