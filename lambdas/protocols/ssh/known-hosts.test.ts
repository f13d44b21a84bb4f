import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { describe, it } from "node:test";
import fc from "fast-check";
import ssh2 from "ssh2";
import { knownKeysOf, publicKeyOf } from "./known-hosts.ts";

const keys = Array.from({ length: 4 }, () => ssh2.utils.generateKeyPairSync("ed25519").public);
const [own = "", other = "", third = "", fourth = ""] = keys;

/** As `ssh-keygen -H` writes a name. */
function hashed(name: string): string {
  const salt = Buffer.from("0123456789abcdefghij");
  return `|1|${salt.toString("base64")}|${createHmac("sha1", salt).update(name).digest("base64")}`;
}

const found = (text: string, host: string, port = 22) =>
  knownKeysOf(text, { host, port }).map((key) => keys.findIndex((line) => publicKeyOf(line)?.equals(key)));

describe("a public key", () => {
  it("is the second field of its line", () => {
    const rsa = ssh2.utils.generateKeyPairSync("rsa", { bits: 2048 }).public;
    for (const line of [own, `${own} root@kvm1`, `  ${own}\r`, rsa])
      assert.deepEqual(publicKeyOf(line)?.toString("base64"), line.trim().split(" ")[1]);
  });

  it("is of the kind that the line says, and of one that is accepted", () => {
    const [, base64] = own.split(" ");
    for (const line of [
      "",
      "ssh-ed25519",
      `ssh-rsa ${base64}`,
      `ssh-dss ${base64}`,
      "ssh-ed25519 AAAA",
      "ssh-ed25519 ü",
    ])
      assert.equal(publicKeyOf(line), undefined, line);
    assert.equal(publicKeyOf(ssh2.utils.generateKeyPairSync("ed25519").private), undefined);
  });
});

describe("known_hosts", () => {
  it("has keys of a host by its name, among others, hashed, and by a pattern", () => {
    const text = [
      `# kvm1 ${fourth}`,
      `kvm1,10.0.0.1 ${own}`,
      `${hashed("kvm1")} ${other}`,
      `kvm? ${third} a comment`,
      `kvm11 ${fourth}`,
      "kvm1 no key at all",
      "kvm1",
      "",
    ].join("\n");
    assert.deepEqual(found(text, "KVM1"), [0, 1, 2]);
    assert.deepEqual(found(text, "10.0.0.1"), [0]);
    assert.deepEqual(found(text, "kvm"), []);
  });

  it("names hosts in any case, and the usual port or none", () => {
    assert.deepEqual(found(`KVM1.Example.org ${own}\n[kvm1.example.org]:22 ${other}`, "kvm1.example.org"), [0, 1]);
  });

  it("tells a host on another port apart", () => {
    const text = [`kvm1 ${own}`, `[kvm1]:2222 ${other}`, `${hashed("[kvm1]:2222")} ${third}`].join("\r\n");
    assert.deepEqual(found(text, "kvm1"), [0]);
    assert.deepEqual(found(text, "kvm1", 2222), [1, 2]);
    assert.deepEqual(found(text, "kvm1", 2223), []);
  });

  it("has no key that it calls revoked, takes hosts out, and no authority for a host", () => {
    const text = [
      `*.example.org,!kvm2.example.org ${own}`,
      `@revoked * ${other}`,
      `kvm1.example.org ${other}`,
      `@cert-authority *.example.org ${third}`,
    ].join("\n");
    assert.deepEqual(found(text, "kvm1.example.org"), [0]);
    assert.deepEqual(found(text, "kvm2.example.org"), []);
  });

  it("is read whatever it holds, in no time", { timeout: 10_000 }, () => {
    fc.assert(fc.property(fc.string(), fc.string(), (text, host) => found(`${text} ${own}`, host).length <= 1));
    assert.deepEqual(found(`${"*a".repeat(5000)} ${own}`, "a".repeat(4000)), []);
  });
});
