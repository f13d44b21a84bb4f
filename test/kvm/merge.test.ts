/** Deleting snapshots of running and stopped VMs. Bytes are compared with what was written before. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { after, describe, test } from "node:test";
import { ChainChanged, PathOutsideDirectory, SnapshotInUse } from "../../lambdas/domain/errors.ts";
import { mergeAll, mergeSnapshot } from "../../lambdas/hypervisors/kvm/merge.ts";
import { undefine } from "../../lambdas/protocols/libvirt/flags.ts";
import { run } from "../../local/kvm-host/processes.ts";
import { Lab } from "./merge-lab.ts";
import { finished, MergeVms, merge, mib } from "./merge-vms.ts";
import { assertNothingLost, diskBytes } from "./writing-guest.ts";

const lab = await Lab.start();
after(() => lab[Symbol.asyncDispose]());
const vms = new MergeVms(lab);

for (const format of ["qcow2", "raw"] as const) {
  describe(`a snapshot of a ${format} volume`, () => {
    test("of a running VM goes into the file below, and later ones keep their bytes", async () => {
      const made = await vms.running(2, format);
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
      await vms.writesOn(domain);
      await vms.assertOneGoodFile(made, 1);
    });

    test("of a stopped VM goes into the file below, and the VM starts", async () => {
      const made = await vms.running(3, format);
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
      await vms.writesOn(domain);
      await lab.stop(domain);
      for (const overlay of [top, overlays[1]!]) {
        assert.deepEqual(await mergeSnapshot(lab.host, overlay, merge), finished);
      }
      await vms.assertOneGoodFile(made, 2);
    });
  });
}

describe("a snapshot", () => {
  test("whose volume grew after it makes the file below as large", async () => {
    const { domain, volume, top } = await vms.running(1);
    await lab.stop(domain);
    run("qemu-img", "resize", "-q", "-f", "qcow2", top, "80M");
    const whole = diskBytes(top, "qcow2");
    await mergeSnapshot(lab.host, top, merge);
    assert.equal(whole.length, 80 * mib);
    assert.ok(diskBytes(volume, "qcow2").equals(whole));
  });

  test("of a disk that no VM has any more goes into the file below", async () => {
    const { domain, volume, overlays, top } = await vms.running(2);
    await lab.stop(domain);
    await lab.libvirt.call("domainUndefine", { domain, flags: undefine.snapshotsMetadata });
    const whole = diskBytes(top, "qcow2");
    for (const overlay of overlays.toReversed()) await mergeSnapshot(lab.host, overlay, merge);
    assert.ok(diskBytes(volume, "qcow2").equals(whole));
    assert.ok(overlays.every((overlay) => !existsSync(overlay)));
  });

  test("that an interrupted take left, and that no disk uses, is removed; with bytes of its own it is not", async () => {
    const made = await vms.running(1);
    const { name, volume, top } = made;
    const left = `${volume}.snap_${name}n8.qcow2`;
    const strange = `${volume}.snap_${name}n9.qcow2`;
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
    await vms.assertOneGoodFile(made, 1);
  });

  test("is told from other files by its path", async () => {
    const path = lab.image("letters.qcow2");
    await assert.rejects(mergeSnapshot(lab.host, path, merge), PathOutsideDirectory);
    assert.deepEqual(await mergeSnapshot(lab.host, `${path}.snap_1.qcow2`, merge), finished);
  });
});

describe("all snapshots of a volume", () => {
  test("are merged into one file, while the VM runs and while it does not", async () => {
    const made = await vms.running(3);
    assert.deepEqual(await mergeAll(lab.host, made.volume, merge), finished);
    assert.deepEqual(await lab.chain(made.domain, "running"), [made.volume]);
    await vms.writesOn(made.domain);
    for (const number of [4, 5]) await lab.snapshot(made.domain, made.volume, `snap_${made.name}n${number}`);
    await vms.writesOn(made.domain);
    await lab.stop(made.domain);
    assert.deepEqual(await mergeAll(lab.host, made.volume, merge), finished);
    assert.deepEqual(await mergeAll(lab.host, made.volume, merge), finished);
    await vms.assertOneGoodFile(made, 1);
  });
});
