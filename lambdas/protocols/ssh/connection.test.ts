import assert from "node:assert/strict";
import dns from "node:dns";
import { once } from "node:events";
import { syncBuiltinESMExports } from "node:module";
import { type AddressInfo, createServer } from "node:net";
import { after, before, describe, mock, test } from "node:test";
import ssh2, { type ServerChannel, type Session } from "ssh2";
import { hostKey, type SshPeer, startSshPeer, userKey } from "../../../test/support/ssh-peer.ts";
import { ForbiddenAddress } from "../egress/endpoint.ts";
import { SshConnection, type SshSettings } from "./connection.ts";
import {
  SshArgumentInvalid,
  SshConnectionLost,
  SshError,
  SshHostKeyMismatch,
  SshKeyRejected,
  SshKeyUnusable,
  SshOutputTooLong,
  SshProtocolError,
  SshRefused,
  SshTimedOut,
  SshUnreachable,
} from "./errors.ts";
import { fingerprint, keyType } from "./host-key.ts";
import { publicKeyOf } from "./known-hosts.ts";

function fingerprintOf(publicKey: string): string {
  return fingerprint(publicKeyOf(publicKey)!);
}

const found = fingerprintOf(hostKey.public);
const otherFingerprint = fingerprintOf(userKey.public);

/** Commands of the peer, by the first word: what they write and how they end. */
const commands: Record<string, (channel: ServerChannel) => void> = {
  "'echo'": (channel) => {
    channel.pipe(channel, { end: false });
    channel.stderr.write("warned");
    channel.on("end", () => {
      channel.exit(3);
      channel.end();
    });
  },
  "'flood'": (channel) => {
    channel.on("error", () => {});
    const write = () => channel.writable && channel.write(Buffer.alloc(30_000), write);
    write();
  },
  "'sleep'": (channel) => {
    channel.on("close", () => closedSleeps++);
    channel.resume();
  },
  "'killed'": (channel) => {
    (channel.exit as (signal: string) => void)("TERM");
    channel.end();
  },
};

let closedSleeps = 0;

function serveSession(session: Session): void {
  session.on("exec", (accept, reject, { command }) => {
    const run = commands[command.split(" ")[0]!];
    if (run) run(accept());
    else reject();
  });
}

let peer: SshPeer;
before(async () => {
  peer = await startSshPeer({
    session: serveSession,
    connection: (connection) => {
      connection.on("openssh.streamlocal", (accept, reject, { socketPath }) => {
        if (socketPath === "/silent.sock") return;
        if (socketPath !== "/echo.sock") return reject();
        const channel = accept();
        channel.pipe(channel);
      });
    },
  });
});
after(() => peer.close());

function settings(changes: Partial<SshSettings> = {}): SshSettings {
  return {
    host: "127.0.0.1",
    port: peer.port,
    user: "backup",
    privateKey: userKey.private,
    hostKeys: [found],
    allowedCidrs: ["127.0.0.1"],
    ...changes,
  };
}

async function withConnection(work: (connection: SshConnection) => Promise<void>): Promise<void> {
  const connection = await SshConnection.open(settings());
  try {
    await work(connection);
  } finally {
    await connection.close();
  }
}

describe("commands over SSH", () => {
  test("bring what they write and their code", () =>
    withConnection(async (connection) => {
      const result = await connection.exec(["echo", "x"], { input: "some\ninput" });
      assert.deepEqual(result, { code: 3, signal: undefined, stdout: "some\ninput", stderr: "warned" });
      assert.equal((await connection.exec(["echo"])).stdout, "");
    }));

  test("run side by side", () =>
    withConnection(async (connection) => {
      const inputs = ["a", "b", "c", "d"];
      const results = await Promise.all(inputs.map((input) => connection.exec(["echo"], { input })));
      assert.deepEqual(
        results.map(({ stdout }) => stdout),
        inputs,
      );
    }));

  test("that a signal ended have no code", () =>
    withConnection(async (connection) => {
      const { code, signal } = await connection.exec(["killed"]);
      assert.deepEqual([code, signal], [undefined, "SIGTERM"]);
    }));

  test("that take too long are let go of and told by name, without their arguments", () =>
    withConnection(async (connection) => {
      const before = closedSleeps;
      await assert.rejects(connection.exec(["sleep", "secret"], { timeoutMs: 50 }), (error) => {
        assert.ok(error instanceof SshTimedOut);
        assert.match(error.message, /^sleep on .* did not end within 50 ms/);
        assert.ok(!error.message.includes("secret"));
        return true;
      });
      await connection.exec(["echo"]);
      assert.equal(closedSleeps, before + 1);
    }));

  test("that write too much are stopped", () =>
    withConnection(async (connection) => {
      await assert.rejects(connection.exec(["flood"], { maxOutputBytes: 100_000 }), SshOutputTooLong);
      await connection.exec(["echo"]);
    }));

  test("that the server refuses are named", () =>
    withConnection(async (connection) => {
      await assert.rejects(connection.exec(["unknown"]), SshRefused);
      await assert.rejects(connection.exec(["a\0b"]), SshArgumentInvalid);
    }));
});

describe("sockets over SSH", () => {
  test("carry bytes in both directions", () =>
    withConnection(async (connection) => {
      const stream = await connection.openUnixSocket("/echo.sock");
      const sent = Buffer.alloc(3_000_000, "0123456789");
      stream.end(sent);
      assert.ok(Buffer.concat(await Array.fromAsync(stream)).equals(sent));
    }));

  test("that are not there are named", () =>
    withConnection(async (connection) => {
      await assert.rejects(connection.openUnixSocket("/gone.sock"), { name: "SshRefused", message: /gone\.sock/ });
      await assert.rejects(connection.openUnixSocket("/a\0b"), SshArgumentInvalid);
    }));
});

describe("a host with keys of several kinds", () => {
  const keys = [
    hostKey,
    ssh2.utils.generateKeyPairSync("ecdsa", { bits: 384 }),
    ssh2.utils.generateKeyPairSync("rsa", { bits: 2048 }),
  ];
  const registered = (lines: readonly string[]) => ({
    hostKeys: lines.map(fingerprintOf),
    hostKeyTypes: lines.map((line) => keyType(publicKeyOf(line)!)),
  });
  let host: SshPeer;
  before(async () => {
    host = await startSshPeer({ hostKeys: keys.map((key) => key.private) });
  });
  after(() => host.close());
  const open = async (changes: Partial<SshSettings>) =>
    (await SshConnection.open(settings({ port: host.port, ...changes }))).close();

  for (const key of keys)
    test(`is known by any one of them: ${key.public.split(" ")[0]}`, () => open(registered([key.public])));

  test("is asked for the usual kind first where nobody knows which kind is registered", async () => {
    const { hostKeys } = registered([keys[2]!.public]);
    await assert.rejects(open({ hostKeys }), { name: "SshHostKeyMismatch", found });
    await open({ hostKeys: [...hostKeys, found] });
  });

  test("that has no key of the registered kind is told by the key that it shows", async () => {
    const other = ssh2.utils.generateKeyPairSync("ecdsa", { bits: 256 }).public;
    await assert.rejects(open(registered([other])), { name: "SshHostKeyMismatch", found });
  });
});

describe("logins that fail", () => {
  async function failure(changes: Partial<SshSettings>): Promise<Error> {
    const opening = SshConnection.open(settings(changes));
    const error = await opening.then(
      (connection) => connection.close().then(() => assert.fail("It was opened.")),
      (thrown: unknown) => thrown,
    );
    assert.ok(error instanceof Error);
    assert.ok(!/PRIVATE|b3BlbnNzaC|open sesame/.test(`${error.message}${error.stack}${error.cause}`));
    return error;
  }

  test("another host key is told with both fingerprints", async () => {
    const error = await failure({ hostKeys: [otherFingerprint] });
    assert.ok(error instanceof SshHostKeyMismatch);
    assert.deepEqual([error.found, error.expected], [found, [otherFingerprint]]);
    assert.match(
      error.message,
      new RegExp(`it is ${found.replaceAll("+", "\\+")} \\(ssh-ed25519\\), registered: SHA256:`),
    );
  });

  test("an unknown host key is told and not accepted", async () => {
    const error = await failure({ hostKeys: [] });
    assert.ok(error instanceof SshHostKeyMismatch);
    assert.match(error.message, /none is registered/);
  });

  test("the fingerprint is as ssh-keygen shows it", () => {
    assert.equal(fingerprint(Buffer.alloc(0)), "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU");
  });

  test("a key that the server does not know", async () => {
    assert.ok((await failure({ privateKey: hostKey.private })) instanceof SshKeyRejected);
    assert.ok((await failure({ user: "other" })) instanceof SshKeyRejected);
  });

  test("a key that is none, or cannot be opened", async () => {
    const locked = ssh2.utils.generateKeyPairSync("ed25519", {
      cipher: "aes256-ctr",
      passphrase: "open sesame",
      rounds: 1,
    });
    assert.ok((await failure({ privateKey: "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA" })) instanceof SshKeyUnusable);
    assert.ok((await failure({ privateKey: userKey.public })) instanceof SshKeyUnusable);
    assert.ok((await failure({ privateKey: locked.private })) instanceof SshKeyUnusable);
    assert.ok((await failure({ privateKey: locked.private, passphrase: "wrong" })) instanceof SshKeyUnusable);
    assert.ok((await failure({ privateKey: locked.private, passphrase: "open sesame" })) instanceof SshKeyRejected);
  });

  test("nobody listens", async () => {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    server.close();
    await once(server, "close");
    const error = await failure({ port });
    assert.ok(error instanceof SshUnreachable);
    assert.match(error.message, /nothing listens/);
  });

  test("nobody knows the name", async () => {
    const unknown = Object.assign(new Error("getaddrinfo ENOTFOUND"), { code: "ENOTFOUND" });
    const fail = (_host: string, _options: object, done: (error: Error) => void) => done(unknown);
    const lookup = mock.method(dns, "lookup", fail as typeof dns.lookup);
    syncBuiltinESMExports();
    try {
      const error = await failure({ host: "no-such-host.invalid" });
      assert.ok(error instanceof SshUnreachable);
      assert.match(error.message, /the name is unknown/);
    } finally {
      lookup.mock.restore();
      syncBuiltinESMExports();
    }
  });

  test("addresses of the inside of the network are not called, by name or by number", async () => {
    assert.ok((await failure({ allowedCidrs: [] })) instanceof ForbiddenAddress);
    assert.ok((await failure({ host: "localhost", allowedCidrs: [] })) instanceof ForbiddenAddress);
  });

  async function withServer(
    answer: (write: (bytes: string) => void, end: () => void) => void,
    changes: Partial<SshSettings> = {},
  ) {
    const server = createServer((socket) => {
      socket.on("error", () => {});
      answer(
        (bytes) => socket.write(bytes),
        () => socket.destroy(),
      );
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    try {
      return await failure({ port: (server.address() as AddressInfo).port, ...changes });
    } finally {
      server.close();
    }
  }

  test("a server that is silent", async () => {
    assert.ok((await withServer(() => {}, { connectTimeoutMs: 60 })) instanceof SshTimedOut);
    assert.ok(
      (await withServer((write) => write("SSH-2.0-quiet\r\n"), { connectTimeoutMs: 60 })) instanceof SshTimedOut,
    );
  });

  test("a login that is never answered", async () => {
    const silent = await startSshPeer({ login: () => {} });
    try {
      assert.ok((await failure({ port: silent.port, connectTimeoutMs: 400 })) instanceof SshTimedOut);
    } finally {
      await silent.close();
    }
  });

  test("a server that hangs up, as one with too many logins does, may be there the next time", async () => {
    for (const bytes of ["", "Exceeded MaxStartups\r\n"]) {
      const error = await withServer((write, end) => {
        write(bytes);
        setImmediate(end);
      });
      assert.ok(error instanceof SshConnectionLost, String(error));
    }
  });

  test("a server of another protocol, or one that hangs up", async () => {
    assert.ok((await withServer((write) => write("SSH-1.5-old\r\n"))) instanceof SshProtocolError);
    for (const bytes of [
      "HTTP/1.1 400 Bad Request\r\n\r\n",
      "SSH-2.0-x\r\n\0\0\0\x0c\x0a\x14garbage-garbage-garbage",
      "",
    ]) {
      const error = await withServer((write, end) => {
        write(bytes);
        setTimeout(end, 30);
      });
      assert.ok(error instanceof SshError && !(error instanceof SshTimedOut), error.message);
    }
  });
});

describe("connections that break", () => {
  test("end everything that runs over them, by name", async () => {
    const connection = await SshConnection.open(settings());
    const stream = await connection.openUnixSocket("/echo.sock");
    const running = connection.exec(["sleep"]);
    const opening = connection.openUnixSocket("/silent.sock");
    const closed = once(stream.resume(), "close");
    const broken = Promise.all([
      assert.rejects(running, SshConnectionLost),
      assert.rejects(opening, SshConnectionLost),
      closed,
    ]);
    await connection.exec(["echo"]);
    peer.drop();
    await broken;
    assert.ok(connection.closed);
    await assert.rejects(connection.exec(["echo"]), SshConnectionLost);
    await assert.rejects(connection.openUnixSocket("/echo.sock"), SshConnectionLost);
    await connection.close();
  });

  test("are closed without a failure when the server has reset them meanwhile", async () => {
    const connection = await SshConnection.open(settings());
    await connection.exec(["echo"]);
    peer.reset();
    await connection.close();
    assert.ok(connection.closed);
  });

  test("are closed in time when the server is silent", async () => {
    const connection = await SshConnection.open(settings());
    await connection.exec(["echo"]);
    peer.silence();
    mock.timers.enable({ apis: ["setTimeout"] });
    try {
      const closing = connection.close();
      mock.timers.tick(2_000);
      await closing;
    } finally {
      mock.timers.reset();
      peer.drop();
    }
  });
});
