import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { after, describe, test } from "node:test";
import ssh2, { type Client, type Connection } from "ssh2";
import { startSshPeer, userKey } from "../../../test/support/ssh-peer.ts";
import { useKeyObjects } from "./session-keys.ts";

const connections: Connection[] = [];
const peer = await startSshPeer({
  connection: (connection) => connections.push(connection),
  session: (session) =>
    session.on("exec", (accept) => {
      const channel = accept();
      channel.pipe(channel);
    }),
});
after(() => peer.close());

async function connect(cipher: "aes128-gcm@openssh.com" | "chacha20-poly1305@openssh.com"): Promise<Client> {
  const client = new ssh2.Client();
  useKeyObjects(client);
  const ready = once(client, "ready");
  client.connect({
    host: "127.0.0.1",
    port: peer.port,
    username: "backup",
    privateKey: userKey.private,
    algorithms: { cipher: [cipher] },
  });
  await ready;
  return client;
}

async function close(client: Client): Promise<void> {
  const closed = once(client, "close");
  client.end();
  await closed;
}

async function echoed(client: Client, bytes: Buffer): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  client.exec("echo", (error, channel) => {
    if (error) return reject(error);
    const parts: Buffer[] = [];
    channel.on("data", (part: Buffer) => parts.push(part)).on("end", () => resolve(Buffer.concat(parts)));
    channel.end(bytes);
  });
  return promise;
}

/** What ssh2 gives to Node for each packet. */
function keys(client: Client): unknown[] {
  const { _protocol: protocol } = client as unknown as {
    _protocol: { _decipher: { _decipherKey: unknown }; _cipher: { _encKey: unknown } };
  };
  return [protocol._decipher._decipherKey, protocol._cipher._encKey];
}

describe("keys of a session", () => {
  test("are objects with AES-GCM, also after keys were exchanged anew", async () => {
    const client = await connect("aes128-gcm@openssh.com");
    const bytes = randomBytes(1_000_000);
    assert.deepEqual(keys(client).map(String), ["[object KeyObject]", "[object KeyObject]"]);
    assert.ok((await echoed(client, bytes)).equals(bytes));
    const before = keys(client);
    await new Promise<void>((resolve) => connections.at(-1)!.rekey(resolve));
    assert.ok((await echoed(client, bytes)).equals(bytes));
    assert.deepEqual(keys(client).map(String), ["[object KeyObject]", "[object KeyObject]"]);
    assert.notEqual(keys(client)[0], before[0]);
    await close(client);
  });

  test("of another cipher are left alone", async () => {
    const client = await connect("chacha20-poly1305@openssh.com");
    const bytes = randomBytes(100_000);
    assert.ok((await echoed(client, bytes)).equals(bytes));
    await close(client);
  });
});
