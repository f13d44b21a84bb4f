/** What docs/operations.md advises for the SSH server of a host, on a real one: it is enough, and what it closes is closed. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { after, describe, test } from "node:test";
import ssh2, { type Client, type ConnectConfig } from "ssh2";
import { KvmHypervisor } from "../../lambdas/hypervisors/kvm/kvm-hypervisor.ts";
import { startLibvirtd } from "../../local/kvm-host/libvirtd.ts";
import { workFolder } from "../../local/kvm-host/processes.ts";
import { startSshd } from "../../local/kvm-host/sshd.ts";

const page = readFileSync(new URL("../../docs/operations.md", import.meta.url), "utf8");

/** The lines of the first block of code after `words`, without their indentation. */
function blockAfter(words: string): string[] {
  const [, block = ""] = /```\n(.*?)```/s.exec(page.slice(page.indexOf(words))) ?? [];
  return block.split("\n").flatMap((line) => (line.trim() === "" ? [] : [line.trim()]));
}

const settings = blockAfter("snapferry.conf").filter((line) => !line.startsWith("Match "));
const keyOptions = (blockAfter("**authorized_keys**")[0] ?? "")
  .replace(/ssh-ed25519.*$/, "")
  .replace(/from="[^"]*"/, 'from="127.0.0.1"')
  .trim();

describe("a locked-down SSH server", async () => {
  const folder = workFolder();
  const [libvirtd, sshd] = await Promise.all([startLibvirtd(folder), startSshd(folder, { settings, keyOptions })]);
  after(async () => {
    await sshd.stop();
    await libvirtd.stop();
    folder.remove();
  });
  const hypervisor = new KvmHypervisor({
    endpoint: { host: "127.0.0.1", port: sshd.port, user: "root" },
    hostKeys: [sshd.fingerprint],
    uri: `qemu+unix:///system?socket=${libvirtd.socket}`,
    privateKey: async () => sshd.userKey,
    allowedCidrs: ["127.0.0.1"],
    owner: "hyp_1",
  });
  after(() => hypervisor.close());

  test("is described in full", () => {
    assert.ok(settings.length >= 9, settings.join("; "));
    assert.match(keyOptions, /^from="127\.0\.0\.1",restrict,port-forwarding$/);
  });

  test("lets Snapferry do its work", async () => {
    const { versions } = await hypervisor.check();
    assert.ok(versions.libvirt);
    assert.deepEqual(await Array.fromAsync(hypervisor.listVolumes()), []);
  });

  test("gives no terminal, and no port of the host's for others to come in by", async () => {
    const client = await logIn({ privateKey: sshd.userKey });
    await assert.rejects(
      called((done) => client.shell({ term: "xterm" }, done)),
      /pseudo-terminal/,
    );
    await assert.rejects(
      called((done) => client.forwardIn("127.0.0.1", 0, done)),
      /[Uu]nable to bind/,
    );
    client.end();
  });

  test("takes no password", async () => {
    await assert.rejects(logIn({ password: "password", authHandler: ["password"] }), /authentication methods failed/);
  });

  async function logIn(login: ConnectConfig): Promise<Client> {
    const client = new ssh2.Client();
    client.connect({ host: "127.0.0.1", port: sshd.port, username: "root", ...login });
    await once(client, "ready");
    return client;
  }
});

function called(call: (done: (error: Error | undefined) => void) => unknown): Promise<void> {
  return new Promise((resolve, reject) => call((error) => (error ? reject(error) : resolve())));
}
