/** VMs that have snapshots, for tests of merges: their guests write all the time, so that any write that is lost is found. */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { basename } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import type { Domain } from "../../lambdas/protocols/libvirt/procedures.ts";
import { run } from "../../local/kvm-host/processes.ts";
import type { Lab } from "./merge-lab.ts";
import { assertNothingLost, diskBytes, makeWritingDisk, untilWritten } from "./writing-guest.ts";

export const mib = 1024 * 1024;
const sizeBytes = 64 * mib;

/** What a merge answers. */
export const finished = { finished: true };
export const working = { finished: false };
/** Options of a merge. */
export const merge = { exports: async () => [] };
const heavyBytes = 32 * mib;
/** Slow enough to come in between: what {@link heavy} writes takes so long. */
export function slowly(seconds: number) {
  return { ...merge, bytesPerSecond: Math.round(heavyBytes / seconds) };
}

export interface Vm {
  readonly name: string;
  readonly domain: Domain;
  readonly volume: string;
  readonly overlays: readonly string[];
  readonly top: string;
  /** Of the volume's own file. */
  readonly format: "raw" | "qcow2";
}

/** Much in an image that nobody uses, where the guest does not write. */
export function heavy(overlay: string): void {
  run("qemu-io", "-f", "qcow2", "-c", `write -q -P 7 16M ${heavyBytes}`, overlay);
}

/** The VMs of one host. */
export class MergeVms {
  readonly #lab: Lab;
  #count = 0;

  constructor(lab: Lab) {
    this.#lab = lab;
  }

  /** One that runs, with so many snapshots; its guest writes before and after each. */
  async running(snapshots: number, format: "raw" | "qcow2" = "qcow2"): Promise<Vm> {
    const name = `vm${++this.#count}`;
    const volume = this.#lab.image(`${name}.${format}`);
    makeWritingDisk(volume, format, sizeBytes);
    const domain = await this.#lab.define(name, volume, format);
    await this.#lab.start(domain);
    await this.writesOn(domain);
    const overlays: string[] = [];
    for (let number = 1; number <= snapshots; number++) {
      overlays.push(await this.#lab.snapshot(domain, volume, `snap_${name}n${number}`));
      await this.writesOn(domain);
    }
    return { name, domain, volume, overlays, top: overlays.at(-1) ?? volume, format };
  }

  /** One that is stopped, with much in one of its overlays. Its guest was started once. */
  async stopped(snapshots: number, heavyOverlay: number, format: "raw" | "qcow2" = "qcow2"): Promise<Vm> {
    const made = await this.running(snapshots, format);
    await this.#lab.stop(made.domain);
    heavy(made.overlays[heavyOverlay]!);
    return made;
  }

  /** Waits until the guest has started, if it has not yet, and has written on. */
  writesOn(domain: Domain): Promise<void> {
    return untilWritten(this.#lab.settings.uri, domain);
  }

  /** Waits until the VM's own QEMU merges. */
  async untilMerging(domain: Domain): Promise<void> {
    while ((await this.#lab.libvirt.call("domainGetBlockJobInfo", { domain, disk: "vda", flags: 0 })).found === 0)
      await pause(20);
  }

  /** Takes the limit off a merge of the VM's own QEMU. */
  hurry({ uuid }: Domain): void {
    run("virsh", "-q", "-c", this.#lab.settings.uri, "blockjob", uuid, "vda", "--bandwidth", "0");
  }

  /** The end of every test of a volume whose snapshots are all merged: one file, with every write of the guest, that starts. */
  async assertOneGoodFile(made: Vm, starts: number): Promise<void> {
    const { domain, volume, format } = made;
    const lab = this.#lab;
    assert.deepEqual(await lab.chain(domain, "defined"), [volume]);
    assert.deepEqual(this.#filesOf(made), [basename(volume)]);
    await lab.stop(domain);
    assertNothingLost(diskBytes(volume, format), starts);
    await lab.start(domain);
    assert.deepEqual(await lab.chain(domain, "running"), [volume]);
    await this.writesOn(domain);
    await lab.stop(domain);
    assertNothingLost(diskBytes(volume, format), starts + 1);
  }

  /** Names of all files that belong to a VM's disk, those of Snapferry too. */
  #filesOf({ name }: Vm): string[] {
    return readdirSync(this.#lab.folder.file("images"))
      .filter((file) => file.startsWith(`${name}.`) || file.includes(`snap_${name}n`))
      .sort();
  }
}
