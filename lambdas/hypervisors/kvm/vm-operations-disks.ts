/** Disks of a VM: attached, detached, replaced. Of a VM that runs both the VM and its definition change. */
import { dirname } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { HypervisorFailed, OperationRefused, VolumeNotFound } from "../../domain/errors.ts";
import { affect, domainXml } from "../../protocols/libvirt/flags.ts";
import type { Domain } from "../../protocols/libvirt/procedures.ts";
import { type AttachedVolume, findVolume, readVm, type Vm } from "./discovery.ts";
import { DomainXml, type NewDisk } from "./domain-xml.ts";
import type { KvmHost } from "./host.ts";
import { imageFiles } from "./image-files.ts";
import { describeImage } from "./image-probe.ts";
import { parseOverlayPath } from "./overlay-path.ts";
import { refusal } from "./vm-operations-errors.ts";

/** A guest lets go of a disk in its own time, and some never do. */
const releaseWaitMs = 10_000;
const releasePollMs = 250;

/** The definition that a VM will be started with, fit to be given back. */
export async function readDefinition(host: KvmHost, domain: Domain): Promise<DomainXml> {
  const flags = domainXml.inactive | domainXml.secure;
  return new DomainXml((await host.call("domainGetXml", { domain, flags })).xml);
}

/** Attaches a volume that no VM has, with the snapshots on top of it. One that this VM has already is left as it is. */
export async function attachVolume(host: KvmHost, vm: Vm, externalId: string): Promise<void> {
  const [attached] = await findVolume(host, externalId);
  if (attached?.vm.domain.uuid === vm.domain.uuid) return;
  if (attached) throw isDiskOf(attached);
  await attachDisk(host, vm, await freeDisk(host, externalId));
}

/** A volume that no VM has, as a disk. Throws VolumeNotFound, OperationRefused. */
export async function freeDisk(host: KvmHost, externalId: string): Promise<NewDisk> {
  const file = await topOf(host, externalId);
  return { file, format: (await describeImage(host, file)).format };
}

export function isDiskOf({ externalId, vm }: AttachedVolume): OperationRefused {
  return new OperationRefused(`${externalId} is a disk of ${vm.definition.name}.`);
}

/** Returns the target. Throws OperationRefused when the target is taken. */
export async function attachDisk(host: KvmHost, { domain, definition, isActive }: Vm, disk: NewDisk): Promise<string> {
  const target = disk.target ?? definition.freeTarget(disk.bus ?? "virtio");
  definition.addDisk({ ...disk, target });
  const flags = affect.config | (isActive ? affect.live : 0);
  await host.call("domainAttachDevice", { domain, xml: definition.diskXml(target), flags });
  return target;
}

/** One that this VM does not have is detached already. Throws HypervisorFailed when the guest does not let go of it. */
export async function detachVolume(host: KvmHost, vm: Vm, externalId: string): Promise<void> {
  const found = (await findVolume(host, externalId)).find((volume) => volume.vm.domain.uuid === vm.domain.uuid);
  if (!found) return;
  const { target } = found.disk;
  const { domain, definition, isActive } = vm;
  if (isActive) {
    await host.call("domainDetachDevice", { domain, xml: definition.diskXml(target), flags: affect.live });
    if (!(await isReleased(host, domain, target))) {
      throw new HypervisorFailed(`${definition.name} does not let go of ${target}: its guest has not answered.`);
    }
  }
  const next = await readDefinition(host, domain);
  if (!next.disk(target)) return;
  await host.call("domainDetachDevice", { domain, xml: next.diskXml(target), flags: affect.config });
}

async function isReleased(host: KvmHost, domain: Domain, target: string): Promise<boolean> {
  for (const deadline = Date.now() + releaseWaitMs; Date.now() < deadline; await pause(releasePollMs)) {
    if (!(await readVm(host, domain))?.definition.disk(target)) return true;
  }
  return false;
}

/**
 * Lets a stopped VM use another file as its disk and returns the one that it used, which stays as it is. libvirt does it only while the VM
 * does not run: OperationRefused.
 */
export async function replaceDisk(
  host: KvmHost,
  domain: Domain,
  target: string,
  { file, format }: NewDisk,
): Promise<string | undefined> {
  const definition = await readDefinition(host, domain);
  const before = definition.disk(target)?.file;
  if (before === file) return undefined;
  definition.setDiskFile(target, file, format);
  try {
    await host.call("domainUpdateDevice", { domain, xml: definition.diskXml(target), flags: 0 });
  } catch (error) {
    throw refusal(error);
  }
  return before;
}

/** The topmost file of a volume that no VM has. Throws VolumeNotFound. */
async function topOf(host: KvmHost, externalId: string): Promise<string> {
  const images = await imageFiles(host, dirname(externalId));
  if (!images.has(externalId)) throw new VolumeNotFound(`There is no volume ${externalId} on ${host.name}.`);
  for (let top = externalId; ; ) {
    const above = [...images.values()].filter(({ below }) => below?.path === top);
    const [next, other] = above;
    if (!next) return top;
    if (other || parseOverlayPath(next.path)?.volume !== externalId) {
      throw new OperationRefused(
        `Which is the newest file of ${externalId} cannot be told: ${above.map(({ path }) => path).join(", ")} stand on ${top}.`,
      );
    }
    top = next.path;
  }
}
