import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { TransactWriteCommand } from "@aws-sdk/lib-dynamodb";
import ssh2 from "ssh2";
import * as errors from "../domain/errors.ts";
import type { HypervisorRow, HypervisorSettings } from "../domain/inventory.ts";
import type { Hypervisor } from "../hypervisors/port.ts";
import { SshHostKeyMismatch, SshKeyRejected } from "../protocols/ssh/errors.ts";
import { fingerprint } from "../protocols/ssh/host-key.ts";
import { publicKeyOf } from "../protocols/ssh/known-hosts.ts";
import type { Services } from "../services.ts";
import { registerHypervisor } from "./hypervisors.ts";
import { Problem } from "./problem.ts";
import { registerHypervisorBody } from "./request-schemas.ts";

const key = ssh2.utils.generateKeyPairSync("ed25519").public;
const keyFingerprint = fingerprint(Buffer.from(key.split(" ")[1] ?? "", "base64"));
const kvm = { kind: "kvm", endpoint: "ssh://backup@KVM1", secretId: "snapferry/acme/kvm1" };
const byKey = { ...kvm, hostKey: key };
const report = { versions: { libvirt: "9.0.0" }, warnings: ["There is no guest agent."] };

interface Registration {
  readonly answer: unknown;
  readonly row: HypervisorRow | undefined;
  readonly opened: readonly HypervisorSettings[];
  readonly closed: number;
}

/** What comes of registering `body` where the check of the hypervisor does as `check` says. */
async function register(body: object, check: () => Promise<typeof report> = async () => report): Promise<Registration> {
  const opened: HypervisorSettings[] = [];
  let closed = 0;
  let row: HypervisorRow | undefined;
  const send = async (command: unknown) => {
    if (command instanceof TransactWriteCommand)
      row = command.input.TransactItems?.[0]?.Put?.Item as HypervisorRow | undefined;
    return {};
  };
  const database = { client: { send }, tables: { hypervisors: "hypervisors" } };
  const services = { now: () => new Date(0), database } as unknown as Services;
  const adapter = { check, close: async () => void closed++ } as unknown as Hypervisor;
  const { body: answer } = await registerHypervisor(
    services,
    async ({ settings }) => {
      opened.push(settings);
      return adapter;
    },
    {
      caller: { tenant: "acme", role: "admin" },
      method: "POST",
      path: "/hypervisors",
      id: "",
      query: {},
      body: registerHypervisorBody.parse(body),
      idempotencyKey: undefined,
    },
  );
  return { answer, row, opened, closed };
}

async function refusal(body: object, failure: Error): Promise<Problem> {
  const failing = register(body, () => Promise.reject(failure));
  const problem = await failing.then(
    () => assert.fail("it was registered"),
    (error: unknown) => error,
  );
  assert.ok(problem instanceof Problem, String(problem));
  return problem;
}

describe("a KVM host", () => {
  it("is kept with its endpoint written out and the fingerprints of its keys, and answered without a secret", async () => {
    const { answer, row, opened, closed } = await register(byKey);
    const settings = {
      kind: "kvm",
      endpoint: "ssh://backup@kvm1:22",
      hostKeys: [keyFingerprint],
      hostKeyTypes: ["ssh-ed25519"],
      secretId: "snapferry/acme/kvm1",
      uri: "qemu:///system",
    };
    assert.deepEqual(row?.settings, settings);
    assert.deepEqual(opened, [settings]);
    assert.equal(closed, 1);
    const { id, ...rest } = answer as { id: string };
    assert.equal(id, row?.id);
    const at = "1970-01-01T00:00:00.000Z";
    assert.deepEqual(rest, { name: "kvm1", ...settings, tenantRules: [], lastCheck: { at, ...report }, createdAt: at });
  });

  it("is known by the lines that known_hosts has for it", async () => {
    const other = ssh2.utils.generateKeyPairSync("ed25519").public;
    const rsa = ssh2.utils.generateKeyPairSync("rsa", { bits: 2048 }).public;
    const knownHosts = `kvm1 ${rsa}\nkvm1 ${key}\nkvm2 ${other}\n`;
    const { row } = await register({ ...kvm, knownHosts });
    assert.ok(row?.settings.kind === "kvm");
    const { hostKeys, hostKeyTypes } = row.settings;
    assert.deepEqual(hostKeys, [fingerprint(publicKeyOf(rsa)!), keyFingerprint]);
    assert.deepEqual(hostKeyTypes, ["ssh-rsa", "ssh-ed25519"]);
  });

  it("is closed when its check has failed", async () => {
    let closed = 0;
    const adapter = { check: () => Promise.reject(new Error("no")), close: async () => void closed++ };
    const opened = async () => adapter as unknown as Hypervisor;
    const request = { body: registerHypervisorBody.parse(byKey), caller: { tenant: "acme", role: "admin" } };
    await assert.rejects(
      registerHypervisor({} as Services, opened, request as Parameters<typeof registerHypervisor>[2]),
    );
    assert.equal(closed, 1);
  });

  it("has a secret of the tenant's own, and nothing is opened with another", async () => {
    const reading = register({ ...byKey, secretId: "snapferry/other/kvm1" }, () => assert.fail("it was opened"));
    await assert.rejects(reading, (error: Problem) => {
      assert.deepEqual(error.extras.errors, [
        {
          pointer: "/secretId",
          detail: "must be the name of a secret that begins with snapferry/acme/: each tenant has its own",
        },
      ]);
      return true;
    });
  });
});

describe("a hypervisor that its check refuses is a problem that names the field", () => {
  const mismatch = new SshHostKeyMismatch("kvm1:22", "ssh-ed25519", "SHA256:x", [keyFingerprint]);
  const wrongKey = new SshKeyRejected("kvm1:22 does not take the key");
  const byFile = { kind: "file", directory: "/srv/volumes" };
  const byKnownHosts = { ...kvm, knownHosts: `kvm1 ${key}` };
  for (const [what, body, failure, pointer] of [
    ["another host key", byKey, new errors.HypervisorMisconfigured("wrong", { cause: mismatch }), "/hostKey"],
    ["another host key", byKnownHosts, new errors.HypervisorMisconfigured("wrong", { cause: mismatch }), "/knownHosts"],
    ["a key that is not taken", byKey, new errors.HypervisorMisconfigured("wrong", { cause: wrongKey }), "/secretId"],
    ["a secret that is none", byKey, new errors.SecretUnusable("there is no secret"), "/secretId"],
    ["a forbidden address", byKey, new errors.EndpointForbidden("not public"), "/endpoint"],
    ["nobody there", byKey, new errors.HypervisorUnavailable("nothing listens"), "/endpoint"],
    ["no qemu-nbd", byKey, new errors.HypervisorMisconfigured("The host has no program qemu-nbd."), "/endpoint"],
    ["a failure", byKey, new errors.HypervisorFailed("it failed"), "/endpoint"],
    ["no directory", byFile, new errors.HypervisorMisconfigured("is no directory"), "/directory"],
    ["a way out of the root", byFile, new errors.PathOutsideDirectory("is outside"), "/directory"],
  ] as const)
    it(`${what}: ${pointer}`, async () => {
      const { status, extras } = await refusal(body, failure);
      assert.equal(status, 400);
      assert.deepEqual(extras.errors, [{ pointer, detail: failure.message }]);
    });

  it("what is nobody's fault is none of a field", async () => {
    const fault = new TypeError("a bug");
    await assert.rejects(
      register(byKey, () => Promise.reject(fault)),
      fault,
    );
  });
});
