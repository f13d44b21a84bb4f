import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { parseImages } from "./image-files.ts";

/** As `qemu-img info --output=json` writes it, one after another. */
const output = `{
    "virtual-size": 1048576,
    "filename": "/images/a.qcow2",
    "format": "qcow2",
    "format-specific": {
        "type": "qcow2",
        "data": {
            "compat": "1.1"
        }
    },
    "full-backing-filename": "/images/b}\\n{",
    "backing-filename": "b",
    "backing-filename-format": "raw"
}
{
    "virtual-size": 512,
    "filename": "/images/b",
    "format": "raw"
}
`;

describe("images of a folder", () => {
  it("are told apart, each with what it stands on", () => {
    assert.deepEqual(parseImages(output), [
      { path: "/images/a.qcow2", below: { path: "/images/b}\n{", format: "raw" }, sizeBytes: 1_048_576 },
      { path: "/images/b", below: undefined, sizeBytes: 512 },
    ]);
    assert.deepEqual(parseImages(""), []);
  });
});
