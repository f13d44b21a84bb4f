import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import type { Duplex } from "node:stream";
import { describe, test } from "node:test";
import { type NbdPeer, playNbdServer, u64 } from "../../../test/support/nbd-peer.ts";
import { NbdConnectionLost, NbdProtocolError } from "./errors.ts";
import { NbdPool } from "./pool.ts";
import { chunk, command } from "./wire.ts";

const size = 100_000;
const content = randomBytes(size);

/** Serves reads, writes and flushes for ever. */
async function serve(peer: NbdPeer): Promise<void> {
  for (;;) {
    const { cookie, type, offset, length } = await peer.takeRequest();
    if (type === command.read) {
      peer.chunk(
        cookie,
        chunk.offsetData,
        Buffer.concat([u64(offset), content.subarray(offset, offset + length)]),
        true,
      );
    } else {
      if (type === command.write) await peer.take(length);
      peer.simple(cookie);
    }
  }
}

/** Dials peers that `script` plays, which is told how many there were before. */
function dialler(script: (peer: NbdPeer, index: number) => Promise<void>): {
  dial: () => Promise<Duplex>;
  peers: NbdPeer[];
} {
  const peers: NbdPeer[] = [];
  const dial = async () =>
    playNbdServer((peer) => {
      peers.push(peer);
      return script(peer, peers.length - 1);
    }).stream;
  return { dial, peers };
}

const openAndServe = async (peer: NbdPeer) => {
  await peer.open({ size });
  await serve(peer);
};

describe("a pool of NBD connections", () => {
  test("spreads requests over all of them", async () => {
    const used = new Set<number>();
    const { dial } = dialler(async (peer, index) => {
      await peer.open({ size });
      const { cookie, offset, length } = await peer.takeRequest();
      used.add(index);
      while (used.size < 3) await new Promise((resolve) => setImmediate(resolve));
      peer.chunk(
        cookie,
        chunk.offsetData,
        Buffer.concat([u64(offset), content.subarray(offset, offset + length)]),
        true,
      );
      await serve(peer);
    });
    const pool = await NbdPool.open(dial, { connections: 3 });
    const targets = [1, 2, 3].map(() => Buffer.alloc(1000));
    await Promise.all(targets.map((target, index) => pool.read(target, index * 1000)));
    assert.ok(Buffer.concat(targets).equals(content.subarray(0, 3000)));
    pool.destroy();
  });

  test("opens another connection in place of a broken one, and repeats nothing", async () => {
    const { dial, peers } = dialler(async (peer, index) => {
      await peer.open({ size });
      if (index > 0) return serve(peer);
      await peer.takeRequest();
      peer.stream.destroy();
    });
    const pool = await NbdPool.open(dial, { connections: 1 });
    await assert.rejects(pool.read(Buffer.alloc(10), 0), NbdConnectionLost);
    const targets = [1, 2].map(() => Buffer.alloc(10));
    await Promise.all(targets.map((target) => pool.read(target, 5)));
    for (const target of targets) assert.ok(target.equals(content.subarray(5, 15)));
    assert.equal(peers.length, 2);
    await pool.flush();
    pool.destroy();
  });

  test("never calls writes durable that a broken connection may have lost", async () => {
    const { dial, peers } = dialler(openAndServe);
    const pool = await NbdPool.open(dial, { connections: 2 });
    await Promise.all([pool.write(Buffer.alloc(10), 0), pool.write(Buffer.alloc(10), 10)]);
    await pool.flush();
    peers[0]!.stream.destroy();
    await new Promise((resolve) => setImmediate(resolve));
    await pool.flush();
    await Promise.all([pool.write(Buffer.alloc(10), 0), pool.write(Buffer.alloc(10), 10)]);
    peers[1]!.stream.destroy();
    await new Promise((resolve) => setImmediate(resolve));
    await Promise.all([pool.read(Buffer.alloc(10), 0), pool.read(Buffer.alloc(10), 0)]);
    await assert.rejects(pool.flush(), { name: "NbdConnectionLost", message: /before its writes were durable/ });
    await assert.rejects(pool.flush(), NbdConnectionLost);
    pool.destroy();
  });

  test("is not opened in part, nor on different exports", async () => {
    const some = dialler(async (peer, index) => {
      if (index === 1) peer.stream.end();
      else await openAndServe(peer);
    });
    await assert.rejects(NbdPool.open(some.dial, { connections: 3 }), NbdConnectionLost);
    const different = dialler(async (peer, index) => {
      await peer.open({ size: size + index });
      await serve(peer);
    });
    await assert.rejects(NbdPool.open(different.dial, { connections: 2 }), NbdProtocolError);
    await assert.rejects(NbdPool.open(different.dial, { connections: 0 }), RangeError);
    for (const { stream } of [...some.peers, ...different.peers]) {
      if (!stream.readableEnded && !stream.destroyed) await once(stream.resume(), "end");
    }
  });

  test("that was closed takes no requests and opens nothing", async () => {
    const { dial, peers } = dialler(async (peer) => {
      await peer.open({ size });
      await serve(peer).catch(() => {});
      peer.stream.destroy();
    });
    const pool = await NbdPool.open(dial, { connections: 2 });
    const reading = pool.read(Buffer.alloc(10), 0);
    await new Promise((resolve) => setImmediate(resolve));
    for (const peer of peers) peer.stream.on("end", () => peer.stream.end());
    await pool.close();
    await reading;
    await assert.rejects(pool.read(Buffer.alloc(10), 0), NbdConnectionLost);
    assert.equal(peers.length, 2);
  });
});
