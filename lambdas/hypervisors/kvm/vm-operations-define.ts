/** Makes a VM from the definition that another one had, with disks of its own. */
import { OperationRefused } from "../../domain/errors.ts";
import { domainXml } from "../../protocols/libvirt/flags.ts";
import type { NewVm } from "../port.ts";
import { findVolume } from "./discovery.ts";
import { DomainXml, type NewDisk } from "./domain-xml.ts";
import type { KvmHost } from "./host.ts";
import { libvirtCode } from "./host-errors.ts";
import { freeDisk, isDiskOf } from "./vm-operations-disks.ts";
import { refusal } from "./vm-operations-errors.ts";

/**
 * Returns the UUID.
 *
 * @throws VolumeNotFound
 * @throws OperationRefused for a volume that another VM has, and as {@link defineVmFrom}
 */
export async function defineVm(host: KvmHost, { name, definition, target, volumeExternalId }: NewVm): Promise<string> {
  const [attached] = await findVolume(host, volumeExternalId);
  if (attached?.vm.domain.name === name) return attached.vm.domain.uuid;
  if (attached) throw isDiskOf(attached);
  return defineVmFrom(host, definition, { name, disks: new Map([[target, await freeDisk(host, volumeExternalId)]]) });
}

interface VmWithDisks {
  readonly name: string;
  /** By target of the definition. The VM gets no other disks, and no discs. */
  readonly disks: ReadonlyMap<string, Pick<NewDisk, "file" | "format">>;
}

/**
 * Returns the UUID. A VM of this name that has these disks was made by an earlier call.
 *
 * @throws OperationRefused for a name that another VM has, a target that the definition lacks, or a definition that libvirt does not take
 */
export async function defineVmFrom(host: KvmHost, xml: string, { name, disks }: VmWithDisks): Promise<string> {
  const existing = await findByName(host, name);
  if (existing) {
    const files = [...disks.values()].map(({ file }) => file);
    const has = existing.disks.map(({ file }) => file);
    if (files.every((file) => has.includes(file))) return existing.uuid;
    throw new OperationRefused(`There is a VM ${name} already.`);
  }
  const definition = new DomainXml(xml);
  definition.becomeAnother(name);
  for (const [target, { file, format }] of disks) definition.setDiskFile(target, file, format);
  for (const { target, device } of definition.disks) {
    if (disks.has(target)) continue;
    if (device === "cdrom" || device === "floppy") definition.eject(target);
    else definition.removeDisk(target);
  }
  try {
    return (await host.call("domainDefineXml", { xml: definition.toString(), flags: 0 })).domain.uuid;
  } catch (error) {
    throw refusal(error);
  }
}

async function findByName(host: KvmHost, name: string): Promise<DomainXml | undefined> {
  try {
    const { domain } = await host.call("domainLookupByName", { name });
    return new DomainXml((await host.call("domainGetXml", { domain, flags: domainXml.inactive })).xml);
  } catch (error) {
    if (libvirtCode(error) === "NO_DOMAIN") return undefined;
    throw error;
  }
}
