import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import fc from "fast-check";
import { type NbdPeer, playNbdServer, u16, u32, u64 } from "../../../test/support/nbd-peer.ts";
import { type NbdConnection, type NbdOptions, openNbd } from "./connection.ts";
import {
  NbdConnectionLost,
  NbdError,
  NbdProtocolError,
  NbdRequestFailed,
  NbdRequestInvalid,
  NbdTimedOut,
} from "./errors.ts";
import { chunk, command } from "./wire.ts";

const size = 1 << 20;
const content = randomBytes(size);
const contexts = ["base:allocation", "qemu:allocation-depth"];

type OpenSettings = Parameters<NbdPeer["open"]>[0];

/** Opens the export on a peer that then follows `script`; the test ends with both. */
async function connect(
  script: (peer: NbdPeer) => Promise<void>,
  settings: OpenSettings = {},
  options: NbdOptions = {},
): Promise<{ connection: NbdConnection; played: Promise<void> }> {
  const { stream, played } = playNbdServer(async (peer) => {
    await peer.open({ size, ...settings });
    await script(peer);
  });
  const metaContexts = settings.contexts ?? [];
  return { connection: await openNbd(stream, { metaContexts, requestTimeoutMs: 5_000, ...options }), played };
}

function part(offset: number, length: number): Buffer {
  return content.subarray(offset, offset + length);
}

describe("reads", () => {
  test("come as simple replies from a server without structure", async () => {
    const { connection } = await connect(
      async (peer) => {
        const { cookie, offset, length } = await peer.takeRequest();
        peer.simple(cookie, 0, part(offset, length));
      },
      { structured: false },
    );
    const target = Buffer.alloc(5000);
    await connection.read(target, 77);
    assert.ok(target.equals(part(77, 5000)));
  });

  test("come in chunks and holes in any order, mixed with those of other reads", async () => {
    const { connection } = await connect(async (peer) => {
      const first = await peer.takeRequest();
      const second = await peer.takeRequest();
      peer.chunk(
        second.cookie,
        chunk.offsetData,
        Buffer.concat([u64(second.offset + 60), part(second.offset + 60, 40)]),
        false,
      );
      peer.chunk(first.cookie, chunk.offsetHole, Buffer.concat([u64(first.offset + 10), u32(90)]), false);
      peer.chunk(second.cookie, chunk.offsetData, Buffer.concat([u64(second.offset), part(second.offset, 60)]), false);
      peer.chunk(second.cookie, chunk.none, Buffer.alloc(0), true);
      peer.chunk(first.cookie, chunk.offsetData, Buffer.concat([u64(first.offset), part(first.offset, 10)]), true);
    });
    const [a, b] = [Buffer.alloc(100, 1), Buffer.alloc(100, 1)];
    await Promise.all([connection.read(a, 1000), connection.read(b, 5000)]);
    assert.ok(a.equals(Buffer.concat([part(1000, 10), Buffer.alloc(90)])));
    assert.ok(b.equals(part(5000, 100)));
  });

  test("are the content, however the server cuts, orders and delays its answers", async () => {
    const cuts = fc.array(fc.integer({ min: 1, max: 4000 }), { minLength: 1, maxLength: 8 });
    const reads = fc.array(fc.record({ offset: fc.nat(60_000), cuts }), { minLength: 1, maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(
        reads,
        fc.integer({ min: 1, max: 3000 }),
        fc.infiniteStream(fc.double({ noNaN: true })),
        async (wanted, piece, order) => {
          const shuffled = <T>(items: T[]) =>
            items
              .map((item) => ({ item, key: order.next().value }))
              .sort((x, y) => x.key - y.key)
              .map(({ item }) => item);
          const { connection, played } = await connect(async (peer) => {
            const chunks: { cookie: bigint; payload: Buffer }[] = [];
            const left = new Map<bigint, number>();
            for (const { offset, cuts: lengths } of wanted) {
              const { cookie } = await peer.takeRequest();
              left.set(cookie, lengths.length);
              let at = offset;
              for (const length of lengths) {
                chunks.push({ cookie, payload: Buffer.concat([u64(at), part(at, length)]) });
                at += length;
              }
            }
            const bytes = peer.gather(() => {
              for (const { cookie, payload } of shuffled(chunks)) {
                left.set(cookie, left.get(cookie)! - 1);
                peer.chunk(cookie, chunk.offsetData, payload, left.get(cookie) === 0);
              }
            });
            for (let at = 0; at < bytes.length; at += piece) peer.stream.write(bytes.subarray(at, at + piece));
          });
          const targets = wanted.map(({ cuts: lengths }) =>
            Buffer.alloc(lengths.reduce((sum, length) => sum + length)),
          );
          await Promise.all(wanted.map(({ offset }, index) => connection.read(targets[index]!, offset)));
          for (const [index, { offset }] of wanted.entries())
            assert.ok(targets[index]!.equals(part(offset, targets[index]!.length)));
          await played;
          connection.destroy();
        },
      ),
      { numRuns: 30 },
    );
  });

  /** A peer whose server takes at most 1,000 bytes at once. */
  async function openWithSmallPayload(script: (peer: NbdPeer) => Promise<void>): Promise<NbdConnection> {
    const { stream } = playNbdServer(async (peer) => {
      await peer.greet();
      peer.replyToOption((await peer.takeOption()).number, 1);
      const { number } = await peer.takeOption();
      peer.replyToOption(number, 3, Buffer.concat([u16(3), u32(1), u32(4096), u32(1000)]));
      peer.replyToOption(number, 3, Buffer.concat([u16(0), u64(size), u16(3)]));
      peer.replyToOption(number, 1);
      await script(peer);
    });
    return openNbd(stream);
  }

  test("longer than the server takes at once go in several requests", async () => {
    const connection = await openWithSmallPayload(async (peer) => {
      for (;;) {
        const { cookie, offset, length } = await peer.takeRequest();
        assert.ok(length <= 1000);
        peer.chunk(cookie, chunk.offsetData, Buffer.concat([u64(offset), part(offset, length)]), true);
      }
    });
    const target = Buffer.alloc(100_001);
    await connection.read(target, 3);
    assert.ok(target.equals(part(3, 100_001)));
    connection.destroy();
  });

  test("of which a part fails end when nothing is written to the target any more", async () => {
    let answered = false;
    const connection = await openWithSmallPayload(async (peer) => {
      const [first, second] = [await peer.takeRequest(), await peer.takeRequest()];
      peer.chunk(first.cookie, chunk.error, Buffer.concat([u32(5), u16(0)]), true);
      await pause(20);
      answered = true;
      peer.chunk(second.cookie, chunk.offsetData, Buffer.concat([u64(second.offset), part(second.offset, 500)]), true);
    });
    await assert.rejects(connection.read(Buffer.alloc(1500), 0), { code: "EIO" });
    assert.ok(answered);
    connection.destroy();
  });

  test("in flight are at most 16, the others wait", async () => {
    let most = 0;
    const { connection } = await connect(async (peer) => {
      for (let round = 0; round < 4; round++) {
        const requests = [];
        for (let count = 0; count < 16; count++) requests.push(await peer.takeRequest());
        await pause(5);
        most = Math.max(most, requests.length + peer.stream.readableLength / 28);
        for (const { cookie, offset, length } of requests.reverse()) {
          peer.chunk(cookie, chunk.offsetData, Buffer.concat([u64(offset), part(offset, length)]), true);
        }
      }
    });
    const targets = Array.from({ length: 64 }, () => Buffer.alloc(100));
    await Promise.all(targets.map((target, index) => connection.read(target, index * 100)));
    assert.equal(most, 16);
    assert.ok(Buffer.concat(targets).equals(part(0, 6400)));
  });

  test("that lead outside of the export, or are no numbers, are refused here", async () => {
    const { connection } = await connect(async () => {});
    for (const offset of [-1, size - 9, 2 ** 60, 0.5, Number.NaN]) {
      await assert.rejects(connection.read(Buffer.alloc(10), offset), NbdRequestInvalid);
    }
    await connection.read(Buffer.alloc(0), size);
    connection.destroy();
  });
});

describe("errors of requests", () => {
  test("are named, tell the server's words and place, and leave the connection alive", async () => {
    const { connection } = await connect(async (peer) => {
      const first = await peer.takeRequest();
      peer.chunk(first.cookie, chunk.offsetData, Buffer.concat([u64(0), part(0, 10)]), false);
      const message = Buffer.from("bad\nsector");
      peer.chunk(
        first.cookie,
        chunk.errorOffset,
        Buffer.concat([u32(5), u16(message.length), message, u64(64)]),
        false,
      );
      peer.chunk(first.cookie, chunk.none, Buffer.alloc(0), true);
      const second = await peer.takeRequest();
      peer.chunk(second.cookie, 0x8765, Buffer.concat([u32(4711), u16(0)]), true);
      const third = await peer.takeRequest();
      peer.chunk(third.cookie, chunk.offsetHole, Buffer.concat([u64(0), u32(100)]), true);
    });
    await assert.rejects(connection.read(Buffer.alloc(100), 0), (error) => {
      assert.ok(error instanceof NbdRequestFailed);
      assert.deepEqual([error.code, error.offset], ["EIO", 64]);
      assert.match(error.message, /read of 100 bytes at 0: EIO \(bad sector\)/);
      return true;
    });
    await assert.rejects(connection.read(Buffer.alloc(100), 0), {
      name: "NbdRequestFailed",
      code: "OTHER",
      message: /error 4711/,
    });
    await connection.read(Buffer.alloc(100), 0);
    connection.destroy();
  });

  test("that come as simple replies are named, too", async () => {
    const { connection } = await connect(async (peer) => {
      const { cookie, type, length } = await peer.takeRequest();
      assert.equal(type, command.write);
      await peer.take(length);
      peer.simple(cookie, 28);
    });
    await assert.rejects(connection.write(Buffer.alloc(10), 0), { name: "NbdRequestFailed", code: "ENOSPC" });
    connection.destroy();
  });
});

describe("answers that break the protocol end the connection", () => {
  const read = async (connection: NbdConnection) => connection.read(Buffer.alloc(100), 1000);
  const status = async (connection: NbdConnection) => connection.blockStatus({ offset: 1000, length: 100 });
  const write = async (connection: NbdConnection) => connection.write(Buffer.alloc(100), 1000);
  const data = (offset: number, length: number) => Buffer.concat([u64(offset), Buffer.alloc(length)]);
  const extents = (id: number, ...lengths: number[]) =>
    Buffer.concat([u32(id), ...lengths.map((length) => Buffer.concat([u32(length), u32(0)]))]);
  type Case = [string, (connection: NbdConnection) => Promise<unknown>, (peer: NbdPeer, cookie: bigint) => void];
  const cases: Case[] = [
    ["bytes before the range", read, (peer, id) => peer.chunk(id, chunk.offsetData, data(999, 10), false)],
    ["bytes behind the range", read, (peer, id) => peer.chunk(id, chunk.offsetData, data(1091, 10), false)],
    [
      "an offset beyond all numbers",
      read,
      (peer, id) => peer.chunk(id, chunk.offsetData, Buffer.concat([u64(2n ** 64n - 1n), Buffer.alloc(1)]), false),
    ],
    [
      "the same bytes twice",
      read,
      (peer, id) => {
        peer.chunk(id, chunk.offsetData, data(1000, 50), false);
        peer.chunk(id, chunk.offsetHole, Buffer.concat([u64(1049), u32(2)]), true);
      },
    ],
    ["less than the whole", read, (peer, id) => peer.chunk(id, chunk.offsetData, data(1000, 99), true)],
    ["nothing", read, (peer, id) => peer.chunk(id, chunk.none, Buffer.alloc(0), true)],
    ["data without data", read, (peer, id) => peer.chunk(id, chunk.offsetData, u64(1000), true)],
    [
      "a hole of no size",
      read,
      (peer, id) => peer.chunk(id, chunk.offsetHole, Buffer.concat([u64(1000), u32(0)]), false),
    ],
    [
      "a hole of 4 GiB",
      read,
      (peer, id) => peer.chunk(id, chunk.offsetHole, Buffer.concat([u64(1000), u32(0xffff_ffff)]), false),
    ],
    ["a malformed hole", read, (peer, id) => peer.chunk(id, chunk.offsetHole, u64(1000), false)],
    ["a simple reply to a read", read, (peer, id) => peer.simple(id, 0, Buffer.alloc(100))],
    ["block status to a read", read, (peer, id) => peer.chunk(id, chunk.blockStatus, extents(1, 100), true)],
    ["a cookie that nobody used", read, (peer, id) => peer.chunk(id + 1n, chunk.offsetData, data(1000, 100), true)],
    ["an unknown chunk", read, (peer, id) => peer.chunk(id, 77, Buffer.alloc(4), true)],
    ["an error that is too long", read, (peer, id) => peer.chunk(id, chunk.error, Buffer.alloc(70_000), true)],
    [
      "an error whose message is longer than itself",
      read,
      (peer, id) => peer.chunk(id, chunk.error, Buffer.concat([u32(5), u16(9)]), true),
    ],
    ["no reply at all", read, (peer) => peer.send(Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n"))],
    ["data to a write", write, (peer, id) => peer.chunk(id, chunk.offsetData, data(1000, 100), true)],
    [
      "a context that was not asked for",
      status,
      (peer, id) => peer.chunk(id, chunk.blockStatus, extents(9, 100), true),
    ],
    [
      "a context twice",
      status,
      (peer, id) => {
        peer.chunk(id, chunk.blockStatus, extents(1, 100), false);
        peer.chunk(id, chunk.blockStatus, extents(1, 100), true);
      },
    ],
    ["one context of two", status, (peer, id) => peer.chunk(id, chunk.blockStatus, extents(1, 100), true)],
    ["an empty extent", status, (peer, id) => peer.chunk(id, chunk.blockStatus, extents(1, 50, 0, 50), false)],
    ["an extent behind the range", status, (peer, id) => peer.chunk(id, chunk.blockStatus, extents(1, 100, 1), false)],
    [
      "a block status of a strange length",
      status,
      (peer, id) => peer.chunk(id, chunk.blockStatus, Buffer.alloc(11), false),
    ],
    ["a block status without extents", status, (peer, id) => peer.chunk(id, chunk.blockStatus, u32(1), false)],
    ["a simple reply to block status", status, (peer, id) => peer.simple(id)],
  ];
  for (const [title, ask, answer] of cases) {
    test(title, async () => {
      const { connection } = await connect(
        async (peer) => {
          const { cookie, type, length } = await peer.takeRequest();
          if (type === command.write) await peer.take(length);
          answer(peer, cookie);
        },
        { contexts },
      );
      await assert.rejects(ask(connection), NbdProtocolError);
      assert.ok(connection.failure instanceof NbdProtocolError);
      await assert.rejects(connection.read(Buffer.alloc(1), 0), NbdProtocolError);
    });
  }

  test("an announced length takes no memory", async () => {
    const { connection } = await connect(
      async (peer) => {
        const { cookie } = await peer.takeRequest();
        const header = Buffer.concat([
          u32(0x668e_33ef),
          u16(0),
          u16(chunk.blockStatus),
          u64(cookie),
          u32(4 + 8 * 2 ** 20),
        ]);
        peer.send(header, u32(1));
      },
      { contexts },
      { requestTimeoutMs: 200 },
    );
    const before = process.memoryUsage().arrayBuffers;
    await assert.rejects(status(connection), NbdTimedOut);
    assert.ok(process.memoryUsage().arrayBuffers - before < 1_000_000);
  });

  test("a read in single bytes takes no memory", async () => {
    const { connection } = await connect(async (peer) => {
      const { cookie } = await peer.takeRequest();
      for (let at = 0; at < 5000; at += 2)
        peer.chunk(cookie, chunk.offsetHole, Buffer.concat([u64(at), u32(1)]), false);
    });
    await assert.rejects(connection.read(Buffer.alloc(5000), 0), {
      name: "NbdProtocolError",
      message: /too many pieces/,
    });
  });

  test("random bytes in place of answers are a named error, whatever they are", async () => {
    const magic = fc.constantFrom(u32(0x668e_33ef), u32(0x6744_6698), Buffer.alloc(0));
    const small = fc.constantFrom(0, 1, 2, 5, 12, 100, 0x8001, 0x8002, 65_535);
    const structured = fc
      .tuple(small, small, fc.bigInt({ min: 0n, max: 3n }), fc.nat(40), fc.uint8Array({ maxLength: 60 }))
      .map(([flags, type, cookie, length, rest]) =>
        Buffer.concat([u32(0x668e_33ef), u16(flags), u16(type), u64(cookie), u32(length), rest]),
      );
    const noise = fc.tuple(magic, fc.uint8Array({ maxLength: 80 })).map((pieces) => Buffer.concat(pieces));
    await fc.assert(
      fc.asyncProperty(fc.array(fc.oneof(structured, noise), { minLength: 1, maxLength: 6 }), async (pieces) => {
        const { connection } = await connect(
          async (peer) => {
            for (let count = 0; count < 3; count++) await peer.takeRequest();
            peer.send(...pieces);
            peer.stream.end();
          },
          { contexts },
        );
        const results = await Promise.allSettled([
          connection.read(Buffer.alloc(30), 1000),
          connection.blockStatus({ offset: 1000, length: 30 }),
          connection.trim({ offset: 1000, length: 30 }),
        ]);
        for (const result of results) if (result.status === "rejected") assert.ok(result.reason instanceof NbdError);
        await assert.rejects(connection.read(Buffer.alloc(1), 0), NbdError);
      }),
      { numRuns: 300 },
    );
  });
});

describe("block status", () => {
  const both = (peer: NbdPeer, cookie: bigint, first: number[][], second: number[][]) => {
    const pairs = (list: number[][]) => list.map(([length, flags]) => Buffer.concat([u32(length!), u32(flags!)]));
    peer.chunk(cookie, chunk.blockStatus, Buffer.concat([u32(2), ...pairs(second)]), false);
    peer.chunk(cookie, chunk.blockStatus, Buffer.concat([u32(1), ...pairs(first)]), true);
  };

  test("of several contexts comes by name; what leads further than asked is cut", async () => {
    const { connection } = await connect(
      async (peer) => {
        const { cookie } = await peer.takeRequest();
        both(
          peer,
          cookie,
          [
            [60, 3],
            [1_000_000, 0],
          ],
          [[40, 1]],
        );
      },
      { contexts },
    );
    const found = await connection.blockStatus({ offset: 1000, length: 100 });
    assert.deepEqual(found.get("base:allocation"), [
      { offset: 1000, length: 60, flags: 3 },
      { offset: 1060, length: 40, flags: 0 },
    ]);
    assert.deepEqual(found.get("qemu:allocation-depth"), [{ offset: 1000, length: 40, flags: 1 }]);
    connection.destroy();
  });

  test("of a whole range is asked for until it is covered", async () => {
    const asked: number[][] = [];
    const { connection } = await connect(
      async (peer) => {
        for (;;) {
          const { cookie, offset, length } = await peer.takeRequest();
          asked.push([offset, length]);
          both(peer, cookie, [[length, 0]], [[Math.min(40, length), offset]]);
        }
      },
      { contexts },
    );
    const extents = await Array.fromAsync(connection.statusOf("qemu:allocation-depth", { offset: 1000, length: 100 }));
    assert.deepEqual(asked, [
      [1000, 100],
      [1040, 60],
      [1080, 20],
    ]);
    assert.deepEqual(
      extents.map(({ offset, length }) => [offset, length]),
      [
        [1000, 40],
        [1040, 40],
        [1080, 20],
      ],
    );
    connection.destroy();
  });

  test("without an agreed context is refused here", async () => {
    const { connection } = await connect(async () => {});
    await assert.rejects(connection.blockStatus({ offset: 0, length: 1 }), NbdRequestInvalid);
    await assert.rejects(
      Array.fromAsync(connection.statusOf("base:allocation", { offset: 0, length: 1 })),
      NbdRequestInvalid,
    );
    connection.destroy();
  });
});

describe("writes", () => {
  test("carry their bytes, zeros and trims their ranges, and a flush nothing", async () => {
    const seen: unknown[] = [];
    const { connection } = await connect(async (peer) => {
      for (;;) {
        const { cookie, type, flags, offset, length } = await peer.takeRequest();
        const data = type === command.write ? (await peer.take(length)).toString() : undefined;
        seen.push([type, flags, offset, length, data]);
        peer.simple(cookie);
      }
    });
    await connection.write(Buffer.from("text"), 7);
    await connection.writeZeroes({ offset: 10, length: 20 });
    await connection.trim({ offset: 30, length: 40 });
    await connection.flush();
    assert.deepEqual(seen, [
      [command.write, 0, 7, 4, "text"],
      [command.writeZeroes, 0, 10, 20, undefined],
      [command.trim, 0, 30, 40, undefined],
      [command.flush, 0, 0, 0, undefined],
    ]);
    connection.destroy();
  });

  test("are refused here when the export cannot do them", async () => {
    const { connection } = await connect(async () => {}, { flags: 3 });
    await assert.rejects(connection.write(Buffer.alloc(1), 0), { name: "NbdRequestInvalid", message: /read-only/ });
    await assert.rejects(connection.writeZeroes({ offset: 0, length: 1 }), NbdRequestInvalid);
    await assert.rejects(connection.trim({ offset: 0, length: 1 }), NbdRequestInvalid);
    await connection.flush();
    const { connection: plain } = await connect(async () => {}, { flags: 1 });
    await assert.rejects(plain.writeZeroes({ offset: 0, length: 1 }), NbdRequestInvalid);
    await assert.rejects(plain.trim({ offset: 0, length: 1 }), NbdRequestInvalid);
    connection.destroy();
    plain.destroy();
  });
});

describe("the end of a connection", () => {
  test("a server that is silent is told by name, for the request that waited and for the others", async () => {
    const { connection } = await connect(
      async (peer) => {
        const { cookie } = await peer.takeRequest();
        peer.chunk(cookie, chunk.offsetData, Buffer.concat([u64(0), Buffer.alloc(5)]), false);
      },
      {},
      { requestTimeoutMs: 60 },
    );
    const results = await Promise.allSettled([
      connection.read(Buffer.alloc(10), 0),
      connection.read(Buffer.alloc(10), 0),
    ]);
    for (const result of results) assert.ok(result.status === "rejected" && result.reason instanceof NbdTimedOut);
  });

  test("a server that drips is not waited for longer than one that is silent", async () => {
    const { connection } = await connect(
      async (peer) => {
        const { cookie } = await peer.takeRequest();
        for (let at = 0; at < 100; at++) {
          await pause(20);
          peer.chunk(cookie, chunk.offsetData, Buffer.concat([u64(at), Buffer.alloc(1)]), at === 99);
        }
      },
      {},
      { requestTimeoutMs: 100 },
    );
    await assert.rejects(connection.read(Buffer.alloc(100), 0), NbdTimedOut);
  });

  test("a connection that breaks fails all requests, those that wait too", async () => {
    const { connection } = await connect(async (peer) => {
      await peer.takeRequest();
      peer.stream.destroy();
    });
    const results = await Promise.allSettled(Array.from({ length: 40 }, () => connection.read(Buffer.alloc(10), 0)));
    for (const result of results) assert.ok(result.status === "rejected" && result.reason instanceof NbdConnectionLost);
  });

  test("an orderly end waits for requests, also for ones that wait, and says good-bye", async () => {
    let last: number | undefined;
    const { connection, played } = await connect(async (peer) => {
      for (let count = 0; count < 20; count++) {
        const { cookie, offset, length } = await peer.takeRequest();
        await pause(1);
        peer.chunk(cookie, chunk.offsetData, Buffer.concat([u64(offset), part(offset, length)]), true);
      }
      last = (await peer.takeRequest()).type;
      peer.stream.end();
      peer.stream.resume();
    });
    const reads = Array.from({ length: 20 }, () => connection.read(Buffer.alloc(10), 0));
    const closed = connection.close();
    await assert.rejects(connection.read(Buffer.alloc(10), 0), NbdConnectionLost);
    await Promise.all(reads);
    await closed;
    await connection.close();
    await played;
    assert.equal(last, command.disconnect);
  });

  test("a server that does not hang up is left", async () => {
    const { connection } = await connect(async (peer) => {
      await peer.takeRequest();
    });
    const started = performance.now();
    await connection.close();
    assert.ok(performance.now() - started < 4000);
  });
});
