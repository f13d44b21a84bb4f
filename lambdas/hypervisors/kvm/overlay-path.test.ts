import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { PathOutsideDirectory } from "../../domain/errors.ts";
import { hypervisorKinds } from "../../domain/inventory.ts";
import { overlayOf, overlayPath, parseOverlayPath } from "./overlay-path.ts";

describe("the path of an overlay", () => {
  it("tells its volume and its snapshot, whatever these are called", () => {
    const volume = fc.string({ minLength: 1, unit: "binary" }).map((name) => `/images/${name}x`);
    const snapshotId = fc.stringMatching(/^snap_[A-Za-z0-9_-]{1,40}$/);
    fc.assert(
      fc.property(volume, snapshotId, (one, id) => {
        const overlay = { volume: one, snapshotId: id };
        assert.deepEqual(parseOverlayPath(overlayPath(overlay)), overlay);
      }),
    );
  });

  it("of an overlay of an overlay's file names the file that is asked of", () => {
    assert.deepEqual(parseOverlayPath("/i/d.qcow2.snap_1.qcow2"), { volume: "/i/d.qcow2", snapshotId: "snap_1" });
  });

  it("has a name that no volume can be given", () => {
    const { snapshotNames } = hypervisorKinds.kvm;
    const some = fc.constantFrom(".", "snap_", "1", "qcow2", "-", "x", "\n", ".snap_1", ".qcow2");
    const name = fc.array(some, { minLength: 1, maxLength: 6 }).map((parts) => parts.join(""));
    fc.assert(
      fc.property(name, (one) => assert.equal(snapshotNames?.test(one), parseOverlayPath(`/i/${one}`) !== undefined)),
      { numRuns: 10_000 },
    );
  });

  it("is not that of other files", () => {
    const others = [
      "",
      "/i/d",
      "/i/d.qcow2",
      "d.snap_1.qcow2",
      "/i/.snap_1.qcow2",
      "/i/d..qcow2",
      "/i/d.snap_1 b.qcow2",
      "/i/web.disk.qcow2",
    ];
    for (const path of others) {
      assert.equal(parseOverlayPath(path), undefined, path);
      assert.throws(() => overlayOf(path), PathOutsideDirectory);
    }
  });
});
