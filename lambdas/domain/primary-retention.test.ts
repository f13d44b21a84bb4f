import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { type CopyOnPrimary, primaryRetentions, superfluousCopies } from "./primary-retention.ts";
import { snapshotStates } from "./snapshot.ts";

const copy = (id: string, state: CopyOnPrimary["state"] = "BackedUp", storeId = "default") => ({ id, state, storeId });
const tracked = { retention: "reference", changeTracking: true } as const;
const idsOf = (copies: readonly CopyOnPrimary[]) => copies.map(({ id }) => id);

describe("copies on primary storage", () => {
  const three = [copy("3"), copy("2"), copy("1")];

  it("stay as the newest one of a hypervisor with change tracking; the oldest goes first", () => {
    assert.deepEqual(idsOf(superfluousCopies(three, tracked)), ["1", "2"]);
    assert.deepEqual(idsOf(superfluousCopies([copy("1")], tracked)), []);
  });

  it("are of no use to a hypervisor without", () => {
    assert.deepEqual(idsOf(superfluousCopies(three, { ...tracked, changeTracking: false })), ["1", "2", "3"]);
  });

  it("all go, or all stay, where the setting says so", () => {
    assert.deepEqual(idsOf(superfluousCopies(three, { ...tracked, retention: "false" })), ["1", "2", "3"]);
    assert.deepEqual(idsOf(superfluousCopies(three, { ...tracked, retention: "true" })), []);
  });

  it("are references for the store of their backup alone", () => {
    const copies = [copy("4", "BackedUp", "other"), copy("3"), copy("2", "BackedUp", "other"), copy("1")];
    assert.deepEqual(idsOf(superfluousCopies(copies, tracked)), ["1", "2"]);
  });

  it("of snapshots that are not backed up stay, and take no reference's place", () => {
    const copies = [copy("3", "BackingUp"), copy("2"), copy("1", "Error")];
    assert.deepEqual(idsOf(superfluousCopies(copies, tracked)), []);
  });

  it("go only of what is backed up, and each store keeps one", () => {
    const copies = fc.array(
      fc.record({
        id: fc.uuid(),
        state: fc.constantFrom(...snapshotStates),
        storeId: fc.constantFrom("default", "other"),
      }),
    );
    const rule = fc.record({ retention: fc.constantFrom(...primaryRetentions), changeTracking: fc.boolean() });
    fc.assert(
      fc.property(copies, rule, (ofVolume, { retention, changeTracking }) => {
        const gone = superfluousCopies(ofVolume, { retention, changeTracking });
        assert.ok(gone.every(({ state }) => state === "BackedUp"));
        const left = ofVolume.filter((one) => one.state === "BackedUp" && !gone.includes(one));
        const stores = new Set(ofVolume.flatMap(({ state, storeId }) => (state === "BackedUp" ? [storeId] : [])));
        if (retention === "reference") assert.equal(left.length, changeTracking ? stores.size : 0);
      }),
    );
  });
});
