/** Merges that somebody has begun and not ended. Bytes are compared with what was written before. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { mergeSnapshot } from "../../lambdas/hypervisors/kvm/merge.ts";
import { blockCommit, blockJobAbort } from "../../lambdas/protocols/libvirt/flags.ts";
import { run } from "../../local/kvm-host/processes.ts";
import { Lab } from "./merge-lab.ts";
import { finished, heavy, MergeVms, merge, mib } from "./merge-vms.ts";
import type { WorkerTask } from "./merge-worker.ts";
import { diskBytes } from "./writing-guest.ts";

const lab = await Lab.start();
after(() => lab[Symbol.asyncDispose]());
const vms = new MergeVms(lab);

describe("a merge that was found half done", () => {
  /** Of what is {@link heavy}: longer than the first worker lives, which is a second at most. */
  const bytesPerSecond = 24 * mib;

  /** Runs workers that are killed after a random time, until one ends by itself; returns how many were killed. */
  async function killWorkers(installPath: string): Promise<number> {
    const task: WorkerTask = {
      settings: lab.settings,
      privateKey: lab.privateKey,
      installPath,
      bytesPerSecond,
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
    const made = await vms.stopped(3, 0);
    const goneOnWith = async (what: string, overlay: string) => {
      const killed = await killWorkers(overlay);
      t.diagnostic(`${what}: ${killed} workers were killed`);
      assert.ok(killed > 0, `no worker was killed: ${what}`);
    };
    await goneOnWith("stopped, a lower file", made.overlays[0]!);
    heavy(made.top);
    await goneOnWith("stopped, the top", made.top);
    await lab.start(made.domain);
    await vms.writesOn(made.domain);
    await goneOnWith("running, the top", made.overlays[1]!);
    await vms.assertOneGoodFile(made, 2);
  });

  test("by QEMU, which waits for a word, is ended", async () => {
    const made = await vms.running(2);
    const { domain, overlays, top } = made;
    const commit = { domain, disk: "vda", bandwidth: 0, base: overlays[0]!, top, flags: blockCommit.active };
    await lab.libvirt.call("domainBlockCommit", commit);
    assert.deepEqual(await mergeSnapshot(lab.host, top, merge), finished);
    assert.deepEqual(await mergeSnapshot(lab.host, overlays[0]!, merge), finished);
    await vms.assertOneGoodFile(made, 1);
  });

  test("with the VM on the lower file and the overlay left is ended by removing that", async () => {
    const made = await vms.running(1);
    const { domain, volume, top } = made;
    const stopping = lab.newHost();
    const step = { ...merge, until: Date.now() };
    for (let tries = 0; tries < 50 && !existsSync(noteOf(top)); tries++) await mergeSnapshot(stopping, top, step);
    await lab.libvirt.call("domainBlockJobAbort", { domain, disk: "vda", flags: blockJobAbort.pivot }).catch(() => {});
    await mergeSnapshot(lab.host, top, merge);
    assert.ok(!existsSync(top));
    assert.deepEqual(await lab.chain(domain, "running"), [volume]);
    await vms.assertOneGoodFile(made, 1);
  });

  for (const done of ["commit", "rebase", "definition"] as const) {
    test(`on a stopped VM, up to its ${done}, is gone on with`, async () => {
      const made = await vms.stopped(2, 0);
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
      await vms.assertOneGoodFile(made, 1);
    });

    test(`on a stopped VM, up to its ${done}, is gone on with after the VM was started`, async () => {
      const made = await vms.stopped(2, 0);
      const { domain, volume, overlays, top } = made;
      run("qemu-img", "commit", "-q", "-f", "qcow2", overlays[0]!);
      if (done !== "commit") run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", volume, top);
      if (done === "definition") await lab.setDisk(domain, top, "qcow2");
      await lab.start(domain);
      await vms.writesOn(domain);
      await mergeSnapshot(lab.host, overlays[0]!, merge);
      assert.deepEqual(await lab.chain(domain, "running"), [top, volume]);
      await lab.stop(domain);
      run("qemu-img", "commit", "-q", "-f", "qcow2", top);
      await lab.start(domain);
      await vms.writesOn(domain);
      await lab.stop(domain);
      await mergeSnapshot(lab.host, top, merge);
      await vms.assertOneGoodFile(made, 3);
    });
  }
});

function noteOf(overlay: string): string {
  const id = /(snap_[^.]+)\.qcow2$/.exec(overlay)![1];
  return lab.image(`.snapferry-${id}.merging`);
}
