/** Deleting snapshots of running and stopped VMs, and whatever happens in between. Bytes are compared with what was written before. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { after, describe, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import {
  ChainChanged,
  HypervisorFailed,
  PathOutsideDirectory,
  SnapferryError,
  SnapshotInUse,
} from "../../lambdas/domain/errors.ts";
import { mergeAll, mergeSnapshot } from "../../lambdas/hypervisors/kvm/merge.ts";
import { blockCommit, blockJobAbort, undefine } from "../../lambdas/protocols/libvirt/flags.ts";
import type { Domain } from "../../lambdas/protocols/libvirt/procedures.ts";
import { run } from "../../local/kvm-host/processes.ts";
import { Lab } from "./merge-lab.ts";
import type { WorkerTask } from "./merge-worker.ts";
import { startQemuNbd } from "./nbd-servers.ts";
import { assertNothingLost, diskBytes, makeWritingDisk, newestNumber } from "./writing-guest.ts";

const lab = await Lab.start();
after(() => lab[Symbol.asyncDispose]());

const mib = 1024 * 1024;
const sizeBytes = 64 * mib;
const merge = { exports: async () => [] };
const finished = { finished: true };
const working = { finished: false };
/** Slow enough to come in between: what {@link heavy} writes takes 4 s. */
const slow = { ...merge, bytesPerSecond: 8 * mib };
let count = 0;

interface Vm {
  readonly domain: Domain;
  readonly volume: string;
  readonly overlays: readonly string[];
  readonly top: string;
  /** Of the volume's own file. */
  readonly format: "raw" | "qcow2";
}

/** Long enough for the guest to start, or to write on. */
const guestMs = 1_200;

/** A VM that runs, with a snapshot for each of `snapshots`; its guest writes before and after each. */
async function vm(snapshots: number, format: "raw" | "qcow2" = "qcow2"): Promise<Vm> {
  const name = `vm${++count}`;
  const volume = lab.image(`${name}.${format}`);
  makeWritingDisk(volume, format, sizeBytes);
  const domain = await lab.define(name, volume, format);
  await lab.start(domain);
  await pause(guestMs);
  const overlays: string[] = [];
  for (let number = 1; number <= snapshots; number++) {
    overlays.push(await lab.snapshot(domain, volume, `snap_${name}n${number}`));
    await pause(guestMs / 2);
  }
  return { domain, volume, overlays, top: overlays.at(-1) ?? volume, format };
}

/** 32 MiB in an image that nobody uses, where the guest does not write. */
function heavy(overlay: string): void {
  run("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 16M 32M", overlay);
}

/** A VM that is stopped, with much in one of its overlays. Its guest was started once. */
async function stoppedVm(snapshots: number, heavyOverlay: number, format: "raw" | "qcow2" = "qcow2"): Promise<Vm> {
  const made = await vm(snapshots, format);
  await lab.stop(made.domain);
  heavy(made.overlays[heavyOverlay]!);
  return made;
}

/** Names of all files that belong to a VM's disk, those of Snapferry too. */
function filesOf({ volume }: Vm): string[] {
  const [name] = basename(volume).split(".");
  return readdirSync(lab.folder.file("images"))
    .filter((file) => file.startsWith(`${name}.`) || file.includes(`snap_${name}n`))
    .sort();
}

/** The end of every test of a volume whose snapshots are all merged: one file, with every write of the guest, that starts. */
async function assertOneGoodFile(made: Vm, starts: number): Promise<void> {
  const { domain, volume, format } = made;
  assert.deepEqual(await lab.chain(domain, "defined"), [volume]);
  assert.deepEqual(filesOf(made), [basename(volume)]);
  await lab.stop(domain);
  assertNothingLost(diskBytes(volume, format), starts);
  await lab.start(domain);
  assert.deepEqual(await lab.chain(domain, "running"), [volume]);
  await pause(guestMs);
  await lab.stop(domain);
  assertNothingLost(diskBytes(volume, format), starts + 1);
}

for (const format of ["qcow2", "raw"] as const) {
  describe(`a snapshot of a ${format} volume`, () => {
    test("of a running VM goes into the file below, and later ones keep their bytes", async () => {
      const made = await vm(2, format);
      const { domain, volume, overlays, top } = made;
      const frozen = diskBytes(overlays[0]!, "qcow2");
      assert.deepEqual(await mergeSnapshot(lab.host, overlays[0]!, merge), finished);
      assert.ok(!existsSync(overlays[0]!));
      assert.deepEqual(await lab.chain(domain, "running"), [top, volume]);
      assert.deepEqual(await lab.chain(domain, "defined"), [top, volume]);
      assert.ok(diskBytes(volume, format).equals(frozen), "the later snapshot is of other bytes");
      assert.deepEqual(await mergeSnapshot(lab.host, overlays[0]!, merge), finished);
      assert.deepEqual(await mergeSnapshot(lab.host, top, merge), finished);
      assert.deepEqual(await lab.chain(domain, "running"), [volume]);
      await pause(guestMs);
      await assertOneGoodFile(made, 1);
    });

    test("of a stopped VM goes into the file below, and the VM starts", async () => {
      const made = await vm(3, format);
      const { domain, volume, overlays, top } = made;
      await lab.stop(domain);
      const whole = diskBytes(top, "qcow2");
      assertNothingLost(whole, 1);
      const frozen = overlays.slice(0, 2).map((overlay) => diskBytes(overlay, "qcow2"));
      assert.deepEqual(await mergeSnapshot(lab.host, overlays[0]!, merge), finished);
      assert.ok(diskBytes(volume, format).equals(frozen[0]!), "the second snapshot is of other bytes");
      assert.ok(diskBytes(overlays[1]!, "qcow2").equals(frozen[1]!), "the third snapshot is of other bytes");
      assert.ok(diskBytes(top, "qcow2").equals(whole), "the disk has other bytes");
      await lab.start(domain);
      assert.deepEqual(await lab.chain(domain, "running"), [top, overlays[1], volume]);
      await pause(guestMs);
      await lab.stop(domain);
      for (const overlay of [top, overlays[1]!]) {
        assert.deepEqual(await mergeSnapshot(lab.host, overlay, merge), finished);
      }
      await assertOneGoodFile(made, 2);
    });
  });
}

describe("a snapshot", () => {
  test("whose volume grew after it makes the file below as large", async () => {
    const { domain, volume, top } = await vm(1);
    await lab.stop(domain);
    run("qemu-img", "resize", "-q", "-f", "qcow2", top, "80M");
    const whole = diskBytes(top, "qcow2");
    await mergeSnapshot(lab.host, top, merge);
    assert.equal(whole.length, 80 * mib);
    assert.ok(diskBytes(volume, "qcow2").equals(whole));
  });

  test("of a disk that no VM has any more goes into the file below", async () => {
    const { domain, volume, overlays, top } = await vm(2);
    await lab.stop(domain);
    await lab.libvirt.call("domainUndefine", { domain, flags: undefine.snapshotsMetadata });
    const whole = diskBytes(top, "qcow2");
    for (const overlay of overlays.toReversed()) await mergeSnapshot(lab.host, overlay, merge);
    assert.ok(diskBytes(volume, "qcow2").equals(whole));
    assert.ok(overlays.every((overlay) => !existsSync(overlay)));
  });

  test("that an interrupted take left, and that no disk uses, is removed; with bytes of its own it is not", async () => {
    const made = await vm(1);
    const { volume, top } = made;
    const left = `${volume}.snap_vm${count}n8.qcow2`;
    const strange = `${volume}.snap_vm${count}n9.qcow2`;
    for (const path of [left, strange]) {
      run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", volume, path);
    }
    run("qemu-io", "-f", "qcow2", "-c", "write -q -z 1M 64k", strange);
    await assert.rejects(mergeSnapshot(lab.host, top, merge), SnapshotInUse);
    await mergeSnapshot(lab.host, left, merge);
    assert.ok(!existsSync(left));
    await assert.rejects(mergeSnapshot(lab.host, strange, merge), ChainChanged);
    assert.ok(existsSync(strange));
    run("rm", strange);
    await mergeSnapshot(lab.host, top, merge);
    await assertOneGoodFile(made, 1);
  });

  test("is told from other files by its path", async () => {
    const path = lab.image("letters.qcow2");
    await assert.rejects(mergeSnapshot(lab.host, path, merge), PathOutsideDirectory);
    assert.deepEqual(await mergeSnapshot(lab.host, `${path}.snap_1.qcow2`, merge), finished);
  });
});

describe("all snapshots of a volume", () => {
  test("are merged into one file, while the VM runs and while it does not", async () => {
    const made = await vm(3);
    assert.deepEqual(await mergeAll(lab.host, made.volume, merge), finished);
    assert.deepEqual(await lab.chain(made.domain, "running"), [made.volume]);
    await pause(guestMs);
    for (const number of [4, 5]) await lab.snapshot(made.domain, made.volume, `snap_vm${count}n${number}`);
    await pause(guestMs);
    await lab.stop(made.domain);
    assert.deepEqual(await mergeAll(lab.host, made.volume, merge), finished);
    assert.deepEqual(await mergeAll(lab.host, made.volume, merge), finished);
    await assertOneGoodFile(made, 1);
  });
});

describe("a merge that takes long", () => {
  test("goes on by itself while nobody waits, with the VM running", async () => {
    const made = await stoppedVm(2, 0);
    const { domain, overlays, top } = made;
    await lab.start(domain);
    await pause(guestMs);
    for (const overlay of [overlays[0]!, top]) {
      const worker = lab.newHost();
      assert.deepEqual(await mergeSnapshot(worker, overlay, { ...slow, until: Date.now() + 100 }), working);
      await worker.close();
      const other = lab.newHost();
      assert.deepEqual(await mergeSnapshot(other, overlay, { ...merge, until: Date.now() + 100 }), working);
      assert.deepEqual(await mergeSnapshot(other, overlay, merge), finished);
      if (overlay !== top) {
        await lab.stop(domain);
        heavy(top);
        await lab.start(domain);
        await pause(guestMs);
      }
    }
    await assertOneGoodFile(made, 3);
  });

  test("goes on by itself while nobody waits and no connection is open, with the VM stopped", async () => {
    const made = await stoppedVm(1, 0);
    const worker = lab.newHost();
    assert.deepEqual(await mergeSnapshot(worker, made.top, { ...slow, until: Date.now() + 100 }), working);
    await worker.close();
    const other = lab.newHost();
    assert.deepEqual(await mergeSnapshot(other, made.top, { ...merge, until: Date.now() + 100 }), working);
    assert.deepEqual(await mergeSnapshot(other, made.top, merge), finished);
    await assertOneGoodFile(made, 1);
  });

  test("of which two workers know is one merge", async () => {
    const made = await stoppedVm(1, 0);
    const merges = [lab.newHost(), lab.newHost()].map((host) => mergeSnapshot(host, made.top, slow));
    assert.deepEqual(await Promise.all(merges), [finished, finished]);
    await assertOneGoodFile(made, 1);
  });
});

describe("a merge that was found half done", () => {
  /** Runs workers that are killed after a random time, until one ends by itself; returns how many were killed. */
  async function killWorkers(installPath: string): Promise<number> {
    const task: WorkerTask = {
      settings: lab.settings,
      privateKey: lab.privateKey,
      installPath,
      bytesPerSecond: 64 * mib,
    };
    for (let killed = 0; ; killed++) {
      const file = join(import.meta.dirname, "merge-worker.ts");
      const worker = spawn(process.execPath, [file, JSON.stringify(task)], { stdio: ["ignore", "pipe", "inherit"] });
      const ended = once(worker, "exit");
      await once(worker.stdout, "data");
      const patience = setTimeout(() => worker.kill("SIGKILL"), 400 + Math.random() * 600 * (killed + 1));
      const [code] = await ended;
      clearTimeout(patience);
      if (code !== null) {
        assert.equal(code, 0);
        return killed;
      }
    }
  }

  test("by workers that were killed is gone on with, whether the VM runs or not", async (t) => {
    const made = await stoppedVm(3, 0);
    t.diagnostic(`stopped, a lower file: ${await killWorkers(made.overlays[0]!)} workers were killed`);
    heavy(made.top);
    t.diagnostic(`stopped, the top: ${await killWorkers(made.top)} workers were killed`);
    await lab.start(made.domain);
    await pause(guestMs);
    t.diagnostic(`running, the top: ${await killWorkers(made.overlays[1]!)} workers were killed`);
    await assertOneGoodFile(made, 2);
  });

  test("by QEMU, which waits for a word, is ended", async () => {
    const made = await vm(2);
    const { domain, overlays, top } = made;
    const commit = { domain, disk: "vda", bandwidth: 0, base: overlays[0]!, top, flags: blockCommit.active };
    await lab.libvirt.call("domainBlockCommit", commit);
    assert.deepEqual(await mergeSnapshot(lab.host, top, merge), finished);
    assert.deepEqual(await mergeSnapshot(lab.host, overlays[0]!, merge), finished);
    await assertOneGoodFile(made, 1);
  });

  test("with the VM on the lower file and the overlay left is ended by removing that", async () => {
    const made = await vm(1);
    const { domain, volume, top } = made;
    const stopping = lab.newHost();
    const step = { ...merge, until: Date.now() };
    for (let tries = 0; tries < 50 && !existsSync(noteOf(top)); tries++) await mergeSnapshot(stopping, top, step);
    await lab.libvirt.call("domainBlockJobAbort", { domain, disk: "vda", flags: blockJobAbort.pivot }).catch(() => {});
    await mergeSnapshot(lab.host, top, merge);
    assert.ok(!existsSync(top));
    assert.deepEqual(await lab.chain(domain, "running"), [volume]);
    await assertOneGoodFile(made, 1);
  });

  for (const done of ["commit", "rebase", "definition"] as const) {
    test(`on a stopped VM, up to its ${done}, is gone on with`, async () => {
      const made = await stoppedVm(2, 0);
      const { domain, volume, overlays, top } = made;
      const whole = diskBytes(top, "qcow2");
      run("qemu-img", "commit", "-q", "-f", "qcow2", overlays[0]!);
      if (done !== "commit") run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", volume, top);
      if (done === "definition") await lab.setDisk(domain, top, "qcow2");
      assert.ok(diskBytes(top, "qcow2").equals(whole));
      await mergeSnapshot(lab.host, overlays[0]!, merge);
      assert.ok(diskBytes(top, "qcow2").equals(whole));
      run("qemu-img", "commit", "-q", "-f", "qcow2", top);
      if (done === "definition") await lab.setDisk(domain, volume, "qcow2");
      await mergeSnapshot(lab.host, top, merge);
      await assertOneGoodFile(made, 1);
    });

    test(`on a stopped VM, up to its ${done}, is gone on with after the VM was started`, async () => {
      const made = await stoppedVm(2, 0);
      const { domain, volume, overlays, top } = made;
      run("qemu-img", "commit", "-q", "-f", "qcow2", overlays[0]!);
      if (done !== "commit") run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", volume, top);
      if (done === "definition") await lab.setDisk(domain, top, "qcow2");
      await lab.start(domain);
      await pause(guestMs);
      await mergeSnapshot(lab.host, overlays[0]!, merge);
      assert.deepEqual(await lab.chain(domain, "running"), [top, volume]);
      await lab.stop(domain);
      run("qemu-img", "commit", "-q", "-f", "qcow2", top);
      await lab.start(domain);
      await pause(guestMs);
      await lab.stop(domain);
      await mergeSnapshot(lab.host, top, merge);
      await assertOneGoodFile(made, 3);
    });
  }
});

function noteOf(overlay: string): string {
  const id = /(snap_[^.]+)\.qcow2$/.exec(overlay)![1];
  return lab.image(`.snapferry-${id}.merging`);
}

/** As a workflow does, with another attempt after what passes by itself: a VM may come in between at every step. */
async function mergeUntilDone(volume: string): Promise<void> {
  for (const host = lab.newHost(); ; ) {
    try {
      await mergeAll(host, volume, { ...merge, bytesPerSecond: 16 * mib });
      return;
    } catch (error) {
      if (!(error instanceof SnapferryError && error.retryable)) throw error;
    }
  }
}

describe("a VM that", () => {
  test("stops while its snapshot is merged loses nothing, and the merge goes on", async () => {
    for (const which of [0, 1]) {
      const made = await stoppedVm(2, which);
      const { domain, overlays } = made;
      await lab.start(domain);
      await pause(guestMs);
      const merging = mergeSnapshot(lab.host, overlays[which]!, slow);
      await pause(1_500);
      await lab.stop(domain);
      assert.deepEqual(await merging, finished);
      await mergeAll(lab.host, made.volume, merge);
      await assertOneGoodFile(made, 2);
    }
  });

  test("is stopped and started again and again while its snapshots are merged loses nothing", async () => {
    const made = await stoppedVm(3, 1);
    const { domain } = made;
    const merged = mergeUntilDone(made.volume);
    let starts = 1;
    while (starts < 6) {
      // Refused while a merge of the stopped VM works, as any start without Snapferry is.
      const isStarted = await lab.start(domain).then(
        () => true,
        () => false,
      );
      await pause(guestMs);
      if (!isStarted) continue;
      starts++;
      await lab.stop(domain);
      await pause(Math.random() * 300);
    }
    await merged;
    await assertOneGoodFile(made, starts);
  });
});

describe("a merge is not begun", () => {
  test("while an export reads the bytes, which it names; nothing is touched", async () => {
    const made = await vm(2);
    const { overlays, top, volume } = made;
    const frozen = readFileSync(volume);
    const exports = async () => [{ snapshotId: "snap_read", installPath: top }];
    await assert.rejects(mergeSnapshot(lab.host, overlays[0]!, { exports }), (error: unknown) => {
      assert.ok(error instanceof SnapshotInUse && error.retryable);
      assert.match(error.message, /the export of snap_read/);
      return true;
    });
    const socket = lab.folder.file("read.sock");
    const nbd = await startQemuNbd(socket, overlays[0]!, ["--read-only", "--format=qcow2"]);
    await assert.rejects(mergeSnapshot(lab.host, overlays[0]!, merge), SnapshotInUse);
    await lab.stop(made.domain);
    await assert.rejects(mergeSnapshot(lab.host, overlays[0]!, merge), SnapshotInUse);
    await nbd.stop();
    assert.ok(readFileSync(volume).equals(frozen));
    await mergeAll(lab.host, volume, merge);
    await assertOneGoodFile(made, 1);
  });

  test("while exports read other bytes is not so: what lies above an export's files may be merged", async () => {
    const made = await vm(2);
    const { overlays, top, volume } = made;
    const exports = async () => [{ snapshotId: "snap_read", installPath: overlays[0]! }];
    assert.deepEqual(await mergeSnapshot(lab.host, top, { exports }), finished);
    await mergeAll(lab.host, volume, merge);
    await assertOneGoodFile(made, 1);
  });

  test("where somebody else put a file on top or in between, which the error names", async () => {
    const { domain, volume, overlays, top } = await vm(2);
    await lab.stop(domain);
    const foreign = lab.image(`foreign${count}.qcow2`);
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", overlays[0]!, foreign);
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", foreign, top);
    for (const overlay of [overlays[0]!, top]) {
      await assert.rejects(mergeSnapshot(lab.host, overlay, merge), (error: unknown) => {
        assert.ok(error instanceof ChainChanged);
        assert.ok(error.message.includes(foreign), error.message);
        return true;
      });
    }
    assert.ok(existsSync(volume) && existsSync(overlays[0]!));
  });

  test("into a file that another VM, or another image, stands on", async () => {
    const made = await vm(1);
    const { volume, top } = made;
    const clone = lab.folder.file(`clone${count}.qcow2`);
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", volume, clone);
    const other = await lab.define(`clone${count}`, clone);
    await assert.rejects(mergeSnapshot(lab.host, top, merge), ChainChanged);
    await lab.libvirt.call("domainUndefine", { domain: other, flags: 0 });
    await mergeSnapshot(lab.host, top, merge);
    await assertOneGoodFile(made, 1);
  });

  test("for a VM that was stopped with its memory saved", async () => {
    const made = await vm(1);
    await lab.libvirt.call("domainManagedSave", { domain: made.domain, flags: 0 });
    await assert.rejects(mergeSnapshot(lab.host, made.top, merge), HypervisorFailed);
    await lab.start(made.domain);
    await mergeSnapshot(lab.host, made.top, merge);
    assert.ok(newestNumber(diskBytes(made.volume, "qcow2")) > 0);
    await assertOneGoodFile(made, 1);
  });
});
