import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, request } from "node:http";
import type { AddressInfo } from "node:net";
import { describe, test } from "node:test";
import fc from "fast-check";
import { isForbiddenAddress, isWithin } from "./addresses.ts";
import { checkEndpoint, ForbiddenAddress, guardedAgents, guardedLookup } from "./endpoint.ts";

const none = { allowedCidrs: [] };

describe("addresses", () => {
  for (const ip of [
    ...["127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1"],
    ...[
      "169.254.169.254",
      "169.254.170.2",
      "100.64.0.1",
      "100.127.255.255",
      "224.0.0.1",
      "255.255.255.255",
      "198.18.0.1",
    ],
    ...["::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:169.254.169.254"],
    ...[
      "::ffff:7f00:1",
      "::ffff:8.8.8.8",
      "::127.0.0.1",
      "64:ff9b::7f00:1",
      "64:ff9b:1::a00:1",
      "2002:7f00:1::",
      "2001::1",
    ],
    ...["2001:db8::1", "fec0::1", "", "localhost", "1.2.3", "0x7f.0.0.1"],
  ]) {
    test(`${ip || "nothing"} is forbidden`, () => assert.equal(isForbiddenAddress(ip, []), true));
  }

  for (const ip of ["8.8.8.8", "52.216.0.1", "172.32.0.1", "100.128.0.1", "2600:1f18::1", "2a00:1450::1"]) {
    test(`${ip} is public`, () => assert.equal(isForbiddenAddress(ip, []), false));
  }

  test("an allowed network opens itself and nothing else", () => {
    assert.equal(isForbiddenAddress("10.1.2.3", ["10.1.0.0/16"]), false);
    assert.equal(isForbiddenAddress("::ffff:10.1.2.3", ["10.1.0.0/16"]), false);
    assert.equal(isForbiddenAddress("10.2.0.1", ["10.1.0.0/16"]), true);
    assert.equal(isForbiddenAddress("127.0.0.1", ["127.0.0.1"]), false);
    assert.equal(isForbiddenAddress("127.0.0.2", ["127.0.0.1"]), true);
    assert.equal(isForbiddenAddress("fd00::5", ["fd00::/64"]), false);
    assert.equal(isForbiddenAddress("10.0.0.1", ["::/0"]), true);
  });

  test("what is not a CIDR is said so", () => {
    for (const cidr of ["10.0.0.0/x", "ten", "10.0.0.0/", ""])
      assert.throws(() => isWithin("10.0.0.1", [cidr]), TypeError);
  });

  test("no text at all makes the check throw, and only addresses pass it", () => {
    fc.assert(fc.property(fc.string(), (text) => isForbiddenAddress(text, []) || /^[0-9a-f.:]+$/i.test(text)));
  });

  test("a private IPv4 address is forbidden in each of its IPv6 spellings", () => {
    const octet = fc.integer({ min: 0, max: 255 });
    fc.assert(
      fc.property(octet, octet, octet, (b, c, d) => {
        const hex = `${((10 << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
        const spellings = [
          `10.${b}.${c}.${d}`,
          `::ffff:${hex}`,
          `0:0:0:0:0:FFFF:${hex}`,
          `64:ff9b::${hex}`,
          `2002:${hex}::`,
        ];
        return spellings.every((ip) => isForbiddenAddress(ip, []));
      }),
    );
  });
});

describe("endpoints", () => {
  for (const url of [
    ...[
      "http://127.0.0.1:9000",
      "https://127.0.0.1",
      "https://localhost",
      "https://[::1]:9000",
      "https://0x7f000001",
      "https://2130706433",
    ],
    ...[
      "https://[::ffff:169.254.169.254]/",
      "http://8.8.8.8",
      "ftp://8.8.8.8",
      "file:///etc/passwd",
      "https://key:secret@8.8.8.8",
      "s3",
    ],
  ]) {
    test(`${url} is refused`, async () => {
      await assert.rejects(checkEndpoint(url, none), ForbiddenAddress);
    });
  }

  test("a public address is accepted with https", async () => {
    await checkEndpoint("https://8.8.8.8:9000/path", none);
    await checkEndpoint("https://[2600:1f18::1]", none);
  });

  test("http is accepted for allowed addresses", async () => {
    await checkEndpoint("http://127.0.0.1:9000", { allowedCidrs: ["127.0.0.0/8"] });
    await checkEndpoint("http://localhost:9000", { allowedCidrs: ["127.0.0.0/8", "::1"] });
  });
});

describe("connections", () => {
  async function get(url: string, allowedCidrs: readonly string[]): Promise<number | undefined> {
    const { httpAgent } = guardedAgents(allowedCidrs);
    try {
      const sent = request(url, { agent: httpAgent }).end();
      const [response] = await once(sent, "response");
      response.resume();
      return response.statusCode;
    } finally {
      httpAgent.destroy();
    }
  }

  test("go to allowed addresses and to no others, by name and by number", async () => {
    const server = createServer((_, response) => response.end("inside"));
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    try {
      for (const host of ["localhost", "127.0.0.1"]) {
        assert.equal(await get(`http://${host}:${port}/`, ["127.0.0.1", "::1"]), 200);
        await assert.rejects(get(`http://${host}:${port}/`, []), ForbiddenAddress);
      }
    } finally {
      server.close();
    }
  });

  test("a lookup answers in the form that it is asked for", async () => {
    const lookup = guardedLookup(["127.0.0.1", "::1"]);
    const all = await new Promise((resolve) =>
      lookup("localhost", { all: true }, (_, addresses) => resolve(addresses)),
    );
    assert.ok(Array.isArray(all) && all.length > 0);
    const one = await new Promise((resolve) => lookup("localhost", {}, (_, address) => resolve(address)));
    assert.equal(typeof one, "string");
    const unknown = await new Promise((resolve) => lookup("no-such-host.invalid", {}, (error) => resolve(error)));
    assert.ok(unknown instanceof Error && !(unknown instanceof ForbiddenAddress));
  });
});
