import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { idPattern } from "./ids.ts";
import { assignTenant, dedupDomain, volumeIdFor } from "./inventory.ts";

describe("the tenant of a discovered volume", () => {
  const hypervisor = {
    tenant: "acme",
    tenantRules: [
      { pattern: "b-*-data", tenant: "bolt" },
      { pattern: "web", tenant: "corp" },
    ],
  };

  it("is the hypervisor's own without rules", () => {
    assert.deepEqual(assignTenant({ tenant: "acme", tenantRules: [] }, "x"), { tenant: "acme", unassigned: false });
  });
  it("is that of the first rule that matches", () => {
    assert.deepEqual(assignTenant(hypervisor, "b-1-data"), { tenant: "bolt", unassigned: false });
    assert.deepEqual(assignTenant(hypervisor, "web"), { tenant: "corp", unassigned: false });
  });
  it("is unassigned when no rule matches", () => {
    for (const name of ["b-data", "webs", "b-1-dat", ""])
      assert.equal(assignTenant(hypervisor, name).unassigned, true, name);
  });
  it("matches as the equivalent regular expression does", () => {
    const text = fc.string({ unit: fc.constantFrom("a", "b", "*", "."), maxLength: 8 });
    fc.assert(
      fc.property(text, text, (pattern, name) => {
        const expected = new RegExp(`^${pattern.replaceAll(".", "\\.").replaceAll("*", ".*")}$`, "s").test(name);
        const rules = { tenant: "acme", tenantRules: [{ pattern, tenant: "bolt" }] };
        assert.equal(assignTenant(rules, name).tenant === "bolt", expected);
      }),
    );
  });
});

describe("ids that derive", () => {
  it("are the same for the same volume and different for others", () => {
    assert.equal(volumeIdFor("hyp_1", "a"), volumeIdFor("hyp_1", "a"));
    assert.notEqual(volumeIdFor("hyp_1", "a"), volumeIdFor("hyp_1", "b"));
    assert.match(volumeIdFor("hyp_1", "a"), idPattern("volume"));
  });
  it("keep tenants in domains of their own", () => {
    assert.notEqual(dedupDomain("acme", "vol_1"), dedupDomain("bolt", "vol_1"));
    assert.match(dedupDomain("acme", "vol_1"), /^[0-9a-f]{32}$/);
  });
});
