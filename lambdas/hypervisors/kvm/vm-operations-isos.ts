/** Discs in a VM's drives. */
import { setTimeout as pause } from "node:timers/promises";
import { HypervisorFailed, OperationRefused } from "../../domain/errors.ts";
import { affect } from "../../protocols/libvirt/flags.ts";
import type { Vm } from "./discovery.ts";
import type { DomainDisk, DomainXml } from "./domain-xml.ts";
import type { KvmHost } from "./host.ts";
import { readDefinition } from "./vm-operations-disks.ts";

/** As QEMU words it. */
const trayClosed = /Tray of (?:the )?device.* is not open/;
const trayPauseMs = 500;

/** Puts the disc into the first empty drive. A stopped VM without a drive gets one. Throws OperationRefused. */
export async function attachIso(host: KvmHost, vm: Vm, path: string, until: number): Promise<void> {
  if ((await host.exec(["test", "-f", path])).code !== 0) throw new OperationRefused(`There is no file ${path}.`);
  const { domain, definition, isActive } = vm;
  const drives = drivesOf(definition);
  if (drives.some(({ file }) => file === path)) return;
  const empty = drives.find(({ file }) => file === undefined);
  if (empty)
    return changeDisc(host, vm, empty.target, until, (change) => change.setDiskFile(empty.target, path, "raw"));
  if (drives.length > 0) throw new OperationRefused(`The drive of ${definition.name} has a disc: detach that first.`);
  if (isActive)
    throw new OperationRefused(`${definition.name} has no drive for discs, and gets one only while it is stopped.`);
  const target = definition.addDrive(path);
  await host.call("domainAttachDevice", { domain, xml: definition.diskXml(target), flags: affect.config });
}

/** Empties all drives. Empty already is success. */
export async function detachIsos(host: KvmHost, vm: Vm, until: number): Promise<void> {
  for (const { target, file } of drivesOf(vm.definition)) {
    if (file !== undefined) await changeDisc(host, vm, target, until, (definition) => definition.eject(target));
  }
}

function drivesOf(definition: DomainXml): DomainDisk[] {
  return definition.disks.filter(({ device }) => device === "cdrom");
}

/**
 * libvirt opens the drive and then changes the disc. A guest that starts resets its drives, which closes them in between. QEMU does not always tell
 * libvirt so, which then takes the drive for open until the guest uses it or the VM is stopped.
 */
async function whileTrayStays(until: number, drive: string, update: () => Promise<unknown>): Promise<void> {
  for (;;) {
    try {
      await update();
      return;
    } catch (error) {
      if (!(error instanceof Error && trayClosed.test(error.message))) throw error;
      if (Date.now() > until)
        throw new HypervisorFailed(
          `The guest has closed the drive ${drive} while its disc was to be changed, and libvirt takes it for open. Try again once the guest has started; if that fails too, open the drive in the guest, or stop the VM and start it.`,
          { cause: error },
        );
      await pause(trayPauseMs);
    }
  }
}

/** In the VM as it runs, and in its definition. */
async function changeDisc(
  host: KvmHost,
  { domain, definition, isActive }: Vm,
  target: string,
  until: number,
  change: (definition: DomainXml) => void,
): Promise<void> {
  if (isActive) {
    change(definition);
    await whileTrayStays(until, target, () =>
      host.call("domainUpdateDevice", { domain, xml: definition.diskXml(target), flags: affect.live }),
    );
  }
  const next = await readDefinition(host, domain);
  if (!next.disk(target)) return;
  change(next);
  await host.call("domainUpdateDevice", { domain, xml: next.diskXml(target), flags: affect.config });
}
