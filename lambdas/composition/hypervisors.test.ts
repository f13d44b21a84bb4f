import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, beforeEach, describe, it } from "node:test";
import { setImmediate } from "node:timers/promises";
import ssh2 from "ssh2";
import { MemoryDatabase } from "../../test/support/memory-database.ts";
import { answerSecrets } from "../../test/support/secrets-manager.ts";
import { hostKey, type SshPeer, startSshPeer, userKey } from "../../test/support/ssh-peer.ts";
import {
  EndpointForbidden,
  HypervisorFailed,
  HypervisorMisconfigured,
  HypervisorUnavailable,
  PathOutsideDirectory,
  SecretUnusable,
} from "../domain/errors.ts";
import type { KvmHypervisorSettings } from "../domain/inventory.ts";
import type { Hypervisor } from "../hypervisors/port.ts";
import { fingerprint } from "../protocols/ssh/host-key.ts";
import { publicKeyOf } from "../protocols/ssh/known-hosts.ts";
import { hypervisorOf, openHypervisor } from "./hypervisors.ts";

describe("the directories that a tenant may register", () => {
  let root: string;
  before(async () => {
    root = await mkdtemp(path.join(tmpdir(), "snapferry-roots-"));
    for (const tenant of ["acme", "bolt"]) await mkdir(path.join(root, tenant, "volumes"), { recursive: true });
    process.env.FILE_ROOTS = path.join(root, "{tenant}");
  });
  after(async () => {
    delete process.env.FILE_ROOTS;
    await rm(root, { recursive: true });
  });
  const check = async (tenant: string, owner: string) => {
    const settings = { kind: "file", directory: path.join(root, owner, "volumes") } as const;
    return (await hypervisorOf({ tenant, id: "hyp_1", settings })).check();
  };

  it("are its own where file.roots says {tenant}", async () => {
    await check("acme", "acme");
    await assert.rejects(
      check("acme", "bolt"),
      (error) => error instanceof HypervisorMisconfigured || error instanceof PathOutsideDirectory,
    );
  });
});

describe("a KVM host", () => {
  const secrets = new Map<string, string>();
  let reads = 0;
  let host: SshPeer;

  before(async () => {
    await answerSecrets((secretId) => {
      const text = secrets.get(secretId);
      reads++;
      return text === undefined
        ? { status: 400, body: { __type: "ResourceNotFoundException" } }
        : { status: 200, body: { SecretString: text } };
    });
    host = await startSshPeer({ session: (session) => session.on("exec", (_, reject) => reject()) });
  });
  beforeEach(() => {
    process.env.ALLOWED_CIDRS = "127.0.0.0/8";
    secrets.clear();
    secrets.set("snapferry/acme/kvm1", userKey.private.trimEnd());
  });
  after(async () => {
    delete process.env.ALLOWED_CIDRS;
    await host.close();
  });

  const settings = (changes: Partial<KvmHypervisorSettings> = {}): KvmHypervisorSettings => ({
    kind: "kvm",
    endpoint: `ssh://backup@127.0.0.1:${host.port}`,
    hostKeys: [fingerprint(publicKeyOf(hostKey.public)!)],
    secretId: "snapferry/acme/kvm1",
    uri: "qemu:///system",
    ...changes,
  });
  const memory = new MemoryDatabase();
  const register = (changes: Partial<KvmHypervisorSettings> = {}) =>
    memory.put("hypervisors", { tenant: "acme", id: "hyp_1", settings: settings(changes) });
  const open = () => openHypervisor(memory.database, "acme", "hyp_1");
  /** The host of these tests takes logins, and refuses to run anything. */
  const failureOf = async (hypervisor: Hypervisor | Promise<Hypervisor>) =>
    (await hypervisor).check().then(
      () => assert.fail("it can be used"),
      (error: unknown) => error,
    );
  const failureWith = async (changes: Partial<KvmHypervisorSettings>) => {
    const hypervisor = await hypervisorOf({ tenant: "acme", id: "hyp_1", settings: settings(changes) });
    return failureOf(hypervisor).finally(() => hypervisor.close?.());
  };

  it("keeps its adapter and its connection until its settings change, or it is forgotten", async () => {
    register();
    const first = await open();
    const before = host.connections();
    for (let call = 0; call < 3; call++) await failureOf(open());
    assert.equal(host.connections(), before + 1);
    assert.equal(await open(), first);

    register({ uri: "qemu+unix:///system?socket=/run/other" });
    const second = await open();
    assert.notEqual(second, first);
    for (const end = Date.now() + 10_000; host.connected() > 0 && Date.now() < end; ) await setImmediate();
    assert.equal(host.connected(), 0, "the first one's connection is closed");
    await failureOf(second);
    assert.equal(host.connections(), before + 2);

    memory.put("hypervisors", { tenant: "bolt", id: "hyp_1", settings: settings() });
    assert.notEqual(await openHypervisor(memory.database, "bolt", "hyp_1"), second);
    assert.equal(await open(), second);

    const forgotten = new MemoryDatabase();
    await assert.rejects(openHypervisor(forgotten.database, "acme", "hyp_1"), HypervisorMisconfigured);
    assert.notEqual(await open(), second);
  });

  it("is asked for its key again by each connection, so that a rotated one is taken up", async () => {
    register();
    const hypervisor = await open();
    secrets.set("snapferry/acme/kvm1", ssh2.utils.generateKeyPairSync("ed25519").private);
    const refused = await failureOf(hypervisor);
    assert.ok(
      refused instanceof HypervisorMisconfigured && /does not take the key/.test(refused.message),
      `${refused}`,
    );
    secrets.set("snapferry/acme/kvm1", userKey.private);
    const before = reads;
    const after = await failureOf(hypervisor);
    assert.ok(!/does not take the key/.test(String(after)), `${after}`);
    assert.equal(reads, before + 1);
    await hypervisor.close?.();
  });

  it("is asked for a key of the registered kind, which may be the lesser one of two", async () => {
    const rsa = ssh2.utils.generateKeyPairSync("rsa", { bits: 2048 });
    const both = await startSshPeer({
      hostKeys: [hostKey.private, rsa.private],
      session: (session) => session.on("exec", (_, reject) => reject()),
    });
    const registered = {
      endpoint: `ssh://backup@127.0.0.1:${both.port}`,
      hostKeys: [fingerprint(publicKeyOf(rsa.public)!)],
    };
    try {
      const entered = await failureWith({ ...registered, hostKeyTypes: ["ssh-rsa"] });
      assert.ok(entered instanceof HypervisorFailed, String(entered));
      const ofBefore = await failureWith(registered);
      assert.ok(ofBefore instanceof HypervisorMisconfigured && /host key/.test(ofBefore.message), String(ofBefore));
    } finally {
      await both.close();
    }
  });

  it("that nobody answers at may answer later", async () => {
    const unreachable = await failureWith({ endpoint: "ssh://backup@127.0.0.1:1" });
    assert.ok(unreachable instanceof HypervisorUnavailable, String(unreachable));
  });

  it("is not called at an address inside the network that nobody has allowed", async () => {
    process.env.ALLOWED_CIDRS = "10.0.0.0/8";
    const before = host.connections();
    assert.ok((await failureWith({})) instanceof EndpointForbidden);
    assert.equal(host.connections(), before);
  });

  for (const [what, secretId, text, words] of [
    ["that is not there", "snapferry/acme/none", undefined, /^there is no secret snapferry\/acme\/none$/],
    ["of another tenant", "snapferry/bolt/kvm1", userKey.private, /is not one of acme/],
    ["that is JSON", "snapferry/acme/kvm1", '{"privateKey":"x"}', /must be a private key in OpenSSH's format or PEM/],
    ["that is a public key", "snapferry/acme/kvm1", userKey.public, /must be a private key/],
    [
      "with a passphrase",
      "snapferry/acme/kvm1",
      ssh2.utils.generateKeyPairSync("ed25519", { passphrase: "x", cipher: "aes256-cbc", rounds: 1 }).private,
      /[Ee]ncrypted/,
    ],
  ] as const)
    it(`has no use for a secret ${what}, and no message shows it`, async () => {
      if (text !== undefined) secrets.set(secretId, text);
      const error = await failureWith({ secretId });
      assert.ok(error instanceof SecretUnusable, String(error));
      assert.match(error.message, words);
      if (text !== undefined) assert.ok(!error.message.includes(text.slice(0, 20)));
    });
});
