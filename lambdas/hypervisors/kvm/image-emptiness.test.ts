import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { holdsNothing, holdsNothingOnTop } from "./image-emptiness.ts";

describe("an overlay holds nothing", () => {
  it("if no extent of it is there, zeros neither", () => {
    assert.equal(holdsNothing([{ depth: 0, present: false }]), true);
    assert.equal(holdsNothing([]), true);
    assert.equal(
      holdsNothing([
        { depth: 0, present: false },
        { depth: 0, present: true },
      ]),
      false,
    );
  });

  it("if nothing of its chain is on top, where QEMU does not say what is there", () => {
    assert.equal(holdsNothing([{ depth: 0 }]), undefined);
    assert.equal(holdsNothingOnTop([{ depth: 1 }, { depth: 2 }]), true);
    assert.equal(holdsNothingOnTop([{ depth: 1 }, { depth: 0 }]), false);
  });
});
