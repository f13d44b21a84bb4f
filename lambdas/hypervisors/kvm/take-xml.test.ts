import assert from "node:assert/strict";
import { it } from "node:test";
import { snapshotXml } from "./take-xml.ts";

it("the wanted disks get an overlay, all others are left out by name", () => {
  const xml = snapshotXml(["vda", "vdb"], new Map([["vdb", '/pool/it\'s <a> & "b".qcow2']]));
  assert.equal(
    xml,
    '<domainsnapshot><disks><disk name="vda" snapshot="no"/><disk name="vdb" snapshot="external" type="file"><driver type="qcow2"/><source file="/pool/it\'s &lt;a&gt; &amp; &quot;b&quot;.qcow2"/></disk></disks></domainsnapshot>',
  );
});
