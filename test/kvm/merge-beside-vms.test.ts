/** Merges that take long, while workers come and go and VMs are started and stopped. Bytes are compared with what was written before. */
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { SnapferryError } from "../../lambdas/domain/errors.ts";
import { mergeAll, mergeSnapshot } from "../../lambdas/hypervisors/kvm/merge.ts";
import { Lab } from "./merge-lab.ts";
import { finished, heavy, MergeVms, merge, mib, slowly, working } from "./merge-vms.ts";

const lab = await Lab.start();
after(() => lab[Symbol.asyncDispose]());
const vms = new MergeVms(lab);

describe("a merge that takes long", () => {
  test("goes on by itself while nobody waits, with the VM running", async () => {
    const made = await vms.stopped(2, 0);
    const { domain, overlays, top } = made;
    await lab.start(domain);
    await vms.writesOn(domain);
    for (const overlay of [overlays[0]!, top]) {
      const worker = lab.newHost();
      assert.deepEqual(await mergeSnapshot(worker, overlay, { ...slowly(60), until: Date.now() + 100 }), working);
      await worker.close();
      const other = lab.newHost();
      assert.deepEqual(await mergeSnapshot(other, overlay, { ...merge, until: Date.now() + 100 }), working);
      vms.hurry(domain);
      assert.deepEqual(await mergeSnapshot(other, overlay, merge), finished);
      if (overlay !== top) {
        await lab.stop(domain);
        heavy(top);
        await lab.start(domain);
        await vms.writesOn(domain);
      }
    }
    await vms.assertOneGoodFile(made, 3);
  });

  test("goes on by itself while nobody waits and no connection is open, with the VM stopped", async () => {
    const made = await vms.stopped(1, 0);
    const worker = lab.newHost();
    assert.deepEqual(await mergeSnapshot(worker, made.top, { ...slowly(10), until: Date.now() + 100 }), working);
    await worker.close();
    const other = lab.newHost();
    assert.deepEqual(await mergeSnapshot(other, made.top, { ...merge, until: Date.now() + 100 }), working);
    assert.deepEqual(await mergeSnapshot(other, made.top, merge), finished);
    await vms.assertOneGoodFile(made, 1);
  });

  test("of which two workers know is one merge", async () => {
    const made = await vms.stopped(1, 0);
    const merges = [lab.newHost(), lab.newHost()].map((host) => mergeSnapshot(host, made.top, slowly(4)));
    assert.deepEqual(await Promise.all(merges), [finished, finished]);
    await vms.assertOneGoodFile(made, 1);
  });
});

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
      const made = await vms.stopped(2, which);
      const { domain, overlays } = made;
      await lab.start(domain);
      await vms.writesOn(domain);
      const merging = mergeSnapshot(lab.host, overlays[which]!, slowly(4));
      await vms.untilMerging(domain);
      await lab.stop(domain);
      assert.deepEqual(await merging, finished);
      await mergeAll(lab.host, made.volume, merge);
      await vms.assertOneGoodFile(made, 2);
    }
  });

  test("is stopped and started again and again while its snapshots are merged loses nothing", async () => {
    const made = await vms.stopped(3, 1);
    const { domain } = made;
    const merged = mergeUntilDone(made.volume);
    let starts = 1;
    while (starts < 6) {
      // Refused while a merge of the stopped VM works, as any start without Snapferry is.
      const isStarted = await lab.start(domain).then(
        () => true,
        () => false,
      );
      if (isStarted) {
        starts++;
        await vms.writesOn(domain);
        await lab.stop(domain);
      }
      await pause(Math.random() * 300);
    }
    await merged;
    await vms.assertOneGoodFile(made, starts);
  });
});
