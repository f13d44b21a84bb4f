import assert from "node:assert/strict";
import { it } from "node:test";
import { HypervisorMisconfigured } from "../../domain/errors.ts";
import { assertNotOlder } from "./check.ts";

it("versions are compared by their numbers", () => {
  for (const version of ["5.2", "5.2.0", "5.10.1", "6.0", "10.0.3"]) assertNotOlder("QEMU", version, "5.2");
  for (const version of ["5.1.9", "4.20", "0.0", ""]) {
    assert.throws(() => assertNotOlder("QEMU", version, "5.2"), HypervisorMisconfigured, version);
  }
});
