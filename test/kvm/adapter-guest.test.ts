/** Snapshots of a real guest: its file systems are held by its agent, and let go on every path. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { HypervisorFailed, QuiesceFailed } from "../../lambdas/domain/errors.ts";
import { KvmHost } from "../../lambdas/hypervisors/kvm/host.ts";
import type { KvmHypervisor } from "../../lambdas/hypervisors/kvm/kvm-hypervisor.ts";
import { whileHeld } from "../../lambdas/hypervisors/kvm/quiesce.ts";
import type { TakenSnapshot } from "../../lambdas/hypervisors/port.ts";
import type { Domain } from "../../lambdas/protocols/libvirt/procedures.ts";
import { domainXml, guestFiles, makeDisk } from "../../local/kvm-host/guest.ts";
import { run } from "../../local/kvm-host/processes.ts";
import { AdapterHost, type KvmSubject } from "./adapter-host.ts";

// First of all: it may take half a minute, and libvirtd hangs up on whoever does not answer its pings for that long.
const files = await guestFiles();
const host = await AdapterHost.start();
const subject: KvmSubject = await host.makeSubject();
const hypervisor: KvmHypervisor = subject.hypervisor;
after(async () => {
  await subject[Symbol.asyncDispose]();
  await host[Symbol.asyncDispose]();
});

const disks = ["first.qcow2", "second.qcow2"].map((name) => subject.image(name)) as [string, string];
const console = host.folder.file("console");
let domain: Domain;
let count = 0;

async function agent(execute: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
  const command = JSON.stringify({ execute, arguments: args });
  const { result } = await host.libvirt.call("domainAgentCommand", { domain, command, timeout: 5, flags: 0 });
  return JSON.parse(result ?? "null").return;
}

function inGuest(script: string): Promise<unknown> {
  return agent("guest-exec", { path: "/bin/sh", arg: ["-c", script] });
}

async function until(holds: () => Promise<boolean>, seconds = 90): Promise<void> {
  for (const deadline = Date.now() + seconds * 1000; Date.now() < deadline; await pause(200)) if (await holds()) return;
  throw new Error("This did not come about.");
}

const answers = () =>
  agent("guest-ping").then(
    () => true,
    () => false,
  );

const isThawed = () =>
  agent("guest-fsfreeze-status").then(
    (status) => status === "thawed",
    () => false,
  );

/** Of what is held now. */
const notes = () => readdirSync(subject.own("held"));

/** The longest time between two writes of the guest so far, in seconds. */
function longestGap(): number {
  const gaps = [...readFileSync(console, "utf8").matchAll(/longest gap (\d+)/g)].map(([, text]) => Number(text));
  return (gaps.at(-1) ?? 0) / 100;
}

function take(quiesce: boolean | "preferred", by = hypervisor): Promise<TakenSnapshot[]> {
  const moment = ++count;
  const requests = disks.map((externalId, index) => ({ externalId, snapshotId: `snap_${moment}_${index}` }));
  return by.takeSnapshots(requests, { quiesce });
}

/** The frozen bytes of a disk, as the adapter reads them, in a file. */
async function readFrozen(taken: TakenSnapshot): Promise<string> {
  const descriptor = await hypervisor.openExport(taken);
  const bytes = Buffer.alloc(descriptor.sizeBytes);
  const reader = await hypervisor.openReader(descriptor);
  await reader.read(bytes, 0);
  await reader[Symbol.asyncDispose]();
  await hypervisor.closeExport(descriptor);
  const path = host.folder.file(`${taken.snapshotId}.raw`);
  writeFileSync(path, bytes);
  return path;
}

function counterOf(image: string): number {
  return Number(run("/sbin/debugfs", "-R", "cat counter", image));
}

before(async () => {
  for (const disk of disks) makeDisk(disk);
  const [disk, secondDisk] = disks;
  const agentSocket = host.folder.file("agent.sock");
  domain = await subject.defineXml(domainXml({ name: "guest", files, disk, secondDisk, agentSocket, console }));
  await subject.start(domain);
  await until(answers);
  await until(async () => readFileSync(console, "utf8").includes("longest gap"));
});

describe("a guest with an agent", () => {
  test("is found with its disks, its state and its agent", async () => {
    const [vm] = await Array.fromAsync(hypervisor.listVms());
    assert.deepEqual(vm, {
      externalId: domain.uuid,
      name: "guest",
      state: "running",
      guestAgent: "connected",
      disks: [
        { target: "vda", volumeExternalId: disks[0] },
        { target: "vdb", volumeExternalId: disks[1] },
      ],
    });
    assert.deepEqual((await hypervisor.check()).warnings, []);
  });

  test("is snapshotted as if its power were cut when nothing else is wanted", async () => {
    const taken = await take(false);
    assert.deepEqual(
      taken.map(({ consistency }) => consistency),
      ["crash", "crash"],
    );
  });

  test("has its file systems held for both disks at one moment, clean and for a short time", async (t) => {
    await pause(3000);
    const before = longestGap();
    const taken = await take(true);
    assert.deepEqual(
      taken.map(({ consistency }) => consistency),
      ["filesystem", "filesystem"],
    );
    assert.ok(await isThawed());
    await pause(3000);
    const gap = longestGap();
    t.diagnostic(`longest time between two writes of the guest: ${before} s before, ${gap} s with the snapshot`);
    assert.ok(gap < 10, `${gap} s`);
    const images = [await readFrozen(taken[0]!), await readFrozen(taken[1]!)] as const;
    for (const image of images) run("/sbin/e2fsck", "-fn", image);
    // Both are written one after the other with each turn.
    const [first, second] = images.map(counterOf) as [number, number];
    assert.ok(first - second === 0 || first - second === 1, `${first} and ${second}`);
    assert.ok(
      (
        await subject.hypervisor.takeSnapshots([{ externalId: disks[0], snapshotId: taken[0]!.snapshotId }], {
          quiesce: true,
        })
      )[0]!.consistency === "filesystem",
    );
  });

  test("is let go when the worker dies while it is held, by the host itself", async () => {
    const worker = spawn(process.execPath, ["--input-type=module", "-e", dyingWorker], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(worker.stdout, "data");
    assert.equal(await agent("guest-fsfreeze-status"), "frozen");
    const ended = once(worker, "exit");
    worker.kill("SIGKILL");
    await ended;
    await until(isThawed);
    await until(async () => notes().length === 0);
  });

  test("whose worker's connection broke while it was held is held again once it was let go, and the snapshot is clean", async () => {
    const worker = spawn(process.execPath, ["--input-type=module", "-e", dyingWorker], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(worker.stdout, "data");
    const ended = once(worker, "exit");
    worker.kill("SIGKILL");
    await ended;
    assert.equal(await agent("guest-fsfreeze-status"), "frozen");
    const taken = await take(true);
    assert.deepEqual(
      taken.map(({ consistency }) => consistency),
      ["filesystem", "filesystem"],
    );
    assert.ok(await isThawed());
  });

  test("that a try has frozen without a word whether it was held is not passed off as held", async () => {
    const [first] = await take(false);
    const request = { externalId: disks[0], snapshotId: first!.snapshotId };
    await assert.rejects(hypervisor.takeSnapshots([request], { quiesce: true }), QuiesceFailed);
    const [again] = await hypervisor.takeSnapshots([request], { quiesce: "preferred" });
    assert.equal(again!.consistency, "crash");
  });

  test("is let go by the reconciler where the host could not", async () => {
    const note = subject.own("held", `${domain.uuid}.0`);
    await agent("guest-fsfreeze-freeze");
    writeFileSync(note, "");
    assert.deepEqual(await hypervisor.thaw(), [], "a note this young is a worker's that lives");
    run("touch", "-d", "1 minute ago", note);
    assert.deepEqual(await hypervisor.thaw(), [domain.uuid]);
    assert.ok(await isThawed());
    assert.deepEqual(await hypervisor.thaw(), []);
  });

  test("that is paused while it is held is let go when it goes on, and nobody forgets it until then", async (t) => {
    const worker = new KvmHost(host.settings(subject.owner));
    t.after(() => worker.close());
    const suspend = async () => run("virsh", "-q", "-c", host.uri, "suspend", domain.uuid);
    await assert.rejects(whileHeld(worker, domain, suspend), HypervisorFailed);
    const [note] = notes();
    assert.ok(note);
    run("touch", "-d", "1 minute ago", subject.own("held", note));
    await assert.rejects(hypervisor.thaw(), { name: "HypervisorFailed", message: /domain is not running/ });
    assert.deepEqual(notes(), [note]);
    await host.libvirt.call("domainResume", { domain });
    await until(isThawed);
    await until(async () => notes().length === 0);
  });

  test("that is held by somebody else is left alone: an error before anything is created, or a snapshot without", async () => {
    await agent("guest-fsfreeze-freeze");
    const before = await subject.countSnapshots();
    await assert.rejects(take(true), QuiesceFailed);
    assert.equal(await subject.countSnapshots(), before);
    const taken = await take("preferred");
    assert.deepEqual(
      taken.map(({ consistency }) => consistency),
      ["crash", "crash"],
    );
    assert.equal(await agent("guest-fsfreeze-status"), "frozen");
    await agent("guest-fsfreeze-thaw");
  });

  test("whose agent takes too long to hold is let go by the host as soon as that is possible", async () => {
    await inGuest("touch /slow");
    const before = await subject.countSnapshots();
    await assert.rejects(take(true), QuiesceFailed);
    assert.equal(await subject.countSnapshots(), before);
    await until(isThawed);
    const taken = await take("preferred");
    assert.deepEqual(
      taken.map(({ consistency }) => consistency),
      ["crash", "crash"],
    );
    await inGuestOnceItAnswers("rm /slow");
    await until(isThawed);
    await until(async () => notes().length === 0);
  });

  test("whose agent does not answer is QuiesceFailed", async () => {
    await inGuest("sleep 1; kill -STOP $(pidof qemu-ga); sleep 40; kill -CONT $(pidof qemu-ga)");
    await until(() => answers().then((does) => !does));
    const before = await subject.countSnapshots();
    await assert.rejects(take(true), QuiesceFailed);
    assert.equal(await subject.countSnapshots(), before);
    await until(isThawed);
  });

  test("that is stopped needs nobody to hold it", async () => {
    await subject.destroy(domain);
    const taken = await take(true);
    assert.deepEqual(
      taken.map(({ consistency }) => consistency),
      ["offline", "offline"],
    );
    for (const one of taken) {
      const image = await readFrozen(one);
      run("sh", "-c", '/sbin/e2fsck -fy "$1" >/dev/null || [ $? -eq 1 ]', "sh", image);
    }
  });
});

async function inGuestOnceItAnswers(script: string): Promise<void> {
  await until(() =>
    inGuest(script).then(
      () => true,
      () => false,
    ),
  );
}

/** Holds the guest's file systems and says so, until it is killed. */
const settings = { ...host.settings(subject.owner), privateKey: undefined };
const dyingWorker = `
import { KvmHost } from ${JSON.stringify(new URL("../../lambdas/hypervisors/kvm/host.ts", import.meta.url).href)};
import { whileHeld } from ${JSON.stringify(new URL("../../lambdas/hypervisors/kvm/quiesce.ts", import.meta.url).href)};
const host = new KvmHost({ ...${JSON.stringify(settings)}, privateKey: async () => ${JSON.stringify(host.sshd.userKey)} });
const { domain } = await host.call("domainLookupByName", { name: "guest" });
await whileHeld(host, domain, () => { console.log("held"); return new Promise(() => setInterval(() => {}, 1000)); });
`;
