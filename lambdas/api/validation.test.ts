import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import * as z from "zod";
import { Problem } from "./problem.ts";
import { createSnapshotBody, registerHypervisorBody, registerStoreBody, restoreBody } from "./request-schemas.ts";
import { jsonPointer, parseBody } from "./validation.ts";

function errorsOf(schema: z.ZodType, body: unknown) {
  try {
    parseBody(schema, body);
    return [];
  } catch (error) {
    assert.ok(error instanceof Problem);
    return (error.extras.errors ?? []) as { pointer: string; detail: string }[];
  }
}

function detailOf(schema: z.ZodType, body: unknown): string {
  return errorsOf(schema, body)
    .map(({ pointer, detail }) => `${pointer} ${detail}`)
    .join("; ");
}

describe("what is wrong, in plain words", () => {
  const cases: [string, z.ZodType, unknown, string][] = [
    ["text", z.string(), 1, "must be text, not 1"],
    ["missing", z.string(), undefined, "is missing"],
    ["null", z.string(), null, "must be text, not null"],
    ["number", z.number(), "1", 'must be a number, not "1"'],
    ["NaN", z.number(), Number.NaN, "must be a number, not NaN"],
    ["whole number", z.int(), 1.5, "must be a whole number, not 1.5"],
    ["list", z.array(z.string()), {}, "must be a list, not an object"],
    ["object", z.strictObject({}), [], "must be an object, not a list"],
    ["choice", z.enum(["a", "b", "c"]), "d", 'must be "a", "b" or "c", not "d"'],
    ["constant", z.literal("file"), "kvm", 'must be "file", not "kvm"'],
    ["too long", z.string().max(3), "abcd", "must have at most 3 characters"],
    ["too short", z.string().min(2), "a", "must have at least 2 characters"],
    ["empty", z.string().min(1), "", "must not be empty"],
    ["too large", z.number().max(3), 4, "must be at most 3"],
    ["not less", z.number().lt(3), 3, "must be less than 3"],
    ["too small", z.number().min(3), 2, "must be at least 3"],
    ["not more", z.number().gt(3), 3, "must be more than 3"],
    ["too many", z.array(z.string()).max(1), ["a", "b"], "must have at most 1 entry"],
    ["too few", z.array(z.string()).min(2), ["a"], "must have at least 2 entries"],
    ["multiple", z.number().multipleOf(5), 7, "must be a multiple of 5, not 7"],
    ["format", z.email(), "x", 'is not a valid email: "x"'],
    ["pattern", z.string().regex(/^a/), "x", 'is not a valid value: "x"'],
    ["union", z.union([z.string(), z.boolean()]), 1, "is of no form that is allowed here: 1"],
    [
      "kind of object",
      z.discriminatedUnion("kind", [z.object({ kind: z.literal("a") }), z.object({ kind: z.literal("b") })]),
      { kind: "c" },
      'must be "a" or "b", not "c"',
    ],
    ["key", z.record(z.string().max(1), z.string()), { ab: "" }, "has a name that must have at most 1 character"],
    ["element", z.map(z.object({}), z.string()), new Map([[{}, 1]]), "has an entry that is not valid"],
  ];
  for (const [what, schema, value, words] of cases)
    test(what, () => {
      const [first] = errorsOf(schema, value);
      assert.equal(first?.detail, words);
    });

  test("long values are shortened and kept on one line", () => {
    const [error] = errorsOf(z.boolean(), `${"x".repeat(500)}\n`);
    assert.ok((error?.detail.length ?? 999) < 100);
    assert.ok(!error?.detail.includes("\n"));
  });

  test("no more than 20 errors are listed, and all are counted", () => {
    const body = Object.fromEntries(Array.from({ length: 500 }, (_, index) => [`field${index}`, 1]));
    assert.throws(
      () => parseBody(createSnapshotBody, body),
      (error: Problem) => error.extras.errors?.length === 20 && error.message.startsWith("500 fields are wrong."),
    );
  });

  test("pointers escape what means something in them", () => {
    assert.equal(jsonPointer(["a/b", "c~d", 0]), "/a~1b/c~0d/0");
  });

  test("a mistyped field is recognised by the kind of object that it is in", () => {
    for (const kind of ["file", "kvm"])
      assert.match(
        detailOf(registerHypervisorBody, { kind, directroy: "/a", hostKye: "x" }),
        kind === "file" ? /\/directroy .*did you mean directory\?/ : /\/hostKye .*did you mean hostKey\?/,
      );
    assert.equal(detailOf(registerHypervisorBody, {}), "/kind is missing");
    assert.equal(detailOf(registerHypervisorBody, { kind: "esx" }), '/kind must be "file" or "kvm", not "esx"');
    assert.equal(detailOf(registerHypervisorBody, []), " must be an object, not a list");
  });

  test("a mistyped field deep inside is recognised too", () => {
    const id = "hyp_01JD7QXN8ZK4V1TQ3C5M9R2WEY";
    assert.equal(
      detailOf(restoreBody, { target: { hypervisorId: id, nmae: "x" } }),
      "/target/nmae is not a field of this request; did you mean name?; /target/name is missing",
    );
    assert.match(
      detailOf(registerHypervisorBody, { kind: "file", directory: "/a", tenantRules: [{ patern: "*", tenant: "t" }] }),
      /tenantRules\/0\/patern .*did you mean pattern/,
    );
  });
});

describe("bodies", () => {
  test("a KVM host is known by its key, and its endpoint holds no password", () => {
    const kvm = { kind: "kvm", endpoint: "ssh://root@kvm1", secretId: "snapferry/acme/kvm1" };
    const key = `ssh-ed25519 ${Buffer.from("\0\0\0\x0bssh-ed25519\0\0\0\x20".padEnd(51, "k"), "latin1").toString("base64")}`;
    assert.equal(detailOf(registerHypervisorBody, { ...kvm, hostKey: key }), "");
    assert.equal(detailOf(registerHypervisorBody, { ...kvm, knownHosts: `other ${key}\nkvm1 ${key}` }), "");
    for (const [given, words] of [
      [{}, /^\/hostKey is missing: .*knownHosts$/],
      [{ hostKey: key, knownHosts: `kvm1 ${key}` }, /^\/knownHosts must not be given together with hostKey/],
      [{ hostKey: "SHA256:abc" }, /^\/hostKey must be the host's public key/],
      [{ knownHosts: `kvm2 ${key}` }, /^\/knownHosts has no key of kvm1, port 22, of a kind that is accepted$/],
      [{ hostKey: key, endpoint: "ssh://root:secret@kvm1" }, /^\/endpoint must be ssh:\/\/user@host or [^;]*$/],
      [{ hostKey: key, secretId: "mine" }, /^\/secretId must be the name of a secret/],
      [{ hostKey: key, uri: "qemu+ssh://other/system" }, /^\/uri must be qemu:\/\/\/system, or /],
    ] as const) {
      const detail = detailOf(registerHypervisorBody, { ...kvm, ...given });
      assert.match(detail, words);
      assert.ok(!detail.includes("secret@"), detail);
    }
  });

  test("a snapshot's texts have bounds in characters", () => {
    const at = (length: number) => "ä".repeat(length);
    assert.equal(detailOf(createSnapshotBody, { name: at(255), description: at(1024) }), "");
    assert.equal(detailOf(createSnapshotBody, { name: "😀".repeat(255) }), "");
    assert.equal(detailOf(createSnapshotBody, { name: at(256) }), "/name must have at most 255 characters, not 256");
    assert.equal(
      detailOf(createSnapshotBody, { description: at(1025) }),
      "/description must have at most 1024 characters, not 1025",
    );
    assert.equal(detailOf(createSnapshotBody, { name: "" }), "/name must not be empty");
    assert.match(detailOf(createSnapshotBody, { name: "\ud800" }), /surrogate/);
  });

  test("a name holds no control characters; a description tabs and line ends alone", () => {
    const codes = [...Array(0xa0).keys()];
    const refused = (field: "name" | "description") =>
      codes.filter((code) =>
        detailOf(createSnapshotBody, { [field]: `a${String.fromCharCode(code)}` }).endsWith("control characters"),
      );
    const control = codes.filter((code) => code < 0x20 || code >= 0x7f);
    assert.deepEqual(refused("name"), control);
    assert.deepEqual(
      refused("description"),
      control.filter((code) => !"\t\n\r".includes(String.fromCharCode(code))),
    );
  });

  test("a snapshot has at most 50 tags with keys of 128 and values of 256 characters", () => {
    const tags = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, index) => [`k${index}`, "v"]));
    assert.equal(detailOf(createSnapshotBody, { tags: tags(50) }), "");
    assert.equal(detailOf(createSnapshotBody, { tags: tags(51) }), "/tags must have at most 50 entries");
    assert.equal(detailOf(createSnapshotBody, { tags: { ["k".repeat(128)]: "v".repeat(256), empty: "" } }), "");
    assert.match(
      detailOf(createSnapshotBody, { tags: { ["k".repeat(129)]: "v" } }),
      /has a name that must have at most 128/,
    );
    assert.match(detailOf(createSnapshotBody, { tags: { "": "v" } }), /has a name that must not be empty/);
    assert.match(detailOf(createSnapshotBody, { tags: { k: "v".repeat(257) } }), /^\/tags\/k must have at most 256/);
    assert.equal(detailOf(createSnapshotBody, { tags: { k: 1 } }), "/tags/k must be text, not 1");
    assert.equal(detailOf(createSnapshotBody, { tags: ["a"] }), "/tags must be an object, not a list");
  });

  test("a restored volume has a name that a file may have", () => {
    const target = (name: unknown) => ({ target: { hypervisorId: "hyp_01JD7QXN8ZK4V1TQ3C5M9R2WEY", name } });
    for (const name of ["a", "web root.img", "ä".repeat(127), "x".repeat(255), "a..b", "-"])
      assert.equal(detailOf(restoreBody, target(name)), "", name);
    for (const name of ["", "a/b", "a\0b", ".", "..", ".hidden", "x".repeat(256), "ä".repeat(128), "\udc00", 7, null])
      assert.match(detailOf(restoreBody, target(name)), /^\/target\/name /, String(name));
  });

  test("a store's fields are checked by their form", () => {
    const store = { name: "off-site", bucket: "my.bucket-1", secretId: "snapferry/acme/off-site" };
    assert.equal(detailOf(registerStoreBody, store), "");
    assert.equal(
      detailOf(registerStoreBody, {
        ...store,
        endpoint: "https://s3.example.com:9000",
        prefix: "a/b",
        region: "eu-west-1",
        pathStyle: true,
      }),
      "",
    );
    const wrong: [string, unknown][] = [
      ["bucket", "Bucket"],
      ["bucket", "ab"],
      ["bucket", "192.168.0.1"],
      ["bucket", "a..b"],
      ["bucket", "a/b"],
      ["prefix", "/a"],
      ["prefix", "a/../b"],
      ["prefix", "a//b"],
      ["endpoint", "ftp://example.com"],
      ["endpoint", "https://user:pw@example.com"],
      ["endpoint", "https://example.com/path"],
      ["endpoint", "https://example.com/?x"],
      ["endpoint", "not a url"],
      ["secretId", "other/secret"],
      ["secretId", "snapferry/acme/"],
      ["secretId", "snapferry/off-site"],
      ["region", "US EAST"],
      ["pathStyle", "true"],
    ];
    for (const [field, value] of wrong)
      assert.match(
        detailOf(registerStoreBody, { ...store, [field]: value }),
        new RegExp(`^/${field} `),
        `${field}: ${value}`,
      );
  });

  test("no JSON at all makes a schema throw anything but a problem", () => {
    fc.assert(
      fc.property(
        fc.constantFrom(createSnapshotBody, restoreBody, registerStoreBody, registerHypervisorBody),
        fc.jsonValue(),
        (schema, value) => {
          for (const { detail } of errorsOf(schema as z.ZodType, value)) assert.ok(detail.length > 0);
        },
      ),
    );
  });
});
