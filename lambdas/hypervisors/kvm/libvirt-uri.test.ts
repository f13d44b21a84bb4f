import assert from "node:assert/strict";
import { it } from "node:test";
import { HypervisorMisconfigured } from "../../domain/errors.ts";
import { parseUri } from "./libvirt-uri.ts";

it("libvirt is looked for on its usual sockets, or on the one that is named", () => {
  const usual = ["/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"];
  assert.deepEqual(parseUri("qemu:///system"), { name: "qemu:///system", sockets: usual });
  const named = parseUri("qemu+unix:///system?socket=/tmp/a%20b/sock");
  assert.deepEqual(named, { name: "qemu:///system", sockets: ["/tmp/a b/sock"] });
  const session = parseUri("qemu+unix:///session?socket=/run/user/1000/libvirt/libvirt-sock");
  assert.equal(session.name, "qemu:///session");
});

it("other places are refused in words", () => {
  const others = [
    "",
    "qemu",
    "xen:///system",
    "qemu://host/system",
    "qemu+ssh://host/system",
    "qemu:///other",
    "qemu:///system#x",
    "qemu:///system?no_verify=1",
    "qemu:///session",
    "qemu:///system?socket=relative",
  ];
  for (const uri of others) assert.throws(() => parseUri(uri), HypervisorMisconfigured, uri);
});
