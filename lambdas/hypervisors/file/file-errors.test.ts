import assert from "node:assert/strict";
import { test } from "node:test";
import {
  HypervisorMisconfigured,
  HypervisorUnavailable,
  PathOutsideDirectory,
  PrimaryStorageFull,
  VolumeNotFound,
} from "../../domain/errors.ts";
import { fileError } from "./file-errors.ts";

const expected = {
  ENOSPC: PrimaryStorageFull,
  EDQUOT: PrimaryStorageFull,
  EFBIG: PrimaryStorageFull,
  ELOOP: PathOutsideDirectory,
  EACCES: HypervisorMisconfigured,
  EROFS: HypervisorMisconfigured,
  EIO: HypervisorUnavailable,
  ESTALE: HypervisorUnavailable,
};

for (const [code, errorClass] of Object.entries(expected)) {
  test(`${code} is ${errorClass.name} and names the path`, () => {
    const error = fileError(Object.assign(new Error("failed"), { code }), "/volumes/disk");
    assert.ok(error instanceof errorClass);
    assert.match(error.message, /\/volumes\/disk/);
  });
}

test("what is named already, or is a mistake of ours, passes through", () => {
  for (const error of [new VolumeNotFound("gone"), new TypeError("a mistake")])
    assert.equal(fileError(error, "x"), error);
  assert.ok(fileError("text", "x") instanceof Error);
});
