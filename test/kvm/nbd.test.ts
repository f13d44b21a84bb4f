import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { after, describe, test } from "node:test";
import { type NbdConnection, type NbdOptions, openNbd } from "../../lambdas/protocols/nbd/connection.ts";
import {
  NbdConnectionLost,
  NbdError,
  NbdRefused,
  NbdRequestFailed,
  NbdTimedOut,
  NbdTlsFailed,
} from "../../lambdas/protocols/nbd/errors.ts";
import { NbdPool } from "../../lambdas/protocols/nbd/pool.ts";
import { run, type Server, workFolder } from "../../local/kvm-host/processes.ts";
import { selfSignedCertificate } from "../support/self-signed-certificate.ts";
import { dialUnix, startNbdkit, startQemuNbd } from "./nbd-servers.ts";

const folder = workFolder();
after(() => folder.remove());

const mib = 1024 * 1024;
const size = 24 * mib;
let sockets = 0;

async function withServer(
  start: (socket: string) => Promise<Server>,
  options: NbdOptions,
  work: (connection: NbdConnection, socket: string) => Promise<void>,
): Promise<void> {
  const socket = folder.file(`${sockets++}.sock`);
  const server = await start(socket);
  try {
    const connection = await openNbd(await dialUnix(socket), options);
    try {
      await work(connection, socket);
    } finally {
      await connection.close();
    }
  } finally {
    await server.stop();
  }
}

async function readAll(
  connection: { read(target: Uint8Array, offset: number): Promise<void> },
  bytes: number,
  piece: number,
): Promise<Buffer> {
  const target = Buffer.alloc(bytes, 0xee);
  const reads: Promise<void>[] = [];
  for (let at = 0; at < bytes; at += piece) reads.push(connection.read(target.subarray(at, at + piece), at));
  await Promise.all(reads);
  return target;
}

/** A qcow2 image of 24 MiB: data in the first 5 MiB, 64 KiB at 12 MiB; the overlay writes, zeroes and discards parts of it. */
function makeImages(): { base: string; overlay: string; baseBytes: Buffer; overlayBytes: Buffer } {
  const [raw, base, overlay] = ["base.raw", "base.qcow2", "overlay.qcow2"].map((name) => folder.file(name));
  const baseBytes = Buffer.alloc(size);
  randomBytes(5 * mib).copy(baseBytes);
  randomBytes(65_536).copy(baseBytes, 12 * mib);
  writeFileSync(raw!, baseBytes);
  run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw!, base!);
  run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base!, overlay!);
  run("qemu-io", "-c", "write -P 7 1M 128k", "-c", "write -z 2M 64k", "-c", "discard 3M 64k", overlay!);
  const overlayBytes = Buffer.from(baseBytes);
  overlayBytes.fill(7, mib, mib + 131_072);
  overlayBytes.fill(0, 2 * mib, 2 * mib + 65_536);
  overlayBytes.fill(0, 3 * mib, 3 * mib + 65_536);
  return { base: base!, overlay: overlay!, baseBytes, overlayBytes };
}

const images = makeImages();
const readOnly = ["--read-only", "--allocation-depth", "--shared=8", "--format=qcow2"];
const contexts = ["base:allocation", "qemu:allocation-depth"];

describe("qemu-nbd", () => {
  const start = (file: string) => (socket: string) => startQemuNbd(socket, file, readOnly);

  test("an image is read as it is, in pieces of any size and over several connections", () =>
    withServer(start(images.overlay), {}, async (connection, socket) => {
      assert.equal(connection.info.sizeBytes, size);
      assert.ok(connection.info.readOnly && connection.info.canMultiConnect);
      for (const piece of [size, mib, 77_777])
        assert.ok((await readAll(connection, size, piece)).equals(images.overlayBytes));
      const pool = await NbdPool.open(() => dialUnix(socket), { connections: 4 });
      assert.ok((await readAll(pool, size, 256 * 1024)).equals(images.overlayBytes));
      await pool.close();
    }));

  test("allocation is told for the whole chain, depth for what the overlay changed: writes, zeros and discards", () =>
    withServer(start(images.overlay), { metaContexts: [...contexts, "qemu:dirty-bitmap:none"] }, async (connection) => {
      assert.deepEqual([...connection.metaContexts].sort(), contexts);
      const whole = { offset: 0, length: size };
      const data: [number, number][] = [];
      for await (const { offset, length, flags } of connection.statusOf("base:allocation", whole)) {
        if ((flags & 2) === 0) data.push([offset, length]);
      }
      const ends = data.map(([offset, length]) => offset + length);
      assert.equal(data[0]![0], 0);
      assert.ok(data.every(([offset], index) => index === 0 || offset >= ends[index - 1]!));
      const covered = Buffer.from(images.overlayBytes);
      for (const [offset, length] of data) covered.fill(0, offset, offset + length);
      assert.ok(covered.equals(Buffer.alloc(size)), "what lies outside of data extents is zero");
      assert.ok(data.reduce((sum, [, length]) => sum + length, 0) < 6 * mib);
      const changed: [number, number][] = [];
      for await (const { offset, length, flags } of connection.statusOf("qemu:allocation-depth", whole)) {
        if (flags === 1) changed.push([offset, length]);
      }
      assert.deepEqual(changed, [
        [mib, 131_072],
        [2 * mib, 65_536],
        [3 * mib, 65_536],
      ]);
    }));

  test("a dirty bitmap is told", async () => {
    const file = folder.file("bitmap.qcow2");
    run("qemu-img", "create", "-q", "-f", "qcow2", file, "8M");
    run("qemu-img", "bitmap", "--add", "-g", "65536", file, "since1");
    run("qemu-io", "-c", "write -P 1 1M 64k", "-c", "write -P 1 5M 128k", file);
    const context = "qemu:dirty-bitmap:since1";
    const startBitmap = (socket: string) =>
      startQemuNbd(socket, file, ["--read-only", "--bitmap=since1", "--format=qcow2"]);
    await withServer(startBitmap, { metaContexts: [context] }, async (connection) => {
      const dirty = (await Array.fromAsync(connection.statusOf(context, { offset: 0, length: 8 * mib }))).filter(
        ({ flags }) => flags === 1,
      );
      assert.deepEqual(
        dirty.map(({ offset, length }) => [offset, length]),
        [
          [mib, 65_536],
          [5 * mib, 131_072],
        ],
      );
    });
  });

  test("what is written is in the image, zeros and trims too", async () => {
    const file = folder.file("restored.qcow2");
    run("qemu-img", "create", "-q", "-f", "qcow2", file, `${size}`);
    const writable = (socket: string) => startQemuNbd(socket, file, ["--format=qcow2", "--discard=unmap"]);
    const content = randomBytes(3 * mib);
    await withServer(writable, {}, async (connection) => {
      const writes: Promise<void>[] = [];
      for (let at = 0; at < content.length; at += 100_000)
        writes.push(connection.write(content.subarray(at, at + 100_000), 1000 + at));
      await Promise.all(writes);
      await connection.writeZeroes({ offset: 1000, length: mib });
      await connection.trim({ offset: 20 * mib, length: mib });
      await connection.flush();
      const expected = Buffer.alloc(size);
      content.copy(expected, 1000);
      expected.fill(0, 1000, 1000 + mib);
      assert.ok((await readAll(connection, size, mib)).equals(expected));
      content.fill(0, 0, mib);
    });
    run("qemu-img", "check", "-q", file);
    run("qemu-img", "convert", "-O", "raw", file, folder.file("restored.raw"));
    assert.ok(
      readFileSync(folder.file("restored.raw"))
        .subarray(1000, 1000 + content.length)
        .equals(content),
    );
  });

  test("an unknown export is refused by name", async () => {
    const start = (socket: string) => startQemuNbd(socket, images.base, [...readOnly, "--export-name=vda"]);
    await withServer(start, { exportName: "vda" }, async (_, socket) => {
      await assert.rejects(openNbd(await dialUnix(socket), { exportName: "vdb" }), {
        name: "NbdRefused",
        code: "UNKNOWN_EXPORT",
      });
    });
  });

  test("that is killed is told by name", () =>
    withServer(start(images.base), {}, async (_, socket) => {
      const own = `${socket}.killed`;
      const server = await startQemuNbd(own, images.base, readOnly);
      const connection = await openNbd(await dialUnix(own));
      const reads = Promise.allSettled(Array.from({ length: 40 }, () => connection.read(Buffer.alloc(mib), 0)));
      await server.stop("SIGKILL");
      for (const result of await reads) {
        if (result.status === "rejected") assert.ok(result.reason instanceof NbdConnectionLost);
      }
      await assert.rejects(connection.read(Buffer.alloc(1), 0), NbdConnectionLost);
    }));
});

describe("nbdkit", () => {
  const served =
    (options: readonly string[] = [], settings: readonly string[] = []) =>
    (socket: string) =>
      startNbdkit(socket, [...options, "pattern", "4M", ...settings]);
  /** The pattern plugin: each 8 bytes are their own offset. */
  const pattern = Buffer.alloc(4 * mib);
  for (let at = 0; at < pattern.length; at += 8) pattern.writeBigUInt64BE(BigInt(at), at);

  test("is read, also without structured replies and without block status", async () => {
    for (const options of [[], ["--no-sr"], ["--filter=noextents"]]) {
      await withServer(served(options), { metaContexts: contexts }, async (connection) => {
        assert.ok((await readAll(connection, 4 * mib, 100_000)).equals(pattern));
        assert.deepEqual(connection.metaContexts, options[0] === "--no-sr" ? [] : ["base:allocation"]);
      });
    }
  });

  test("is read through the old handshake without options", () =>
    withServer(
      (socket) => startNbdkit(socket, ["--mask-handshake=0", "pattern", "4M"]),
      {},
      async (connection) => {
        assert.ok((await readAll(connection, 4 * mib, mib)).equals(pattern));
      },
    ));

  test("oldstyle is refused", async () => {
    const socket = folder.file("oldstyle.sock");
    const server = await startNbdkit(socket, ["--oldstyle", "pattern", "4M"]);
    await assert.rejects(openNbd(await dialUnix(socket)), { name: "NbdProtocolError", message: /oldstyle/ });
    await server.stop();
  });

  test("errors of single requests are told, and the others succeed", () =>
    withServer(served(["--filter=error"], ["error-pread=EIO", "error-pread-rate=30%"]), {}, async (connection) => {
      const results = await Promise.allSettled(
        Array.from({ length: 200 }, (_, index) => {
          const target = Buffer.alloc(4096);
          return connection
            .read(target, index * 4096)
            .then(() => assert.ok(target.equals(pattern.subarray(index * 4096, (index + 1) * 4096))));
        }),
      );
      const failed = results.filter((result) => result.status === "rejected");
      assert.ok(failed.length > 20 && failed.length < 120, `${failed.length} failed`);
      for (const { reason } of failed) assert.ok(reason instanceof NbdRequestFailed && reason.code === "EIO");
    }));

  test("a full disk is told by its name", () =>
    withServer(
      (socket) => startNbdkit(socket, ["full", "1M"]),
      {},
      async (connection) => {
        await assert.rejects(connection.write(Buffer.alloc(512), 0), { name: "NbdRequestFailed", code: "ENOSPC" });
      },
    ));

  test("answers that come in another order are the right ones", () => {
    const [count, piece] = [8, 4096];
    /** Holds each read until the file with its number is there, or the test has ended. */
    const turn = (number: number) => folder.file(`turn-${number}`);
    const pread = `while [ -d ${folder.path} ] && [ ! -e ${folder.file("turn-")}$(($4 / ${piece})) ]; do sleep 0.01; done; head -c $3 /dev/zero | tr '\\0' $(($4 / ${piece}))`;
    const start = (socket: string) =>
      startNbdkit(socket, ["eval", "thread_model=echo parallel", `get_size=echo ${count * piece}`, `pread=${pread}`]);
    return withServer(start, {}, async (connection) => {
      const targets = Array.from({ length: count }, () => Buffer.alloc(piece));
      const answered: number[] = [];
      const reads = targets.map(async (target, number) => {
        await connection.read(target, number * piece);
        answered.push(number);
      });
      const backwards = [...targets.keys()].reverse();
      for (const number of backwards) {
        writeFileSync(turn(number), "");
        await reads[number];
        assert.ok(targets[number]!.equals(Buffer.alloc(piece, `${number}`)));
      }
      assert.deepEqual(answered, backwards);
    });
  });

  test("an answer that takes too long ends the connection", () =>
    withServer(served(["--filter=delay"], ["rdelay=3"]), { requestTimeoutMs: 200 }, async (connection) => {
      await assert.rejects(connection.read(Buffer.alloc(10), 0), NbdTimedOut);
    }));

  test("a server that dies in the middle is told by name", async () => {
    const socket = folder.file("exits.sock");
    const server = await startNbdkit(socket, ["eval", "get_size=echo 1M", "pread=kill -9 $PPID; sleep 1"]);
    const connection = await openNbd(await dialUnix(socket));
    await assert.rejects(connection.read(Buffer.alloc(10), 0), NbdConnectionLost);
    await server.stop();
  });

  test("a request that is not aligned as the server wants it is told by name", () =>
    withServer(
      served(["--filter=blocksize-policy"], ["blocksize-minimum=4096", "blocksize-error-policy=error"]),
      {},
      async (connection) => {
        const target = Buffer.alloc(8192);
        await connection.read(target, 4096);
        assert.ok(target.equals(pattern.subarray(4096, 12_288)));
        await assert.rejects(connection.read(Buffer.alloc(100), 0), { name: "NbdRequestFailed", code: "EINVAL" });
      },
    ));

  test("many short extents are told", () =>
    withServer(
      (socket) => startNbdkit(socket, ["sparse-random", "256M", "percent=50", "runlength=4096"]),
      { metaContexts: ["base:allocation"] },
      async (connection) => {
        let count = 0;
        let end = 0;
        for await (const { offset, length } of connection.statusOf("base:allocation", {
          offset: 0,
          length: 256 * mib,
        })) {
          assert.equal(offset, end);
          end = offset + length;
          count++;
        }
        assert.equal(end, 256 * mib);
        assert.ok(count > 10_000, `${count} extents`);
      },
    ));

  describe("with TLS", () => {
    const { certificate, key } = selfSignedCertificate("nbd.test");
    const pki = folder.file("pki");
    const start =
      (mode: string, options: readonly string[] = [], clients = "") =>
      (socket: string) => {
        run("mkdir", "-p", pki);
        for (const [name, text] of [
          ["ca-cert.pem", certificate + clients],
          ["server-cert.pem", certificate],
          ["server-key.pem", key],
        ] as const) {
          writeFileSync(`${pki}/${name}`, text);
        }
        return startNbdkit(socket, [`--tls=${mode}`, `--tls-certificates=${pki}`, ...options, "pattern", "4M"]);
      };

    test("is read encrypted, and not at all without or with another certificate", () =>
      withServer(
        start("require"),
        { tls: { serverName: "nbd.test", authorities: certificate } },
        async (connection, socket) => {
          assert.ok((await readAll(connection, 4 * mib, 100_000)).equals(pattern));
          await assert.rejects(
            openNbd(await dialUnix(socket)),
            (error) => error instanceof NbdRefused && error.code === "TLS_REQUIRED",
          );
          const other = { serverName: "nbd.test", authorities: selfSignedCertificate("nbd.test").certificate };
          await assert.rejects(openNbd(await dialUnix(socket), { tls: other }), NbdTlsFailed);
          await assert.rejects(
            openNbd(await dialUnix(socket), { tls: { serverName: "other.test", authorities: certificate } }),
            NbdTlsFailed,
          );
        },
      ));

    test("is read with a certificate of our own where the server wants one, and not without", async () => {
      const own = selfSignedCertificate("backup.test");
      const strict = start("require", ["--tls-verify-peer"], own.certificate);
      const tls = { serverName: "nbd.test", authorities: certificate };
      await withServer(strict, { tls: { ...tls, ...own } }, async (connection, socket) => {
        assert.ok((await readAll(connection, 4 * mib, mib)).equals(pattern));
        await assert.rejects(openNbd(await dialUnix(socket), { tls }), NbdError);
        const stranger = selfSignedCertificate("backup.test");
        await assert.rejects(openNbd(await dialUnix(socket), { tls: { ...tls, ...stranger } }), NbdError);
      });
    });

    test("a server without it is refused", async () => {
      await assert.rejects(
        withServer(served(), { tls: { serverName: "nbd.test", authorities: certificate } }, async () => {}),
        NbdTlsFailed,
      );
    });
  });
});
