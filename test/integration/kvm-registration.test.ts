import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { CreateSecretCommand } from "@aws-sdk/client-secrets-manager";
import ssh2 from "ssh2";
import { cloud, type TestCloud } from "../support/cloud.ts";
import { hostKey, type SshPeer, startSshPeer, userKey } from "../support/ssh-peer.ts";

const stranger = ssh2.utils.generateKeyPairSync("ed25519");

describe("the registration of a KVM host, from the deployed function", () => {
  let test: TestCloud;
  let host: SshPeer;
  before(async () => {
    test = await cloud();
    host = await startSshPeer();
    for (const [name, SecretString] of [
      ["registered", userKey.private],
      ["strange", stranger.private],
    ])
      await test.clients.secrets.send(new CreateSecretCommand({ Name: `snapferry/registrar/${name}`, SecretString }));
  });
  after(() => host?.close());

  const register = (changes: object) =>
    test.call("POST", "/hypervisors", {
      tenant: "registrar",
      role: "admin",
      body: {
        kind: "kvm",
        endpoint: `ssh://backup@127.0.0.1:${host.port}`,
        hostKey: hostKey.public,
        secretId: "snapferry/registrar/registered",
        ...changes,
      },
    });

  for (const [what, changes, pointer, words] of [
    ["nobody answers", { endpoint: "ssh://backup@127.0.0.1:1" }, "/endpoint", /nothing listens on the port/],
    ["has no address", { endpoint: "ssh://backup@no-such-host.invalid" }, "/endpoint", /the name is unknown/],
    ["is in a network that nobody has allowed", { endpoint: "ssh://backup@10.0.0.1" }, "/endpoint", /not a public/],
    ["shows another key", { hostKey: stranger.public }, "/hostKey", /host key of .* is not known/],
    ["shows another key", { hostKey: undefined, knownHosts: "" }, "/knownHosts", /has no key|must not be empty/],
    ["does not take the key", { secretId: "snapferry/registrar/strange" }, "/secretId", /does not take the key/],
    ["has no secret", { secretId: "snapferry/registrar/none" }, "/secretId", /there is no secret/],
    ["has the secret of another tenant", { secretId: "snapferry/acme/x" }, "/secretId", /snapferry\/registrar\//],
  ] as const)
    it(`names ${pointer} where it ${what}`, async () => {
      const { status, body } = await register(changes);
      assert.equal(status, 400, JSON.stringify(body));
      assert.equal(body.errors.length, 1);
      assert.equal(body.errors[0].pointer, pointer);
      assert.match(body.errors[0].detail, words);
      assert.ok(!JSON.stringify(body).includes("PRIVATE KEY"));
    });
});
