import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { changedLayers } from "./export-extents.ts";
import type { ImageLayer } from "./image-chain.ts";

const own = "/pool/disk.qcow2";
const overlay = (id: string) => `${own}.${id}.qcow2`;
const layer = (path: string, sizeBytes = 1000): ImageLayer => ({
  path,
  sizeBytes,
  format: "qcow2",
  allocatedBytes: 0,
  encrypted: false,
});
const since = (snapshotId: string) => ({ snapshotId, installPath: overlay(snapshotId) });

describe("the layers that changed since a snapshot", () => {
  const frozen = [layer(overlay("snap_2")), layer(overlay("snap_1")), layer(own)];

  it("are those above its frozen file", () => {
    assert.deepEqual(changedLayers(frozen, since("snap_2")), { layers: 1, unchangedEnd: 1000 });
    assert.deepEqual(changedLayers(frozen, since("snap_1")), { layers: 2, unchangedEnd: 1000 });
  });

  it("cannot be told when its overlay was merged, is a later one or of another volume", () => {
    for (const id of ["snap_0", "snap_3"]) assert.equal(changedLayers(frozen, since(id)), undefined);
    assert.equal(changedLayers(frozen, { snapshotId: "snap_1", installPath: "/pool/other.snap_1.qcow2" }), undefined);
    assert.equal(changedLayers([layer(overlay("snap_1"))], since("snap_1")), undefined);
  });

  it("say nothing of what lies behind the smallest size in between", () => {
    const resized = [layer(overlay("snap_2"), 3000), layer(overlay("snap_1"), 500), layer(own, 2000)];
    assert.equal(changedLayers(resized, since("snap_2"))!.unchangedEnd, 500);
    assert.equal(changedLayers(resized, since("snap_1"))!.unchangedEnd, 500);
    assert.equal(
      changedLayers([layer(overlay("snap_1"), 3000), layer(own, 1000)], since("snap_1"))!.unchangedEnd,
      1000,
    );
  });
});
