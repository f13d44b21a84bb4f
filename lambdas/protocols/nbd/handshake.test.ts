import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { TLSSocket } from "node:tls";
import fc from "fast-check";
import { NbdPeer, playNbdServer, u16, u32, u64 } from "../../../test/support/nbd-peer.ts";
import { selfSignedCertificate } from "../../../test/support/self-signed-certificate.ts";
import { type NbdOptions, openNbd } from "./connection.ts";
import { NbdConnectionLost, NbdError, NbdProtocolError, NbdRefused, NbdTimedOut, NbdTlsFailed } from "./errors.ts";
import { chunk, greetingMagic, newstyleMagic, oldstyleMagic, option, optionReply } from "./wire.ts";

const error = (code: number) => 0x8000_0000 + code;
const exportInfo = (size: number, flags = 3) => Buffer.concat([u16(0), u64(size), u16(flags)]);

async function open(script: (peer: NbdPeer) => Promise<void>, options: NbdOptions = {}) {
  const { stream, played } = playNbdServer(script);
  const connection = await openNbd(stream, { handshakeTimeoutMs: 5_000, requestTimeoutMs: 5_000, ...options });
  return { connection, played };
}

describe("the handshake", () => {
  test("asks for structured replies, contexts and the export by its name", async () => {
    const asked: [number, string][] = [];
    const { connection } = await open(
      async (peer) => {
        await peer.greet();
        for (;;) {
          const { number, data } = await peer.takeOption();
          asked.push([number, data.toString("latin1")]);
          if (number === option.setMetaContext) {
            peer.replyToOption(
              number,
              optionReply.metaContext,
              Buffer.concat([u32(7), Buffer.from("base:allocation")]),
            );
          }
          if (number === option.go) {
            peer.replyToOption(number, optionReply.info, Buffer.concat([u16(1), Buffer.from("a name")]));
            peer.replyToOption(number, optionReply.info, exportInfo(12_345, 0x0103));
          }
          peer.replyToOption(number, optionReply.ack);
        }
      },
      { exportName: "vda", metaContexts: ["base:allocation", "qemu:allocation-depth"] },
    );
    assert.deepEqual(asked, [
      [option.structuredReply, ""],
      [option.setMetaContext, "\0\0\0\x03vda\0\0\0\x02\0\0\0\x0fbase:allocation\0\0\0\x15qemu:allocation-depth"],
      [option.go, "\0\0\0\x03vda\0\0"],
    ]);
    assert.equal(connection.info.sizeBytes, 12_345);
    assert.deepEqual(
      [connection.info.readOnly, connection.info.canMultiConnect, connection.info.canTrim],
      [true, true, false],
    );
    assert.deepEqual(connection.metaContexts, ["base:allocation"]);
    connection.destroy();
  });

  test("falls back to EXPORT_NAME where the server has neither GO nor anything else", async () => {
    const { connection } = await open(
      async (peer) => {
        await peer.greet(1);
        for (;;) {
          const { number, data } = await peer.takeOption();
          if (number !== option.exportName) {
            peer.replyToOption(number, error(1));
            continue;
          }
          assert.equal(data.toString(), "disk");
          peer.send(u64(4096), u16(1), Buffer.alloc(124));
          const { cookie } = await peer.takeRequest();
          peer.simple(cookie, 0, Buffer.alloc(10, 5));
        }
      },
      { exportName: "disk", metaContexts: ["base:allocation"] },
    );
    const target = Buffer.alloc(10);
    await connection.read(target, 0);
    assert.ok(target.equals(Buffer.alloc(10, 5)));
    assert.deepEqual(connection.metaContexts, []);
    connection.destroy();
  });

  test("asks a server that takes no options for nothing but the export", async () => {
    const { connection } = await open(async (peer) => {
      await peer.greet(2);
      assert.equal((await peer.takeOption()).number, option.exportName);
      peer.send(u64(4096), u16(1));
    });
    assert.equal(connection.info.sizeBytes, 4096);
    connection.destroy();
  });

  test("learns the block sizes of a server that insists, and keeps to them", async () => {
    const { connection } = await open(async (peer) => {
      await peer.greet();
      peer.replyToOption((await peer.takeOption()).number, error(1));
      const first = await peer.takeOption();
      peer.replyToOption(first.number, error(8));
      const second = await peer.takeOption();
      assert.deepEqual([...second.data.subarray(-4)], [0, 1, 0, 3]);
      peer.replyToOption(second.number, optionReply.info, Buffer.concat([u16(3), u32(512), u32(4096), u32(65_536)]));
      peer.replyToOption(second.number, optionReply.info, exportInfo(1 << 20));
      peer.replyToOption(second.number, optionReply.ack);
      const { cookie } = await peer.takeRequest();
      peer.simple(cookie, 0, Buffer.alloc(512, 1));
    });
    await assert.rejects(connection.read(Buffer.alloc(512), 100), { name: "NbdRequestInvalid", message: /512/ });
    await assert.rejects(connection.read(Buffer.alloc(100), 512), { name: "NbdRequestInvalid" });
    await connection.read(Buffer.alloc(512), 512);
    connection.destroy();
  });
});

describe("a handshake that fails", () => {
  for (const [code, name] of [
    [2, "POLICY"],
    [5, "TLS_REQUIRED"],
    [6, "UNKNOWN_EXPORT"],
    [7, "SHUTDOWN"],
    [99, "OTHER"],
  ] as const) {
    test(`tells that the server refuses with ${name}`, async () => {
      const opening = open(
        async (peer) => {
          await peer.greet();
          peer.replyToOption((await peer.takeOption()).number, optionReply.ack);
          peer.replyToOption((await peer.takeOption()).number, error(code), Buffer.from("no\x1b[31m way"));
        },
        { exportName: "vda" },
      );
      await assert.rejects(opening, (thrown) => {
        assert.ok(thrown instanceof NbdRefused);
        assert.equal(thrown.code, name);
        assert.equal(thrown.message, `The NBD server refuses the export "vda" (${name}: no [31m way).`);
        return true;
      });
    });
  }

  type Script = (peer: NbdPeer) => Promise<void>;
  const afterStructured =
    (answer: (peer: NbdPeer, number: number) => void): Script =>
    async (peer) => {
      await peer.greet();
      peer.replyToOption((await peer.takeOption()).number, optionReply.ack);
      answer(peer, (await peer.takeOption()).number);
      await peer.takeOption();
    };
  const cases: Record<string, Script> = {
    "another protocol": async (peer) => peer.send(Buffer.from("SSH-2.0-OpenSSH_9.2p1 Debian\r\n")),
    oldstyle: async (peer) => peer.send(u64(greetingMagic), u64(oldstyleMagic), Buffer.alloc(136)),
    "an unknown style": async (peer) => peer.send(u64(greetingMagic), u64(1), Buffer.alloc(136)),
    "an answer to another option": async (peer) => {
      await peer.greet();
      peer.replyToOption(1 + (await peer.takeOption()).number, optionReply.ack);
    },
    "an answer of 4 GiB": async (peer) => {
      await peer.greet();
      const { number } = await peer.takeOption();
      peer.send(u64(0x0003_e889_0455_65a9n), u32(number), u32(error(1)), u32(0xffff_ffff));
    },
    "an acknowledgement of 4 GiB": async (peer) => {
      await peer.greet();
      const { number } = await peer.takeOption();
      peer.send(u64(0x0003_e889_0455_65a9n), u32(number), u32(optionReply.ack), u32(0xffff_ffff));
    },
    "an information of 4 GiB": afterStructured((peer, number) =>
      peer.send(u64(0x0003_e889_0455_65a9n), u32(number), u32(optionReply.info), u32(0xffff_ffff)),
    ),
    "an information of one byte": afterStructured((peer, number) =>
      peer.replyToOption(number, optionReply.info, Buffer.alloc(1)),
    ),
    "an export without a size": afterStructured((peer, number) => peer.replyToOption(number, optionReply.ack)),
    "an export of 2^63 bytes": afterStructured((peer, number) =>
      peer.replyToOption(number, optionReply.info, Buffer.concat([u16(0), u64(2n ** 63n), u16(3)])),
    ),
    "blocks of 3 bytes": afterStructured((peer, number) =>
      peer.replyToOption(number, optionReply.info, Buffer.concat([u16(3), u32(3), u32(4096), u32(4096)])),
    ),
    "blocks larger than a request": afterStructured((peer, number) =>
      peer.replyToOption(number, optionReply.info, Buffer.concat([u16(3), u32(4096), u32(4096), u32(512)])),
    ),
    "bytes that were not asked for": afterStructured((peer, number) => {
      peer.replyToOption(number, optionReply.info, exportInfo(4096));
      const ack = peer.gather(() => peer.replyToOption(number, optionReply.ack));
      peer.send(ack, Buffer.alloc(16));
    }),
  };
  for (const [title, script] of Object.entries(cases)) {
    test(`names what breaks the protocol: ${title}`, async () => {
      const { stream } = playNbdServer(script);
      const reading = openNbd(stream, { handshakeTimeoutMs: 5_000 }).then((connection) =>
        connection.read(Buffer.alloc(1), 0),
      );
      await assert.rejects(reading, NbdProtocolError);
      assert.ok(stream.destroyed);
    });
  }

  for (const [title, contexts] of Object.entries({
    "a context that was not asked for": [Buffer.concat([u32(1), Buffer.from("x:y")])],
    "a context twice": [1, 2].map((id) => Buffer.concat([u32(id), Buffer.from("base:allocation")])),
    "a context without a name": [u32(1)],
    "a context without a number": [Buffer.alloc(3)],
  })) {
    test(`names what breaks the protocol: ${title}`, async () => {
      const opening = open(
        afterStructured((peer, number) => {
          for (const context of contexts) peer.replyToOption(number, optionReply.metaContext, context);
        }),
        { metaContexts: ["base:allocation"] },
      );
      await assert.rejects(opening, NbdProtocolError);
    });
  }

  test("tells a server that hangs up, at once or in the middle", async () => {
    await assert.rejects(
      open(async (peer) => void peer.stream.end()),
      NbdConnectionLost,
    );
    await assert.rejects(
      open(async (peer) => {
        await peer.greet();
        peer.stream.destroy();
      }),
      NbdConnectionLost,
    );
  });

  test("ends in time when the server is silent", async () => {
    const { stream } = playNbdServer((peer) => peer.greet());
    await assert.rejects(openNbd(stream, { handshakeTimeoutMs: 50 }), NbdTimedOut);
    assert.ok(stream.destroyed);
  });

  test("refuses names that are too long without sending them", async () => {
    await assert.rejects(
      open((peer) => peer.greet(), { exportName: "x".repeat(4097) }),
      NbdRefused,
    );
  });

  test("is a named error for whatever bytes come", async () => {
    const number = fc.constantFrom(option.structuredReply, option.setMetaContext, option.go, option.startTls);
    const type = fc.constantFrom(1, 3, 4, error(1), error(5), error(8), 99);
    const reply = fc
      .tuple(number, type, fc.nat(20), fc.uint8Array({ maxLength: 20 }))
      .map(([of, kind, length, data]) =>
        Buffer.concat([u64(0x0003_e889_0455_65a9n), u32(of), u32(kind), u32(length), data]),
      );
    const pieces = fc.array(fc.oneof(reply, fc.uint8Array({ maxLength: 40 })), { maxLength: 6 });
    await fc.assert(
      fc.asyncProperty(pieces, fc.boolean(), fc.nat(3), async (bytes, greets, flags) => {
        const { stream } = playNbdServer(async (peer) => {
          if (greets) peer.send(u64(greetingMagic), u64(newstyleMagic), u16(flags));
          peer.send(...bytes);
          peer.stream.end();
        });
        const opening = openNbd(stream, { metaContexts: ["base:allocation"], handshakeTimeoutMs: 5_000 });
        await opening.then(
          (connection) => connection.destroy(),
          (thrown) => assert.ok(thrown instanceof NbdError && !(thrown instanceof NbdTimedOut), String(thrown)),
        );
      }),
      { numRuns: 300 },
    );
  });
});

describe("TLS", () => {
  const { certificate, key } = selfSignedCertificate("nbd.test");

  function secured(peer: NbdPeer): NbdPeer {
    const secure = new NbdPeer(new TLSSocket(peer.stream, { isServer: true, cert: certificate, key }));
    peer.stream.on("close", () => secure.stream.destroy());
    return secure;
  }

  function playTlsServer(injected: (peer: NbdPeer) => void = () => {}) {
    return playNbdServer(async (peer) => {
      await peer.greet();
      const { number } = await peer.takeOption();
      assert.equal(number, option.startTls);
      peer.send(
        peer.gather(() => {
          peer.replyToOption(number, optionReply.ack);
          injected(peer);
        }),
      );
      const secure = secured(peer);
      secure.replyToOption((await secure.takeOption()).number, optionReply.ack);
      const go = await secure.takeOption();
      secure.replyToOption(go.number, optionReply.info, exportInfo(4096));
      secure.replyToOption(go.number, optionReply.ack);
      const { cookie, offset, length } = await secure.takeRequest();
      secure.chunk(cookie, chunk.offsetData, Buffer.concat([u64(offset), Buffer.alloc(length, 9)]), true);
    });
  }

  test("is spoken before anything else, with a certificate that is checked", async () => {
    const { stream } = playTlsServer();
    const connection = await openNbd(stream, { tls: { serverName: "nbd.test", authorities: certificate } });
    const target = Buffer.alloc(4096);
    await connection.read(target, 0);
    assert.ok(target.equals(Buffer.alloc(4096, 9)));
    connection.destroy();
  });

  test("is spoken with a server that then has nothing but EXPORT_NAME", async () => {
    const { stream } = playNbdServer(async (peer) => {
      await peer.greet(1);
      peer.replyToOption((await peer.takeOption()).number, optionReply.ack);
      const secure = secured(peer);
      let asked = await secure.takeOption();
      for (; asked.number !== option.exportName; asked = await secure.takeOption())
        secure.replyToOption(asked.number, error(1));
      assert.equal(asked.data.toString(), "disk");
      secure.send(u64(4096), u16(1), Buffer.alloc(124));
      const { cookie, length } = await secure.takeRequest();
      secure.simple(cookie, 0, Buffer.alloc(length, 7));
    });
    const tls = { serverName: "nbd.test", authorities: certificate };
    const connection = await openNbd(stream, { exportName: "disk", metaContexts: ["base:allocation"], tls });
    assert.equal(connection.info.sizeBytes, 4096);
    const target = Buffer.alloc(4096);
    await connection.read(target, 0);
    assert.ok(target.equals(Buffer.alloc(4096, 7)));
    connection.destroy();
  });

  for (const [title, tls] of Object.entries({
    "a certificate of an unknown authority": { serverName: "nbd.test" },
    "a certificate of another": { serverName: "nbd.test", authorities: selfSignedCertificate("nbd.test").certificate },
    "a certificate for another name": { serverName: "other.test", authorities: certificate },
    "a certificate for a name instead of the address": { serverName: "127.0.0.1", authorities: certificate },
    "a key of our own that is none": { serverName: "nbd.test", authorities: certificate, certificate, key: "secret" },
  })) {
    test(`fails with ${title}`, async () => {
      const { stream } = playTlsServer();
      await assert.rejects(openNbd(stream, { tls, handshakeTimeoutMs: 5_000 }), (thrown) => {
        assert.ok(thrown instanceof NbdTlsFailed, String(thrown));
        assert.ok(!thrown.message.includes("secret"));
        return true;
      });
      assert.ok(stream.destroyed);
    });
  }

  test("is not done without when the server has none", async () => {
    const refusing = playNbdServer(async (peer) => {
      await peer.greet();
      peer.replyToOption((await peer.takeOption()).number, error(1));
      await peer.takeOption();
    });
    const tls = { serverName: "nbd.test", authorities: certificate };
    await assert.rejects(openNbd(refusing.stream, { tls }), NbdTlsFailed);
    await assert.rejects(refusing.played, /client has ended/);
    const { stream } = playNbdServer((peer) => peer.greet(2));
    await assert.rejects(openNbd(stream, { tls }), NbdTlsFailed);
  });

  test("takes nothing that was sent in plain for an answer", async () => {
    const { stream } = playTlsServer((peer) => peer.replyToOption(option.structuredReply, optionReply.ack));
    const tls = { serverName: "nbd.test", authorities: certificate };
    await assert.rejects(openNbd(stream, { tls, handshakeTimeoutMs: 5_000 }), NbdProtocolError);
  });

  test("takes nothing that was sent in plain for an answer, also in a piece of its own", async () => {
    const { stream } = playNbdServer(async (peer) => {
      await peer.greet();
      const { number } = await peer.takeOption();
      const ack = peer.gather(() => peer.replyToOption(number, optionReply.ack));
      const injected = peer.gather(() => peer.replyToOption(option.structuredReply, optionReply.ack));
      // Both before anybody who waits for the first has a turn, as two packets of SSH that came in one of TCP.
      for (const piece of [ack, injected]) stream.push(piece);
    });
    const tls = { serverName: "nbd.test", authorities: certificate };
    await assert.rejects(openNbd(stream, { tls, handshakeTimeoutMs: 5_000 }), {
      name: "NbdProtocolError",
      message: /sent 20 bytes that were not asked for/,
    });
  });

  test("that never begins ends in time", async () => {
    const { stream } = playNbdServer(async (peer) => {
      await peer.greet();
      peer.replyToOption((await peer.takeOption()).number, optionReply.ack);
    });
    const tls = { serverName: "nbd.test", authorities: certificate };
    await assert.rejects(openNbd(stream, { tls, handshakeTimeoutMs: 80 }), NbdTimedOut);
  });
});
