import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { after, describe, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { type BlockJobEvent, type LibvirtConnection, openLibvirt } from "../../lambdas/protocols/libvirt/connection.ts";
import { LibvirtCallFailed, LibvirtConnectionLost, LibvirtTimedOut } from "../../lambdas/protocols/libvirt/errors.ts";
import * as flags from "../../lambdas/protocols/libvirt/flags.ts";
import type { Domain } from "../../lambdas/protocols/libvirt/procedures.ts";
import { openNbd } from "../../lambdas/protocols/nbd/connection.ts";
import { SshConnection } from "../../lambdas/protocols/ssh/connection.ts";
import { domainXml, guestFiles, makeDisk } from "../../local/kvm-host/guest.ts";
import { startLibvirtd } from "../../local/kvm-host/libvirtd.ts";
import { run, workFolder } from "../../local/kvm-host/processes.ts";
import { startSshd } from "../../local/kvm-host/sshd.ts";
import { dialUnix, startQemuNbd } from "./nbd-servers.ts";

// First of all: it may take half a minute, and libvirtd hangs up on whoever does not answer its pings for that long.
const files = await guestFiles();
const folder = workFolder();
const libvirtd = await startLibvirtd(folder);
const libvirt = await openLibvirt(connect(libvirtd.socket));
after(async () => {
  await libvirt.close();
  await libvirtd.stop();
  folder.remove();
});

const none = { flags: 0 };
const all = { needResults: 1, flags: 0 };

function failsWith(code: string): { name: string; code: string } {
  return { name: "LibvirtCallFailed", code };
}

/** Asks until the answer is there, for at most 90 s: an emulated guest on a busy machine takes its time. */
async function until<T>(ask: () => Promise<T | undefined>): Promise<T> {
  for (const deadline = Date.now() + 90_000; Date.now() < deadline; await pause(200)) {
    const answer = await ask();
    if (answer !== undefined) return answer;
  }
  throw new Error("This did not come about.");
}

describe("libvirtd", () => {
  test("tells who it is", async () => {
    const { version } = await libvirt.call("connectGetVersion", undefined);
    const { version: library } = await libvirt.call("connectGetLibVersion", undefined);
    assert.ok(version >= 5_000_000 && library >= 7_000_000, `${version} ${library}`);
    assert.ok((await libvirt.call("connectGetHostname", undefined)).hostname.length > 0);
    assert.match((await libvirt.call("connectGetCapabilities", undefined)).xml, /^<capabilities>/);
  });

  test("answers calls in any number at the same time", async () => {
    const answers = await Promise.all(Array.from({ length: 100 }, () => libvirt.call("connectGetHostname", undefined)));
    assert.equal(new Set(answers.map(({ hostname }) => hostname)).size, 1);
  });

  test("says by code what is not there or not right", async () => {
    await assert.rejects(libvirt.call("domainLookupByName", { name: "gone" }), failsWith("NO_DOMAIN"));
    await assert.rejects(libvirt.call("domainLookupByUuid", { uuid: crypto.randomUUID() }), failsWith("NO_DOMAIN"));
    await assert.rejects(libvirt.call("poolLookupByName", { name: "gone" }), failsWith("NO_STORAGE_POOL"));
    await assert.rejects(libvirt.call("volumeLookupByPath", { path: "/gone" }), failsWith("NO_STORAGE_VOLUME"));
    await assert.rejects(libvirt.call("domainDefineXml", { xml: "<domain>", ...none }), failsWith("XML_DETAIL"));
    await assert.rejects(libvirt.call("domainDefineXml", { xml: "<volume/>", ...none }), failsWith("XML_ERROR"));
    const wrong = openLibvirt(connect(libvirtd.socket), { uri: "no-such:///system" });
    await assert.rejects(wrong, LibvirtCallFailed);
  });

  test("pools and volumes are made, found, listed and deleted", async () => {
    const path = folder.file("pool");
    mkdirSync(path);
    const xml = `<pool type='dir'><name>p1</name><target><path>${path}</path></target></pool>`;
    const { pool } = await libvirt.call("poolDefineXml", { xml, ...none });
    await libvirt.call("poolCreate", { pool, ...none });
    assert.deepEqual((await libvirt.call("connectListAllPools", all)).pools, [pool]);
    assert.deepEqual(await libvirt.call("poolLookupByTargetPath", { path }), { pool });
    assert.ok((await libvirt.call("poolGetInfo", { pool })).available > 0);
    assert.match((await libvirt.call("poolGetXml", { pool, ...none })).xml, /<name>p1<\/name>/);
    const volumeXml =
      "<volume><name>v1.qcow2</name><capacity>1048576</capacity><target><format type='qcow2'/></target></volume>";
    const { volume } = await libvirt.call("volumeCreateXml", { pool, xml: volumeXml, ...none });
    await assert.rejects(
      libvirt.call("volumeCreateXml", { pool, xml: volumeXml, ...none }),
      failsWith("STORAGE_VOLUME_EXISTS"),
    );
    assert.deepEqual(await libvirt.call("volumeLookupByName", { pool, name: "v1.qcow2" }), { volume });
    const { path: volumePath } = await libvirt.call("volumeGetPath", { volume });
    assert.equal(volumePath, `${path}/v1.qcow2`);
    assert.deepEqual(await libvirt.call("volumeLookupByPath", { path: volumePath }), { volume });
    assert.deepEqual(await libvirt.call("poolLookupByVolume", { volume }), { pool });
    assert.equal((await libvirt.call("volumeGetInfo", { volume })).capacity, 1_048_576);
    assert.match((await libvirt.call("volumeGetXml", { volume, ...none })).xml, /type='qcow2'/);
    writeFileSync(`${path}/foreign.raw`, "x");
    await libvirt.call("poolRefresh", { pool, ...none });
    const { volumes } = await libvirt.call("poolListAllVolumes", { pool, ...all });
    assert.deepEqual(volumes.map(({ name }) => name).sort(), ["foreign.raw", "v1.qcow2"]);
    await libvirt.call("volumeDelete", { volume, ...none });
    await assert.rejects(libvirt.call("volumeGetInfo", { volume }), failsWith("NO_STORAGE_VOLUME"));
    await libvirt.call("poolDestroy", { pool });
    await libvirt.call("poolUndefine", { pool });
    assert.deepEqual((await libvirt.call("connectListAllPools", all)).pools, []);
  });

  test("keeps a connection that answers its pings, and is asked itself", async () => {
    const own = workFolder();
    const asking = await startLibvirtd(own, 1);
    const quiet = await openLibvirt(connect(asking.socket), { keepaliveIntervalMs: 200 });
    // Without answers it is hung up on after six seconds.
    await pause(7_000);
    assert.equal(quiet.failure, undefined);
    await quiet.call("connectGetHostname", undefined);
    await quiet.close();
    await asking.stop();
    own.remove();
  });

  test("is spoken to through SSH, and a cut connection fails calls by name", async () => {
    const sshd = await startSshd(folder);
    const ssh = await SshConnection.open({
      host: "127.0.0.1",
      port: sshd.port,
      user: "root",
      privateKey: sshd.userKey,
      hostKeys: [sshd.fingerprint],
      allowedCidrs: ["127.0.0.1"],
    });
    const remote = await openLibvirt(await ssh.openUnixSocket(libvirtd.socket));
    assert.deepEqual(
      await remote.call("connectGetHostname", undefined),
      await libvirt.call("connectGetHostname", undefined),
    );
    const failed = assert.rejects(
      (async () => {
        for (;;) await remote.call("connectGetCapabilities", undefined);
      })(),
      LibvirtConnectionLost,
    );
    await ssh.close();
    await failed;
    await sshd.stop();
  });
});

describe("a guest", () => {
  const file = (name: string) => folder.file(name);
  const [base, snap1, snap2] = ["disk.qcow2", "snap1.qcow2", "snap2.qcow2"].map(file) as [string, string, string];
  const diskFile = async (domain: Domain) => {
    const { xml } = await libvirt.call("domainGetXml", { domain, ...none });
    return /<source file='([^']+)'/.exec(xml)?.[1];
  };
  const events: BlockJobEvent[] = [];
  let domain: Domain;

  async function agent(execute: string): Promise<unknown> {
    const command = JSON.stringify({ execute });
    const { result } = await libvirt.call("domainAgentCommand", { domain, command, timeout: 5, ...none });
    return JSON.parse(result ?? "null").return;
  }

  async function snapshot(target: string, more: number): Promise<void> {
    const xml = `<domainsnapshot><disks><disk name='vda' snapshot='external'><source file='${target}'/></disk></disks></domainsnapshot>`;
    const { diskOnly, atomic, noMetadata } = flags.snapshotCreate;
    await libvirt.call("domainSnapshotCreateXml", { domain, xml, flags: diskOnly | atomic | noMetadata | more });
  }

  /** Waits for a job of `vda` to come into a state, which libvirt tells. */
  async function jobIs(status: number): Promise<void> {
    await until(async () =>
      events.some((event) => event.disk === "vda" && event.status === status) ? true : undefined,
    );
    events.length = 0;
  }

  test("is defined and started, and its agent answers", async () => {
    makeDisk(base);
    const xml = domainXml({ name: "vm1", files, disk: base, agentSocket: file("agent.sock") });
    ({ domain } = await libvirt.call("domainDefineXml", { xml, ...none }));
    assert.equal(domain.id, -1);
    assert.equal((await libvirt.call("domainGetState", { domain, ...none })).state, flags.domainState.shutoff);
    assert.equal((await libvirt.call("domainHasManagedSave", { domain, ...none })).result, 0);
    assert.deepEqual((await libvirt.call("connectListAllDomains", all)).domains, [domain]);
    ({ domain } = await libvirt.call("domainCreate", { domain, ...none }));
    assert.ok(domain.id > 0);
    assert.equal((await libvirt.call("domainGetState", { domain, ...none })).state, flags.domainState.running);
    await assert.rejects(libvirt.call("domainCreate", { domain, ...none }), failsWith("OPERATION_INVALID"));
    await until(() => agent("guest-ping").catch((error) => assert.ok(error instanceof LibvirtCallFailed)));
    assert.ok(
      (await libvirt.call("domainGetBlockInfo", { domain, disk: "vda", ...none })).capacity === 64 * 1024 * 1024,
    );
    await libvirt.onBlockJob((event) => events.push(event));
  });

  test("its writes are held and let go", async () => {
    const mounted = async () => (await agent("guest-fsfreeze-status")) as string;
    const { filesystems } = await libvirt.call("domainFsFreeze", { domain, mountpoints: [], ...none });
    assert.equal(filesystems, 1);
    assert.equal(await mounted(), "frozen");
    assert.equal((await libvirt.call("domainFsThaw", { domain, mountpoints: [], ...none })).filesystems, 1);
    assert.equal(await mounted(), "thawed");
  });

  test("quiesced snapshots are taken while it runs, and what changed in between is told", async () => {
    await snapshot(snap1, flags.snapshotCreate.quiesce);
    assert.equal(await diskFile(domain), snap1);
    await assert.rejects(snapshot(snap1, 0), LibvirtCallFailed);
    await pause(1_500);
    await snapshot(snap2, flags.snapshotCreate.quiesce);
    assert.deepEqual((await libvirt.call("domainListAllSnapshots", { domain, ...all })).snapshots, []);
    const socket = file("snap1.sock");
    const nbd = await startQemuNbd(socket, snap1, ["--read-only", "--allocation-depth", "--format=qcow2"]);
    const connection = await openNbd(await dialUnix(socket), { metaContexts: ["qemu:allocation-depth"] });
    let changed = 0;
    for await (const { length, flags: depth } of connection.statusOf("qemu:allocation-depth", {
      offset: 0,
      length: connection.info.sizeBytes,
    })) {
      if (depth === 1) changed += length;
    }
    assert.ok(changed > 0 && changed < 32 * 1024 * 1024, `${changed} bytes changed`);
    const image = Buffer.alloc(connection.info.sizeBytes);
    await connection.read(image, 0);
    await connection.close();
    await nbd.stop();
    writeFileSync(file("snap1.raw"), image);
    run("/sbin/e2fsck", "-fn", file("snap1.raw"));
  });

  test("a snapshot is merged into the one before while it runs", async () => {
    events.length = 0;
    const merge = { domain, disk: "vda", bandwidth: 0 };
    await libvirt.call("domainBlockCommit", { ...merge, base, top: snap1, flags: 0 });
    await jobIs(flags.blockJobStatus.completed);
    await libvirt.call("domainBlockCommit", { ...merge, base, top: snap2, flags: flags.blockCommit.active });
    await jobIs(flags.blockJobStatus.ready);
    const job = await libvirt.call("domainGetBlockJobInfo", { domain, disk: "vda", ...none });
    assert.deepEqual([job.found, job.type], [1, flags.blockJobType.activeCommit]);
    await libvirt.call("domainBlockJobAbort", { domain, disk: "vda", flags: flags.blockJobAbort.pivot });
    await jobIs(flags.blockJobStatus.completed);
    assert.equal((await libvirt.call("domainGetBlockJobInfo", { domain, disk: "vda", ...none })).found, 0);
    assert.equal(await diskFile(domain), base);
  });

  test("a disk is attached and detached, processors and memory are set", async () => {
    const extra = file("extra.qcow2");
    run("qemu-img", "create", "-q", "-f", "qcow2", extra, "8M");
    const xml = `<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='${extra}'/><target dev='vdb' bus='virtio'/></disk>`;
    const { live, config } = flags.affect;
    await libvirt.call("domainAttachDevice", { domain, xml, flags: live | config });
    assert.equal(
      (await libvirt.call("domainGetBlockInfo", { domain, disk: "vdb", ...none })).capacity,
      8 * 1024 * 1024,
    );
    await libvirt.call("domainDetachDevice", { domain, xml, flags: config });
    await libvirt.call("domainSetVcpus", { domain, count: 1, flags: config });
    await libvirt.call("domainSetMemory", { domain, memory: 131_072, flags: config });
    const { xml: inactive } = await libvirt.call("domainGetXml", { domain, flags: flags.domainXml.inactive });
    assert.match(inactive, /<currentMemory unit='KiB'>131072</);
    assert.ok(!inactive.includes(extra));
  });

  test("a call that is given up leaves the connection alive, and the call behind it is answered", async () => {
    const command = JSON.stringify({ execute: "guest-info" });
    const slow = { domain, command, timeout: 5, ...none };
    await assert.rejects(libvirt.call("domainAgentCommand", slow, { timeoutMs: 1 }), LibvirtTimedOut);
    assert.ok(await agent("guest-info"));
  });

  test("is ended and forgotten", async () => {
    await libvirt.call("domainReboot", { domain, ...none });
    await libvirt.call("domainDestroy", { domain, ...none });
    assert.equal((await libvirt.call("domainGetState", { domain, ...none })).state, flags.domainState.shutoff);
    await assert.rejects(libvirt.call("domainShutdown", { domain, ...none }), failsWith("OPERATION_INVALID"));
    await libvirt.call("domainUndefine", {
      domain,
      flags: flags.undefine.managedSave | flags.undefine.snapshotsMetadata,
    });
    await assert.rejects(libvirt.call("domainGetState", { domain, ...none }), failsWith("NO_DOMAIN"));
  });
});

test("a libvirtd that is killed fails every call by name", async () => {
  const own = workFolder();
  const killed = await startLibvirtd(own);
  const connection: LibvirtConnection = await openLibvirt(connect(killed.socket));
  const calls = Promise.allSettled(
    Array.from({ length: 50 }, () => connection.call("connectGetCapabilities", undefined)),
  );
  await killed.stop("SIGKILL");
  for (const result of await calls)
    if (result.status === "rejected") assert.ok(result.reason instanceof LibvirtConnectionLost);
  await assert.rejects(connection.call("connectGetHostname", undefined), LibvirtConnectionLost);
  own.remove();
});
