import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { Reconnecting } from "../../lambdas/hypervisors/kvm/reconnecting.ts";
import { openNbd } from "../../lambdas/protocols/nbd/connection.ts";
import { NbdConnectionLost } from "../../lambdas/protocols/nbd/errors.ts";
import { NbdPool } from "../../lambdas/protocols/nbd/pool.ts";
import { SshConnection, type SshSettings } from "../../lambdas/protocols/ssh/connection.ts";
import {
  SshConnectionLost,
  SshHostKeyMismatch,
  SshKeyRejected,
  SshProtocolError,
  SshRefused,
  SshTimedOut,
} from "../../lambdas/protocols/ssh/errors.ts";
import { fingerprint, keyType } from "../../lambdas/protocols/ssh/host-key.ts";
import { publicKeyOf } from "../../lambdas/protocols/ssh/known-hosts.ts";
import { run, workFolder } from "../../local/kvm-host/processes.ts";
import { type Sshd, type SshdOptions, startSshd } from "../../local/kvm-host/sshd.ts";
import { startQemuNbd } from "./nbd-servers.ts";

const folder = workFolder();
const sshd = await startSshd(folder);
after(async () => {
  await sshd.stop();
  folder.remove();
});

function settingsFor(server: Sshd, changes: Partial<SshSettings> = {}): SshSettings {
  return {
    host: "127.0.0.1",
    port: server.port,
    user: "root",
    privateKey: server.userKey,
    hostKeys: [server.fingerprint],
    allowedCidrs: ["127.0.0.1"],
    ...changes,
  };
}

async function withConnection(work: (connection: SshConnection) => Promise<void>, server = sshd): Promise<void> {
  const connection = await SshConnection.open(settingsFor(server));
  try {
    await work(connection);
  } finally {
    await connection.close();
  }
}

async function withSshd(options: SshdOptions, work: (server: Sshd) => Promise<void>): Promise<void> {
  const server = await startSshd(folder, options);
  try {
    await work(server);
  } finally {
    await server.stop();
  }
}

describe("OpenSSH", () => {
  test("commands get exactly their arguments, their input, and give their code", () =>
    withConnection(async (connection) => {
      const args = ["it's", `"$HOME" \`id\` \\ *`, "", "two\nlines", "-n", "é\u{1f600}"];
      const echoed = await connection.exec(["printf", "%s\\377", ...args]);
      assert.equal(echoed.code, 0);
      const { stdout } = await connection.exec(["sh", "-c", 'for a; do printf "<%s>" "$a"; done', "sh", ...args]);
      assert.equal(stdout, args.map((arg) => `<${arg}>`).join(""));
      const input = randomBytes(300_000).toString("base64");
      assert.equal((await connection.exec(["cat"], { input })).stdout, input);
      const failed = await connection.exec(["sh", "-c", "echo no >&2; exit 7"]);
      assert.deepEqual(failed, { code: 7, signal: undefined, stdout: "", stderr: "no\n" });
      assert.equal((await connection.exec(["sh", "-c", "kill -9 $$"])).signal, "SIGKILL");
      assert.equal((await connection.exec(["no-such-command"])).code, 127);
    }));

  test("commands run side by side, and one that takes too long is let go of", () =>
    withConnection(async (connection) => {
      const numbers = [1, 2, 3, 4, 5];
      const results = await Promise.all(numbers.map((number) => connection.exec(["echo", `${number}`])));
      assert.deepEqual(
        results.map(({ stdout }) => stdout.trim()),
        numbers.map(String),
      );
      await assert.rejects(connection.exec(["sleep", "5"], { timeoutMs: 100 }), SshTimedOut);
      await connection.exec(["true"]);
    }));

  test("host keys of every kind are compared", async () => {
    for (const hostKeyType of ["ed25519", "ecdsa", "rsa"]) {
      await withSshd({ hostKeyType }, async (server) => {
        await withConnection(async () => {}, server);
        const wrong = settingsFor(server, { hostKeys: ["SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"] });
        await assert.rejects(SshConnection.open(wrong), (error) => {
          assert.ok(error instanceof SshHostKeyMismatch);
          assert.equal(error.found, server.fingerprint);
          return true;
        });
      });
    }
  });

  test("a host with keys of three kinds is known by any one of them", async () => {
    const [ecdsa, rsa] = ["ecdsa", "rsa"].map((type) => folder.file(`host-${type}`)) as [string, string];
    run("ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", ecdsa);
    run("ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", rsa);
    await withSshd({ settings: [`HostKey ${ecdsa}`, `HostKey ${rsa}`] }, async (server) => {
      for (const file of [join(server.home, "host"), ecdsa, rsa]) {
        const key = publicKeyOf(readFileSync(`${file}.pub`, "utf8"))!;
        const registered = { hostKeys: [fingerprint(key)], hostKeyTypes: [keyType(key)] };
        await (await SshConnection.open(settingsFor(server, registered))).close();
      }
    });
  });

  test("another key is refused by name, and so is a server of old algorithms only", async () => {
    await withSshd({}, async (other) => {
      await assert.rejects(SshConnection.open(settingsFor(sshd, { privateKey: other.userKey })), SshKeyRejected);
    });
    await withSshd({ settings: ["Ciphers aes128-ctr", "MACs hmac-sha1"] }, async (old) => {
      await assert.rejects(SshConnection.open(settingsFor(old)), SshProtocolError);
    });
  });

  test("the key can be held to one command and to named sockets", async () => {
    const socket = folder.file("allowed.sock");
    const image = folder.file("locked.raw");
    writeFileSync(image, randomBytes(100_000));
    const nbd = await startQemuNbd(socket, image, ["--read-only", "--format=raw"]);
    const keyOptions = `restrict,port-forwarding,permitopen="[${socket}]:*",command="echo only this: $SSH_ORIGINAL_COMMAND"`;
    await withSshd({ keyOptions }, async (server) => {
      await withConnection(async (connection) => {
        assert.equal((await connection.exec(["rm", "-rf", "/x y"])).stdout, "only this: 'rm' '-rf' '/x y'\n");
        const opened = await openNbd(await connection.openUnixSocket(socket));
        await opened.close();
        await assert.rejects(connection.openUnixSocket(folder.file("other.sock")), SshRefused);
      }, server);
    });
    await nbd.stop();
  });

  test("a forbidden or missing socket is refused by name", async () => {
    await withConnection((connection) =>
      assert.rejects(connection.openUnixSocket(folder.file("gone.sock")), SshRefused),
    );
    await withSshd({ settings: ["AllowStreamLocalForwarding no"] }, (server) =>
      withConnection((connection) => assert.rejects(connection.openUnixSocket("/x.sock"), SshRefused), server),
    );
  });
});

describe("NBD through SSH", () => {
  const size = 64 * 1024 * 1024;
  const image = folder.file("disk.raw");
  const content = randomBytes(size);
  writeFileSync(image, content);
  const socket = folder.file("disk.sock");

  test("a volume is read over several channels of one connection", async () => {
    const nbd = await startQemuNbd(socket, image, ["--read-only", "--shared=8", "--format=raw"]);
    await withConnection(async (connection) => {
      const pool = await NbdPool.open(() => connection.openUnixSocket(socket), { connections: 4 });
      const target = Buffer.alloc(size);
      const piece = 1024 * 1024;
      await Promise.all(
        Array.from({ length: size / piece }, (_, index) =>
          pool.read(target.subarray(index * piece, (index + 1) * piece), index * piece),
        ),
      );
      assert.ok(target.equals(content));
      await pool.close();
    });
    await nbd.stop();
  });

  test("a connection that is cut ends every request by name, and the host is reached anew", async () => {
    const own = `${socket}.cut`;
    const nbd = await startQemuNbd(own, image, ["--read-only", "--shared=8", "--format=raw"]);
    await withSshd({}, async (server) => {
      const host = new Reconnecting(
        () => SshConnection.open(settingsFor(server)),
        ({ closed }) => !closed,
      );
      const first = await host.connect();
      const dial = async () => (await host.connect()).openUnixSocket(own);
      const pool = await NbdPool.open(dial, { connections: 2 });
      const sleeping = assert.rejects(first.exec(["sleep", "60"]), SshConnectionLost);
      const parent = (await first.exec(["sh", "-c", "cat /proc/$PPID/status"])).stdout.match(/^Pid:\t(\d+)/m)![1]!;
      assert.match(readFileSync(`/proc/${parent}/cmdline`, "utf8"), /^sshd/);
      run("kill", "-9", parent);
      const reads = await Promise.allSettled(Array.from({ length: 20 }, () => pool.read(Buffer.alloc(1024 * 1024), 0)));
      for (const result of reads)
        if (result.status === "rejected") assert.ok(result.reason instanceof NbdConnectionLost, `${result.reason}`);
      assert.ok(reads.some(({ status }) => status === "rejected"));
      await sleeping;
      const target = Buffer.alloc(100_000);
      await pool.read(target, 5_000_000);
      assert.ok(target.equals(content.subarray(5_000_000, 5_100_000)));
      assert.notEqual(await host.connect(), first);
      await pool.close();
      await (await host.forget())?.close();
    });
    await nbd.stop();
  });
});

test("what users leave to serve volumes ends with the server, and nothing else that its files name", async () => {
  const server = await startSshd(folder);
  const left = (kind: string, name: string, socket = "sock") => {
    const own = join(server.home, ".snapferry", "0123456789ab", kind, name);
    mkdirSync(own, { recursive: true });
    const child = spawn("sh", ["-c", "read forever", "serves", join(own, socket)], {
      stdio: ["pipe", "ignore", "ignore"],
    });
    writeFileSync(join(own, "pid"), `${child.pid}\n`);
    return child;
  };
  const servers = ["exports", "restores", "guards"].map((kind) => left(kind, "serves"));
  const others = [left("notes", "serves"), left("exports", "reused", "another")];
  const ended = Promise.all(servers.map((child) => once(child, "exit")));
  await server.stop();
  for (const [, signal] of await ended) assert.equal(signal, "SIGKILL");
  for (const child of others) {
    assert.equal(child.signalCode, null);
    child.kill();
  }
});
