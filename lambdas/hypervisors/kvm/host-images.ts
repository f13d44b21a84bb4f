/** Disks of all VMs of a host, and the images that they, or one file of the host, have to do with. */
import { dirname } from "node:path";
import { domainXml } from "../../protocols/libvirt/flags.ts";
import type { Domain } from "../../protocols/libvirt/procedures.ts";
import { type DomainDisk, DomainXml } from "./domain-xml.ts";
import type { KvmHost } from "./host.ts";
import { libvirtCode } from "./host-errors.ts";
import { type ImageFile, imageFiles, realPaths } from "./image-files.ts";

/** A disk as a VM has it now (`running`), or will have it after its next start. */
export interface FoundDisk {
  readonly domain: Domain;
  readonly running: boolean;
  readonly disk: DomainDisk;
}

export interface HostImages {
  /** Those beside the file that was asked about, those of all definitions, and what these stand on. */
  readonly images: readonly ImageFile[];
  /** Whether two paths lead to the same file, links or not. */
  readonly is: (path: string | undefined, other: string | undefined) => boolean;
  /** Paths of the images that stand directly on a file. */
  readonly standOn: (path: string | undefined) => string[];
  /** Disks whose chain has a file, as far as libvirt tells the chain. */
  readonly using: (path: string | undefined) => FoundDisk[];
}

const all = { needResults: 1, flags: 0 } as const;

/** Who uses a file, and what else lies around it. */
export async function readHostImages(host: KvmHost, path: string): Promise<HostImages> {
  const disks = await readDisks(host);
  const mentioned = disks.flatMap(({ disk }) => chainOf(disk));
  // What lies below the disks of running VMs is known from libvirt.
  const known = new Set(disks.filter(({ running }) => running).flatMap(({ disk }) => chainOf(disk)));
  // A guest can write the header of any image into these.
  const raw = new Set(disks.flatMap(({ disk }) => ((disk.format ?? "raw") === "raw" && disk.file ? [disk.file] : [])));
  const others = [...new Set(mentioned)].filter((one) => !known.has(one));
  const images = [...(await imageFiles(host, dirname(path), others, raw)).values()];
  const below = images.flatMap((image) => image.below?.path ?? []);
  const real = await realPaths(host, [path, ...mentioned, ...images.map((image) => image.path), ...below]);
  const is: HostImages["is"] = (one, other) =>
    one !== undefined && other !== undefined && (real.get(one) ?? one) === (real.get(other) ?? other);
  return {
    images,
    is,
    standOn: (file) => images.filter((image) => is(image.below?.path, file)).map((image) => image.path),
    using: (file) => disks.filter(({ disk }) => chainOf(disk).some((one) => is(one, file))),
  };
}

/** Files of a disk, the topmost first. */
export function chainOf({ file, backing }: DomainDisk): string[] {
  return file === undefined ? [] : [file, ...backing];
}

/**
 * Disks of all VMs without their discs, of those that run twice: as they are now, and then as they are defined. A merge that ends in between
 * is seen as one that still works. The other way round the definition would seem to name anew what the VM has just left.
 */
export async function readDisks(host: KvmHost): Promise<FoundDisk[]> {
  const { domains } = await host.call("connectListAllDomains", all);
  const found = await Promise.all(
    domains.map(async (domain) => {
      const running = domain.id === -1 ? [] : await disksOf(host, domain, true);
      return [...running, ...(await disksOf(host, domain, false))];
    }),
  );
  return found.flat();
}

/** Empty for a VM that is gone meanwhile. */
async function disksOf(host: KvmHost, domain: Domain, running: boolean): Promise<FoundDisk[]> {
  try {
    const { xml } = await host.call("domainGetXml", { domain, flags: running ? 0 : domainXml.inactive });
    const disks = new DomainXml(xml).disks.filter(({ device }) => device !== "cdrom" && device !== "floppy");
    return disks.map((disk) => ({ domain, running, disk }));
  } catch (error) {
    if (libvirtCode(error) === "NO_DOMAIN") return [];
    throw error;
  }
}
