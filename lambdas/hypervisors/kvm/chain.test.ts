import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { PathOutsideDirectory } from "../../domain/errors.ts";
import { mayBeTopOf, ownFileOf, plannedBy, plannedOverlay, unfitOwnFile } from "./chain.ts";

const own = "/pool/disk.qcow2";
const overlay = (snapshotId: string, externalId = own) => plannedOverlay({ externalId, snapshotId });

describe("an overlay", () => {
  it("is named after the volume's own file and the snapshot, and the name is read back", () => {
    assert.equal(overlay("snap_1"), "/pool/disk.qcow2.snap_1.qcow2");
    assert.deepEqual(plannedBy(overlay("snap_1")), { volume: own, snapshotId: "snap_1" });
    const name = fc.string({ minLength: 1 }).filter((text) => unfitOwnFile(`/pool/${text}`) === undefined);
    fc.assert(
      fc.property(name, (text) => {
        assert.deepEqual(plannedBy(overlay("snap_2", `/pool/${text}`)), {
          volume: `/pool/${text}`,
          snapshotId: "snap_2",
        });
      }),
    );
  });

  it("is made of a plain absolute path and an id, and of nothing else", () => {
    for (const path of ["", "disk", "/", "/a/", "/a/../b", "/a//b", "/a/./b", "/a\0b", "/a\nb", "../a"]) {
      assert.throws(() => overlay("snap_1", path), PathOutsideDirectory, path);
      assert.throws(() => plannedBy(`${path}.snap_1.qcow2`), PathOutsideDirectory, path);
    }
    for (const id of ["", "..", "snap_/b", "snap_a.b", "snap_a b", "disk"]) {
      assert.throws(() => overlay(id), PathOutsideDirectory);
    }
  });
});

describe("the own file of a chain", () => {
  it("lies below the overlays that are named after it", () => {
    assert.equal(ownFileOf([own]), own);
    assert.equal(ownFileOf([overlay("snap_1"), own]), own);
    assert.equal(ownFileOf([overlay("snap_2"), overlay("snap_1"), own]), own);
  });

  it("is not the image that several volumes stand on", () => {
    assert.equal(ownFileOf([own, "/images/debian.qcow2"]), own);
    assert.equal(ownFileOf([overlay("snap_1"), own, "/images/debian.qcow2"]), own);
  });

  it("stays when somebody else puts files on top or in between", () => {
    assert.equal(ownFileOf(["/pool/theirs", overlay("snap_1"), own]), own);
    assert.equal(ownFileOf([overlay("snap_2"), "/pool/theirs", overlay("snap_1"), own]), own);
    assert.equal(ownFileOf([overlay("snap_9", "/pool/theirs"), "/pool/theirs", overlay("snap_1"), own]), own);
  });

  it("is the topmost where nothing tells more", () => {
    assert.equal(ownFileOf(["/pool/theirs", own]), "/pool/theirs");
    assert.equal(ownFileOf([overlay("snap_1"), "/pool/renamed.qcow2"]), overlay("snap_1"));
  });

  it("can have a name that is too long, or a path that is not plain", () => {
    assert.equal(unfitOwnFile(own), undefined);
    assert.equal(unfitOwnFile(`/pool/${"x".repeat(217)}`), undefined);
    assert.match(unfitOwnFile(`/pool/${"x".repeat(218)}`) ?? "", /too long/);
    assert.match(unfitOwnFile("/pool/../disk") ?? "", /plain absolute path/);
  });
});

it("the top of a volume's chain is its own file or one of its overlays", () => {
  assert.ok(mayBeTopOf(own, own) && mayBeTopOf(own, overlay("snap_1")));
  assert.ok(!mayBeTopOf(own, "/pool/disk.qcow2.raw") && !mayBeTopOf(own, overlay("snap_1", "/pool/other")));
});
