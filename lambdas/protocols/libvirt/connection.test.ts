import assert from "node:assert/strict";
import { duplexPair } from "node:stream";
import { describe, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import fc from "fast-check";
import { type LibvirtPeer, playLibvirt } from "../../../test/support/libvirt-peer.ts";
import { type LibvirtConnection, type LibvirtOptions, openLibvirt } from "./connection.ts";
import {
  LibvirtArgumentInvalid,
  LibvirtCallFailed,
  LibvirtConnectionLost,
  LibvirtError,
  LibvirtLoginRequired,
  LibvirtProtocolError,
  LibvirtTimedOut,
} from "./errors.ts";
import { frame, messageStatus, messageType } from "./message.ts";
import { blockJobEvent, procedures, programs } from "./procedures.ts";

const vm = { name: "vm1", uuid: "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", id: 3 };

async function open(script: (peer: LibvirtPeer) => Promise<void>, options: LibvirtOptions = {}) {
  const { stream, played } = playLibvirt(async (peer) => {
    await peer.open();
    await script(peer);
  });
  const connection = await openLibvirt(stream, { callTimeoutMs: 5_000, keepaliveIntervalMs: 60_000, ...options });
  return { connection, played, stream };
}

const hostname = (connection: LibvirtConnection) => connection.call("connectGetHostname", undefined);

describe("a connection to libvirt", () => {
  test("is opened in steps, for the wanted hypervisor", async () => {
    const calls: unknown[] = [];
    const { stream } = playLibvirt(async (peer) => {
      const take = async () => {
        const call = await peer.takeCall();
        calls.push([call.name, call.args]);
        return call;
      };
      peer.reply(await take(), "authList", { types: [0] });
      peer.reply(await take(), "connectOpen", undefined);
      peer.reply(await take(), "connectSupportsFeature", { supported: 1 });
    });
    const connection = await openLibvirt(stream);
    connection.destroy();
    assert.deepEqual(calls, [
      ["authList", undefined],
      ["connectOpen", { name: "qemu:///system", flags: 0 }],
      ["connectSupportsFeature", { feature: 10 }],
    ]);
  });

  test("lets polkit decide where libvirt asks for that", async () => {
    const { stream } = playLibvirt(async (peer) => {
      peer.reply(await peer.takeCall(), "authList", { types: [2] });
      const polkit = await peer.takeCall();
      assert.equal(polkit.name, "authPolkit");
      peer.reply(polkit, "authPolkit", { complete: 1 });
      peer.reply(await peer.takeCall(), "connectOpen", undefined);
      peer.reply(await peer.takeCall(), "connectSupportsFeature", { supported: 1 });
    });
    (await openLibvirt(stream)).destroy();
  });

  test("says what is missing when the user may not, or libvirt wants a password", async () => {
    const refused = playLibvirt(async (peer) => {
      peer.reply(await peer.takeCall(), "authList", { types: [2] });
      peer.fail(await peer.takeCall(), 45, "authentication failed: no agent");
    });
    await assert.rejects(openLibvirt(refused.stream), {
      name: "LibvirtLoginRequired",
      message: /group libvirt.*no agent/,
    });
    const sasl = playLibvirt(async (peer) => peer.reply(await peer.takeCall(), "authList", { types: [1] }));
    await assert.rejects(openLibvirt(sasl.stream), LibvirtLoginRequired);
    assert.ok(sasl.stream.destroyed);
  });

  test("that cannot be opened is ended", async () => {
    const { stream } = playLibvirt(async (peer) => {
      peer.reply(await peer.takeCall(), "authList", { types: [0] });
      peer.fail(await peer.takeCall(), 5, "no connection driver available");
    });
    await assert.rejects(openLibvirt(stream), LibvirtCallFailed);
    assert.ok(stream.destroyed);
    const silent = playLibvirt(async () => {});
    await assert.rejects(openLibvirt(silent.stream, { callTimeoutMs: 40 }), LibvirtTimedOut);
    assert.ok(silent.stream.destroyed);
    const [gone] = duplexPair();
    gone.destroy();
    await assert.rejects(openLibvirt(gone), LibvirtConnectionLost);
  });
});

describe("calls", () => {
  test("run side by side and are answered in any order", async () => {
    const { connection } = await open(async (peer) => {
      const calls = [];
      for (let count = 0; count < 5; count++) calls.push(await peer.takeCall());
      for (const call of calls.reverse()) {
        const { name } = call.args as { name: string };
        peer.reply(call, "domainLookupByName", { domain: { ...vm, name } });
      }
    });
    const names = ["a", "b", "c", "d", "e"];
    const found = await Promise.all(names.map((name) => connection.call("domainLookupByName", { name })));
    assert.deepEqual(
      found.map(({ domain }) => domain.name),
      names,
    );
    connection.destroy();
  });

  test("come back whole, however the bytes are cut", async () => {
    const xml = `<domain>${"é".repeat(300_000)}</domain>`;
    for (const piece of [1000, 65_536, 7_777]) {
      const { connection } = await open(async (peer) => {
        const write = peer.stream.write.bind(peer.stream) as (bytes: Buffer) => boolean;
        peer.stream.write = ((bytes: Buffer) => {
          for (let at = 0; at < bytes.length; at += piece) write(bytes.subarray(at, at + piece));
        }) as never;
        peer.reply(await peer.takeCall(), "domainGetXml", { xml });
        peer.reply(await peer.takeCall(), "connectGetHostname", { hostname: "kvm1" });
      });
      assert.equal((await connection.call("domainGetXml", { domain: vm, flags: 0 })).xml, xml);
      assert.equal((await hostname(connection)).hostname, "kvm1");
      connection.destroy();
    }
  });

  test("that libvirt fails are told by code, domain and message", async () => {
    const { connection } = await open(async (peer) => {
      peer.fail(await peer.takeCall(), 42, "Domain not found: no domain\nwith matching name 'x'");
      peer.fail(await peer.takeCall(), 4711, "");
      peer.reply(await peer.takeCall(), "connectGetHostname", { hostname: "kvm1" });
    });
    await assert.rejects(connection.call("domainLookupByName", { name: "x" }), (error) => {
      assert.ok(error instanceof LibvirtCallFailed);
      assert.deepEqual([error.code, error.number, error.domain], ["NO_DOMAIN", 42, 10]);
      assert.equal(
        error.message,
        "libvirt failed domainLookupByName: Domain not found: no domain with matching name 'x' (NO_DOMAIN).",
      );
      return true;
    });
    await assert.rejects(hostname(connection), { code: "OTHER", number: 4711, message: /no reason given \(4711\)/ });
    await hostname(connection);
    connection.destroy();
  });

  test("with arguments that do not fit are not sent", async () => {
    const { connection } = await open(async () => {});
    await assert.rejects(connection.call("domainLookupByUuid", { uuid: "x" }), LibvirtArgumentInvalid);
    await assert.rejects(
      connection.call("domainLookupByName", { name: "x".repeat(5_000_000) }),
      LibvirtArgumentInvalid,
    );
    assert.equal(connection.failure, undefined);
    connection.destroy();
  });

  test("that take too long leave the connection to the others", async () => {
    const { connection } = await open(async (peer) => {
      const late = [await peer.takeCall(), await peer.takeCall()];
      const next = await peer.takeCall();
      for (const call of late) peer.reply(call, "connectGetHostname", { hostname: "late" });
      peer.reply(next, "connectGetHostname", { hostname: "kvm1" });
    });
    const results = [20, 30].map((timeoutMs) => connection.call("connectGetHostname", undefined, { timeoutMs }));
    await Promise.all(results.map((result) => assert.rejects(result, LibvirtTimedOut)));
    assert.deepEqual(await hostname(connection), { hostname: "kvm1" });
    connection.destroy();
  });

  test("all end by name when the connection breaks", async () => {
    const { connection, stream } = await open(async (peer) => {
      for (let count = 0; count < 3; count++) await peer.takeCall();
      peer.stream.destroy();
    });
    const results = await Promise.allSettled([1, 2, 3].map(() => hostname(connection)));
    for (const result of results)
      assert.ok(result.status === "rejected" && result.reason instanceof LibvirtConnectionLost);
    await assert.rejects(hostname(connection), LibvirtConnectionLost);
    assert.ok(stream.destroyed);
  });

  test("end by name when the connection is closed, and libvirt is told", async () => {
    const names: string[] = [];
    const { connection, played } = await open(async (peer) => {
      names.push((await peer.takeCall()).name);
      const close = await peer.takeCall();
      names.push(close.name);
      peer.reply(close, "connectClose", undefined);
    });
    const running = assert.rejects(hostname(connection), LibvirtConnectionLost);
    await connection.close();
    await running;
    await played;
    await connection.close();
    assert.deepEqual(names, ["connectGetHostname", "connectClose"]);
  });
});

describe("keepalive", () => {
  test("pings are answered", async () => {
    const { connection, played } = await open(async (peer) => {
      peer.keepalive(1);
      assert.equal(await peer.takeKeepalive(), 2);
      peer.keepalive(1);
      assert.equal(await peer.takeKeepalive(), 2);
    });
    await played;
    connection.destroy();
  });

  test("pings of a peer that reads nothing are not answered without end", async () => {
    const { stream } = playLibvirt(async (peer) => peer.open());
    const connection = await openLibvirt(stream, { keepaliveIntervalMs: 60_000 });
    const ping = frame(
      { program: programs.keepalive, procedure: 1, type: messageType.event, serial: 0, status: messageStatus.ok },
      Buffer.alloc(0),
    );
    for (let count = 0; count < 10_000; count++) stream.push(ping);
    assert.ok(stream.writableLength > 64 * 1024 && stream.writableLength < 65 * 1024, `${stream.writableLength}`);
    connection.destroy();
  });

  test("a libvirt that only answers pings is alive, one that is silent is given up", async () => {
    let answers = 0;
    const { connection } = await open(
      async (peer) => {
        for (; answers < 12; answers++) {
          assert.equal(await peer.takeKeepalive(), 1);
          peer.keepalive(2);
        }
      },
      { keepaliveIntervalMs: 10 },
    );
    await assert.rejects(hostname(connection), { name: "LibvirtConnectionLost", message: /sign of life/ });
    assert.equal(answers, 12);
  });
});

describe("events of block jobs", () => {
  const event = { domain: vm, disk: "vda", type: 4, status: 3 };

  test("are heard from the first one on, until they are not wanted any more", async () => {
    const { connection, played } = await open(async (peer) => {
      const call = await peer.takeCall();
      assert.deepEqual(call.args, { event: 16, domain: undefined });
      peer.reply(call, "eventRegister", { callback: 7 });
      peer.blockJob({ callback: 7, ...event });
      const next = await peer.takeCall();
      peer.blockJob({ callback: 7, ...event, status: 0 });
      peer.reply(next, "connectGetHostname", { hostname: "" });
      const last = await peer.takeCall();
      peer.blockJob({ callback: 7, ...event, status: 1 });
      peer.reply(last, "connectGetHostname", { hostname: "" });
    });
    const [first, second]: [unknown[], unknown[]] = [[], []];
    const stop = await connection.onBlockJob((heard) => first.push(heard));
    await connection.onBlockJob((heard) => second.push(heard.status));
    await hostname(connection);
    stop();
    await hostname(connection);
    await played;
    assert.deepEqual(first, [event, { ...event, status: 0 }]);
    assert.deepEqual(second.slice(-2), [0, 1]);
    connection.destroy();
  });

  test("are not heard when libvirt has none, and can be asked for again", async () => {
    const { connection } = await open(async (peer) => {
      peer.fail(await peer.takeCall(), 3, "not supported");
      peer.reply(await peer.takeCall(), "eventRegister", { callback: 0 });
      peer.blockJob({ callback: 0, ...event });
      peer.reply(await peer.takeCall(), "connectGetHostname", { hostname: "" });
    });
    let heard = 0;
    const listen = () => connection.onBlockJob(() => heard++);
    await assert.rejects(listen(), LibvirtCallFailed);
    await listen();
    await hostname(connection);
    assert.equal(heard, 1);
    connection.destroy();
  });
});

describe("what breaks the protocol ends the connection and all calls", () => {
  const { program, number: procedure } = procedures.connectGetHostname;
  const { reply, event } = messageType;
  const { ok } = messageStatus;
  const answer = { program, procedure, type: reply, serial: 4, status: ok };
  const kvm1 = Buffer.from("00000000", "hex");
  const cases: Record<string, Buffer> = {
    "another protocol": Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n"),
    "a message of 4 GiB": Buffer.from("ffffffff", "hex"),
    "a message without a header": Buffer.from("00000004", "hex"),
    "another version": Buffer.concat([
      frame(answer, kvm1).subarray(0, 8),
      Buffer.from("00000002", "hex"),
      frame(answer, kvm1).subarray(12),
    ]),
    "an answer to nothing": frame({ ...answer, serial: 99 }, kvm1),
    "an answer of another procedure": frame({ ...answer, procedure: 1 }, Buffer.alloc(0)),
    "an answer of another program": frame({ ...answer, program: programs.qemu }, kvm1),
    "an answer with a strange status": frame({ ...answer, status: 2 }, kvm1),
    "an answer that is too short": frame(answer, Buffer.alloc(0)),
    "an answer that is too long": frame(answer, Buffer.alloc(8)),
    "an error that is cut off": frame({ ...answer, status: 1 }, Buffer.alloc(8)),
    "a call": frame({ ...answer, type: messageType.call }, kvm1),
    "a stream": frame({ ...answer, type: 3 }, kvm1),
    "an event that is cut off": frame(
      { ...answer, procedure: blockJobEvent.number, type: event, serial: 0 },
      Buffer.alloc(4),
    ),
  };
  for (const [title, bytes] of Object.entries(cases)) {
    test(title, async () => {
      const { connection, stream } = await open(async (peer) => {
        await peer.takeCall();
        peer.stream.write(bytes);
      });
      await assert.rejects(hostname(connection), LibvirtProtocolError);
      assert.ok(connection.failure instanceof LibvirtProtocolError);
      assert.ok(stream.destroyed);
    });
  }

  test("events that nobody asked for do no harm", async () => {
    const { connection } = await open(async (peer) => {
      peer.stream.write(frame({ ...answer, procedure: 318, type: event, serial: 0 }, Buffer.alloc(40)));
      peer.reply(await peer.takeCall(), "connectGetHostname", { hostname: "kvm1" });
    });
    await hostname(connection);
    connection.destroy();
  });

  test("an announced length takes no memory", async () => {
    const { connection } = await open(
      async (peer) => {
        await peer.takeCall();
        peer.stream.write(Buffer.from("02000000", "hex"));
        await pause(20);
      },
      { callTimeoutMs: 100 },
    );
    const before = process.memoryUsage().arrayBuffers;
    await assert.rejects(hostname(connection), LibvirtTimedOut);
    assert.ok(process.memoryUsage().arrayBuffers - before < 1_000_000);
    connection.destroy();
  });

  test("whatever bytes come, every call ends with a named error or its answer", async () => {
    const small = fc.constantFrom(0, 1, 2, 3, 4, 5, 10, 59);
    const programNumber = fc.constantFrom(programs.remote, programs.qemu, programs.keepalive, 0);
    const message = fc
      .tuple(programNumber, fc.oneof(small, fc.constant(339)), small, small, small, fc.uint8Array({ maxLength: 60 }))
      .map(([of, number, type, serial, status, payload]) =>
        frame({ program: of, procedure: number, type, serial, status }, Buffer.from(payload)),
      );
    const noise = fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes));
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.oneof({ arbitrary: message, weight: 5 }, noise), { maxLength: 6 }),
        async (messages) => {
          const { connection } = await open(async (peer) => {
            await peer.takeCall();
            peer.stream.write(Buffer.concat(messages));
            peer.stream.end();
          });
          const calls = await Promise.allSettled([
            hostname(connection),
            connection.call("connectListAllDomains", { needResults: 1, flags: 0 }),
          ]);
          for (const result of calls)
            if (result.status === "rejected") assert.ok(result.reason instanceof LibvirtError);
          await assert.rejects(hostname(connection), LibvirtError);
        },
      ),
      { numRuns: 300 },
    );
  });
});
