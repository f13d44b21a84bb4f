import assert from "node:assert/strict";
import { it } from "node:test";
import { HypervisorFailed } from "../../domain/errors.ts";
import { parseImageChain } from "./image-chain.ts";

const top = {
  filename: "/pool/disk.qcow2.snap_1.qcow2",
  format: "qcow2",
  "virtual-size": 1024,
  "actual-size": 200,
  "full-backing-filename": "/pool/disk.raw",
  "backing-filename": "disk.raw",
  "backing-filename-format": "raw",
};
const bottom = { filename: "/pool/disk.raw", format: "raw", "virtual-size": 512, "actual-size": 100 };

it("a chain is read from its topmost file downwards", () => {
  assert.deepEqual(parseImageChain(JSON.stringify([top, bottom])), [
    { path: top.filename, format: "qcow2", sizeBytes: 1024, allocatedBytes: 200, encrypted: false },
    { path: bottom.filename, format: "raw", sizeBytes: 512, allocatedBytes: 100, encrypted: false },
  ]);
  assert.equal(parseImageChain(JSON.stringify([{ ...bottom, encrypted: true }]))[0]!.encrypted, true);
});

it("a file that does not name the format of the one below is refused", () => {
  const { "backing-filename-format": _, ...silent } = top;
  assert.throws(() => parseImageChain(JSON.stringify([silent, bottom])), HypervisorFailed);
});

it("what is no chain is refused", () => {
  for (const json of ["[]", "{}", JSON.stringify([{ ...bottom, "virtual-size": -1 }])]) {
    assert.throws(() => parseImageChain(json));
  }
});
