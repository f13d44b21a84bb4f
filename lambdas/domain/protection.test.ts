import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { onlyOnPrimary, protectionOf } from "./protection.ts";
import { snapshotStates } from "./snapshot.ts";

describe("a volume", () => {
  it("is protected until somebody says otherwise", () => {
    assert.equal(protectionOf({}), "protected");
    assert.equal(protectionOf({ protection: "ending" }), "ending");
  });

  it("cannot spare copies of snapshots that have no backup", () => {
    const only = onlyOnPrimary(snapshotStates.map((state) => ({ state })));
    assert.deepEqual(
      only.map(({ state }) => state),
      ["Allocated", "Creating", "CreatedOnPrimary", "BackingUp", "Error"],
    );
  });
});
