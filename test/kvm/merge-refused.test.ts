/** Merges that are not begun. Bytes are compared with what was there before. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { after, describe, test } from "node:test";
import { ChainChanged, HypervisorFailed, HypervisorUnavailable, SnapshotInUse } from "../../lambdas/domain/errors.ts";
import { mergeAll, mergeSnapshot } from "../../lambdas/hypervisors/kvm/merge.ts";
import { run } from "../../local/kvm-host/processes.ts";
import { whileAway } from "./away.ts";
import { Lab } from "./merge-lab.ts";
import { finished, MergeVms, merge } from "./merge-vms.ts";
import { startQemuNbd } from "./nbd-servers.ts";
import { diskBytes, newestNumber } from "./writing-guest.ts";

const lab = await Lab.start();
after(() => lab[Symbol.asyncDispose]());
const vms = new MergeVms(lab);

describe("a merge is not begun", () => {
  test("while an export reads the bytes, which it names; nothing is touched", async () => {
    const made = await vms.running(2);
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
    await vms.assertOneGoodFile(made, 1);
  });

  test("while exports read other bytes is not so: what lies above an export's files may be merged", async () => {
    const made = await vms.running(2);
    const { overlays, top, volume } = made;
    const exports = async () => [{ snapshotId: "snap_read", installPath: overlays[0]! }];
    assert.deepEqual(await mergeSnapshot(lab.host, top, { exports }), finished);
    await mergeAll(lab.host, volume, merge);
    await vms.assertOneGoodFile(made, 1);
  });

  test("where somebody else put a file on top or in between, which the error names", async () => {
    const { name, domain, volume, overlays, top } = await vms.running(2);
    await lab.stop(domain);
    const foreign = lab.image(`foreign-${name}.qcow2`);
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
    const made = await vms.running(1);
    const { name, volume, top } = made;
    const clone = lab.folder.file(`clone-${name}.qcow2`);
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", volume, clone);
    const other = await lab.define(`clone-${name}`, clone);
    await assert.rejects(mergeSnapshot(lab.host, top, merge), ChainChanged);
    await lab.libvirt.call("domainUndefine", { domain: other, flags: 0 });
    await mergeSnapshot(lab.host, top, merge);
    await vms.assertOneGoodFile(made, 1);
  });

  test("of files that are away, nor taken for done; of a deleted volume it is done", async () => {
    const made = await vms.running(2);
    const { domain, volume, overlays } = made;
    await lab.stop(domain);
    const merges = [
      () => mergeAll(lab.host, volume, merge),
      ...overlays.map((one) => () => mergeSnapshot(lab.host, one, merge)),
    ];
    await whileAway(lab.folder.file("images"), async () => {
      for (const start of merges) await assert.rejects(start(), HypervisorUnavailable);
    });
    await mergeAll(lab.host, volume, merge);
    await vms.assertOneGoodFile(made, 1);
    await lab.libvirt.call("domainUndefine", { domain, flags: 0 });
    rmSync(volume);
    for (const start of merges) assert.deepEqual(await start(), finished);
  });

  test("for a VM that was stopped with its memory saved", async () => {
    const made = await vms.running(1);
    await lab.libvirt.call("domainManagedSave", { domain: made.domain, flags: 0 });
    await assert.rejects(mergeSnapshot(lab.host, made.top, merge), HypervisorFailed);
    await lab.start(made.domain);
    await mergeSnapshot(lab.host, made.top, merge);
    assert.ok(newestNumber(diskBytes(made.volume, "qcow2")) > 0);
    await vms.assertOneGoodFile(made, 1);
  });
});
