import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { parseSshEndpoint, sshEndpointText } from "./ssh-endpoint.ts";

describe("an SSH endpoint", () => {
  for (const [text, parts] of [
    ["ssh://backup@kvm1.example.org:2222", { user: "backup", host: "kvm1.example.org", port: 2222 }],
    ["ssh://root@10.1.2.3", { user: "root", host: "10.1.2.3", port: 22 }],
    ["ssh://root@[fd00::5]:22", { user: "root", host: "fd00::5", port: 22 }],
    ["ssh://snap.ferry_1@KVM-1/", { user: "snap.ferry_1", host: "kvm-1", port: 22 }],
  ] as const)
    it(`may be ${text}`, () => assert.deepEqual(parseSshEndpoint(text), parts));

  for (const text of [
    "",
    "kvm1",
    "ssh://kvm1",
    "ssh://@kvm1",
    "ssh://root:secret@kvm1",
    "ssh://root@kvm1:0",
    "ssh://root@kvm1:65536",
    "ssh://root@kvm1:",
    "ssh://root@kvm1/srv",
    "ssh://root@kvm1?x=1",
    "ssh://-oProxyCommand=x@kvm1",
    "ssh://root@-kvm1",
    "ssh://root@kvm..1",
    "ssh://root@1.2.3",
    "ssh://root@fd00::5",
    "ssh://root@[kvm1]",
    "ssh://root@[fe80::1%eth0]",
    "ssh://root@kvm 1",
    "ssh://root@kvm1\n",
    "http://root@kvm1",
  ])
    it(`is not ${JSON.stringify(text)}`, () => assert.equal(parseSshEndpoint(text), undefined));

  it("is the same when it was written out and read again", () => {
    const host = fc.oneof(
      fc.domain(),
      fc.ipV4(),
      fc.ipV6().map((ip) => ip.toLowerCase()),
    );
    const user = fc.stringMatching(/^[a-z_][a-z0-9_.-]{0,31}$/);
    fc.assert(
      fc.property(host, fc.integer({ min: 1, max: 65_535 }), user, (name, port, login) => {
        const endpoint = { host: name.toLowerCase(), port, user: login };
        assert.deepEqual(parseSshEndpoint(sshEndpointText(endpoint)), endpoint);
      }),
    );
  });

  it("is told for any text without a fault", () => {
    fc.assert(fc.property(fc.string(), (text) => void parseSshEndpoint(`ssh://${text}`)));
  });
});
