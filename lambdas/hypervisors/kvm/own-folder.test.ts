import assert from "node:assert/strict";
import { it } from "node:test";
import { HypervisorMisconfigured } from "../../domain/errors.ts";
import { assertShortEnough, ownFolderPath } from "./own-folder.ts";

it("registrations have folders of their own, the same each time", () => {
  assert.match(ownFolderPath("hyp_1-acme"), /^\.snapferry\/[0-9a-f]{12}$/);
  assert.equal(ownFolderPath("hyp_1-acme"), ownFolderPath("hyp_1-acme"));
  assert.notEqual(ownFolderPath("hyp_1-acme"), ownFolderPath("hyp_1-other"));
});

it("a home that leaves no room for the path of a socket is refused", () => {
  const folder = (homeBytes: number) => `/${"h".repeat(homeBytes - 1)}/${ownFolderPath("hyp_1")}`;
  assertShortEnough(folder(38));
  assert.equal(`${folder(38)}/exports/snap_${"0".repeat(26)}/sock`.length, 107);
  assert.throws(() => assertShortEnough(folder(39)), HypervisorMisconfigured);
});
