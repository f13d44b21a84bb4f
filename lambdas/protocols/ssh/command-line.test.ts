import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { describe, test } from "node:test";
import fc from "fast-check";
import { commandLine } from "./command-line.ts";
import { SshArgumentInvalid } from "./errors.ts";

/** Text of any kind, with much of what shells find special. */
const argument = fc.oneof(
  fc.string({ unit: fc.constantFrom(...`'"\\$\`!*?[]{}()<>|&;~# \t\n\r=%^-`, "é", "\u{1f600}", "\u0001", "\u007f") }),
  fc.string({ unit: "grapheme" }),
);

describe("command lines", () => {
  test("are taken apart by a shell into exactly the arguments that they were made of", () => {
    const plain = argument.filter((text) => !text.includes("\0") && text.isWellFormed());
    fc.assert(
      fc.property(fc.array(plain, { maxLength: 6 }), (args) => {
        // One argument a line would not do: they hold line breaks. Each is followed by a byte that UTF-8 does not have.
        const line = commandLine(["printf", "%s\\377", ...args]);
        const output = execFileSync("sh", ["-c", line]).toString("latin1");
        const expected =
          args.length === 0 ? "\xff" : args.map((text) => `${Buffer.from(text).toString("latin1")}\xff`).join("");
        assert.equal(output, expected);
      }),
      { numRuns: 150 },
    );
  });

  test("are not made of what a command line cannot hold", () => {
    assert.throws(() => commandLine([]), SshArgumentInvalid);
    assert.throws(() => commandLine(["a\0b"]), SshArgumentInvalid);
    assert.throws(() => commandLine(["\ud800"]), SshArgumentInvalid);
  });

  test("quote everything", () => {
    assert.equal(commandLine(["qemu-img", "info", "it's"]), `'qemu-img' 'info' 'it'\\''s'`);
  });
});
