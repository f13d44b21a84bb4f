import assert from "node:assert/strict";
import { once } from "node:events";
import { after, afterEach, before, beforeEach, describe, mock, test } from "node:test";
import { hostKey, type SshPeer, startSshPeer, userKey } from "../../../test/support/ssh-peer.ts";
import { openNbd } from "../../protocols/nbd/connection.ts";
import { NbdProtocolError } from "../../protocols/nbd/errors.ts";
import { fingerprint } from "../../protocols/ssh/host-key.ts";
import { publicKeyOf } from "../../protocols/ssh/known-hosts.ts";
import { KvmHost } from "./host.ts";

/** Longer than a connection is trusted that nobody used. */
const longIdleMs = 16_000;

describe("a host that was not called for a while", () => {
  let peer: SshPeer;
  let host: KvmHost;

  before(async () => {
    peer = await startSshPeer({
      session: (session) =>
        session.on("exec", (accept) => {
          const channel = accept();
          channel.exit(0);
          channel.end();
        }),
      connection: (connection) => {
        connection.on("openssh.streamlocal", (accept) => accept().write("this is no NBD server, whatever it may be"));
      },
    });
  });
  after(() => peer.close());

  beforeEach(() => {
    mock.timers.enable({ apis: ["Date"], now: Date.now() });
    host = new KvmHost({
      endpoint: { host: "127.0.0.1", port: peer.port, user: "backup" },
      hostKeys: [fingerprint(publicKeyOf(hostKey.public)!)],
      uri: "qemu:///system",
      privateKey: async () => userKey.private,
      allowedCidrs: ["127.0.0.1"],
      owner: "hyp_1-acme",
    });
  });
  afterEach(async () => {
    mock.timers.reset();
    await host.close();
  });

  test("is reached over another connection, also when it has reset the first one", async () => {
    await host.run(["true"]);
    const before = peer.connections();
    mock.timers.tick(longIdleMs);
    peer.reset();
    await host.run(["true"]);
    assert.equal(peer.connections(), before + 1);
  });

  test("is reached over another connection, also after a socket that did not speak NBD", async () => {
    const socket = await host.openUnixSocket("/nbd.sock");
    const closed = once(socket, "close");
    await assert.rejects(openNbd(socket), NbdProtocolError);
    await closed;
    const before = peer.connections();
    mock.timers.tick(longIdleMs);
    await host.run(["true"]);
    assert.equal(peer.connections(), before + 1);
  });
});
