/** What a host has: its VMs, their disks, and files in its storage pools that no VM has as a disk. */
import { basename } from "node:path";
import { HypervisorFailed, HypervisorMisconfigured, VolumeNotFound } from "../../domain/errors.ts";
import { domainState } from "../../protocols/libvirt/flags.ts";
import type { Domain } from "../../protocols/libvirt/procedures.ts";
import type { GuestAgentState, VmDescription, VolumeDescription } from "../port.ts";
import { mayBeTopOf, ownFileOf, unfitOwnFile } from "./chain.ts";
import { type DomainDisk, DomainXml } from "./domain-xml.ts";
import type { KvmHost } from "./host.ts";
import { isTimeOut, libvirtCode } from "./host-errors.ts";
import { type ImageLayer, imageFormats } from "./image-chain.ts";
import { parseOverlayPath } from "./overlay-path.ts";

const all = { needResults: 1, flags: 0 } as const;
const none = { flags: 0 } as const;
/** A look at a disk takes milliseconds. One on storage that is gone would take for ever, and a caller of the API waits for half a minute. */
const lookSeconds = 10;

/** A VM at the moment when it was looked at. */
export interface Vm {
  readonly domain: Domain;
  /** As it runs; the one for its next start if it does not run. */
  readonly definition: DomainXml;
  /** Of `domainState`. */
  readonly state: number;
  /** Whether a QEMU process has its disks open. */
  readonly isActive: boolean;
}

/** A disk of a VM as a chain of files. */
export interface AttachedVolume {
  readonly externalId: string;
  readonly vm: Vm;
  readonly disk: DomainDisk;
  /** The topmost file first. */
  readonly chain: readonly ImageLayer[];
}

/** Why a disk is no volume that can be backed up. */
interface NoVolume {
  readonly reason: string;
  /** Where it could not be read, so that it may be one all the same. */
  readonly error?: Error;
}

/** All VMs by name. */
export async function readVms(host: KvmHost): Promise<Vm[]> {
  const { domains } = await host.call("connectListAllDomains", all);
  const vms = await Promise.all(domains.map((domain) => readVm(host, domain)));
  const found = vms.filter((vm) => vm !== undefined);
  return found.sort((a, b) => (a.domain.name < b.domain.name ? -1 : 1));
}

/** Undefined for a VM that is gone. */
export async function readVm(host: KvmHost, domain: Domain): Promise<Vm | undefined> {
  try {
    const { state } = await host.call("domainGetState", { domain, ...none });
    const { xml } = await host.call("domainGetXml", { domain, ...none });
    // Without a process libvirt has no number for it.
    return { domain, definition: new DomainXml(xml), state, isActive: domain.id >= 0 };
  } catch (error) {
    if (libvirtCode(error) === "NO_DOMAIN") return undefined;
    throw error;
  }
}

/**
 * The volume as a disk of its VM, or of several that share it. Empty when no VM has it. Throws why a disk cannot be read that by its name is
 * the volume, or that may be it as storage does not answer.
 */
export async function findVolume(host: KvmHost, externalId: string, among?: readonly Vm[]): Promise<AttachedVolume[]> {
  const { found, obstacle } = await lookFor(host, externalId, among);
  if (found.length === 0 && obstacle) throw obstacle;
  return found;
}

async function lookFor(
  host: KvmHost,
  externalId: string,
  among?: readonly Vm[],
): Promise<{ found: AttachedVolume[]; obstacle?: Error | undefined }> {
  const disks = (among ?? (await readVms(host))).flatMap((vm) => vm.definition.disks.map((disk) => ({ vm, disk })));
  const isLikely = ({ disk }: { disk: DomainDisk }) => disk.file !== undefined && mayBeTopOf(externalId, disk.file);
  const read = ({ vm, disk }: { vm: Vm; disk: DomainDisk }) => readVolume(host, vm, disk);
  const likely = await Promise.all(disks.filter(isLikely).map(read));
  const found = volumesCalled(externalId, likely);
  if (found.length > 0) return { found };
  const [obstacle] = likely.flatMap((one) => ("reason" in one && one.error) || []);
  if (obstacle) return { found, obstacle };
  // Where somebody else put a file on top, the name of the topmost tells nothing.
  const others = await Promise.all(disks.filter((one) => !isLikely(one)).map(read));
  const [unknown] = others.flatMap((one) => ("reason" in one && isTimeOut(one.error) && one.error) || []);
  return { found: volumesCalled(externalId, others), obstacle: unknown };
}

function volumesCalled(externalId: string, read: readonly (AttachedVolume | NoVolume)[]): AttachedVolume[] {
  return read.filter((one) => "chain" in one && one.externalId === externalId) as AttachedVolume[];
}

/** The volume of a disk, or why it is none. */
async function readVolume(host: KvmHost, vm: Vm, disk: DomainDisk): Promise<AttachedVolume | NoVolume> {
  if (disk.device !== "disk") return { reason: `it is a ${disk.device}` };
  if (disk.type === "volume")
    return { reason: "its VM names it by pool and volume, not by its file (<disk type='file'>)" };
  if (disk.type !== "file") return { reason: `it is not a file on the host but of the type ${disk.type}` };
  if (disk.file === undefined) return { reason: "it has no file" };
  // libvirt takes what is not said for raw.
  const format = imageFormats.find((one) => one === (disk.format ?? "raw"));
  if (!format) {
    return { reason: `its format is ${disk.format}, and only ${imageFormats.join(" and ")} are supported` };
  }
  try {
    const chain = await host.imageChain(disk.file, format, { timeoutSeconds: lookSeconds });
    if (!chain) return { reason: `there is no file ${disk.file}` };
    return { externalId: ownFileOf(chain.map(({ path }) => path)), vm, disk, chain };
  } catch (error) {
    if (!(error instanceof HypervisorFailed || isClosed(error) || isTimeOut(error))) throw error;
    return { reason: error.message.replace(/\.$/, ""), error };
  }
}

/** The user of the host may not read the file, while it may others. */
function isClosed(error: unknown): error is HypervisorMisconfigured {
  return error instanceof HypervisorMisconfigured && error.message.includes("Permission denied");
}

/** Its own file and what lies above that. */
export function ownLayers({ externalId, chain }: AttachedVolume): readonly ImageLayer[] {
  return chain.slice(0, chain.findIndex(({ path }) => path === externalId) + 1);
}

/** Why the volume cannot be backed up; undefined when it can. */
export function unsupportedReason({ externalId, disk, chain }: AttachedVolume): string | undefined {
  const own = chain.find(({ path }) => path === externalId)!;
  if (disk.shareable) return "several VMs may write to it";
  if (chain.some(({ encrypted }) => encrypted)) return "its file is encrypted by QEMU";
  if (!(imageFormats as readonly string[]).includes(own.format)) return `its format is ${own.format}`;
  return unfitOwnFile(externalId)?.replace(/\.$/, "");
}

/** Every disk of every VM, then the files of pools that are none. Disks that are no files, too, with the reason. */
export async function* listVolumes(host: KvmHost): AsyncGenerator<VolumeDescription> {
  const disks = (await readVms(host)).flatMap((vm) => vm.definition.disks.map((disk) => ({ vm, disk })));
  const volumes = await Promise.all(disks.map(({ vm, disk }) => readVolume(host, vm, disk)));
  const attached: AttachedVolume[] = [];
  const others: VolumeDescription[] = [];
  for (const [index, volume] of volumes.entries()) {
    const { vm, disk } = disks[index]!;
    if ("reason" in volume) others.push(unsupportedDisk(vm, disk, volume.reason));
    else attached.push(volume);
  }
  const ofVolumes = Map.groupBy(attached, (volume) => volume.externalId);
  for (const [externalId, same] of ofVolumes) yield describe(externalId, same);
  // Several VMs may have the same file that is none any more.
  const unsupported = Map.groupBy(others, ({ externalId }) => externalId);
  for (const [externalId, [first]] of unsupported) if (!ofVolumes.has(externalId)) yield first!;
  yield* listUnattached(host, attached, new Set(unsupported.keys()));
}

/** Throws VolumeNotFound. */
export async function describeVolume(host: KvmHost, externalId: string): Promise<VolumeDescription> {
  const { found } = await lookFor(host, externalId);
  if (found.length > 0) return describe(externalId, found);
  for await (const volume of listVolumes(host)) if (volume.externalId === externalId) return volume;
  throw new VolumeNotFound(`There is no volume ${externalId} on ${host.name}.`);
}

export async function* listVms(host: KvmHost): AsyncGenerator<VmDescription> {
  yield* await Promise.all((await readVms(host)).map((vm) => describeVm(host, vm)));
}

/** Undefined for a VM that is gone. */
export async function describeVmByUuid(host: KvmHost, uuid: string): Promise<VmDescription | undefined> {
  try {
    const { domain } = await host.call("domainLookupByUuid", { uuid });
    const vm = await readVm(host, domain);
    return vm && (await describeVm(host, vm));
  } catch (error) {
    if (libvirtCode(error) === "NO_DOMAIN") return undefined;
    throw error;
  }
}

async function describeVm(host: KvmHost, vm: Vm): Promise<VmDescription> {
  const inOrder = vm.definition.disksToBoot;
  const volumes = await Promise.all(inOrder.map((disk) => readVolume(host, vm, disk)));
  return {
    externalId: vm.domain.uuid,
    name: vm.domain.name,
    state: vmState(vm.state),
    guestAgent: guestAgentOf(vm),
    disks: inOrder.map((disk, index) => {
      const volume = volumes[index]!;
      return {
        target: disk.target,
        volumeExternalId: "reason" in volume ? diskId(vm, disk) : volume.externalId,
      };
    }),
  };
}

export function guestAgentOf({ definition, isActive }: Vm): GuestAgentState {
  const state = definition.guestAgent;
  if (state === undefined) return "absent";
  if (!isActive || state === "unknown") return "unknown";
  return state === "connected" ? "connected" : "absent";
}

function vmState(state: number): VmDescription["state"] {
  switch (state) {
    case domainState.running:
    case domainState.blocked:
      return "running";
    case domainState.paused:
    case domainState.suspended:
      return "paused";
    case domainState.shutoff:
      return "stopped";
    default:
      return "other";
  }
}

/** `volumes` are the same one, as a disk of each VM that has it. */
function describe(externalId: string, volumes: readonly AttachedVolume[]): VolumeDescription {
  const [first] = volumes as [AttachedVolume];
  const names = volumes.map(({ vm }) => vm.domain.name);
  const unsupported = volumes.length > 1 ? `it is a disk of ${names.join(" and ")}` : unsupportedReason(first);
  return {
    externalId,
    name: diskName(first.vm, first.disk),
    sizeBytes: first.chain[0]!.sizeBytes,
    allocatedBytes: ownLayers(first).reduce((sum, layer) => sum + layer.allocatedBytes, 0),
    inUse: volumes.some(({ vm }) => vm.isActive),
    ...(unsupported !== undefined && { unsupported }),
  };
}

function unsupportedDisk(vm: Vm, disk: DomainDisk, unsupported: string): VolumeDescription {
  return { externalId: diskId(vm, disk), name: diskName(vm, disk), sizeBytes: 0, inUse: vm.isActive, unsupported };
}

/** Rules give volumes to tenants by this name: `VM/*` are the disks of a VM. */
function diskName(vm: Vm, disk: DomainDisk): string {
  return `${vm.domain.name}/${disk.target}`;
}

/** Of a disk whose chain cannot be read: by its file, so that it is the same volume once it can be read again. */
function diskId(vm: Vm, { device, file, target }: DomainDisk): string {
  const id = file !== undefined && device === "disk" ? (parseOverlayPath(file)?.volume ?? file) : undefined;
  return id !== undefined && unfitOwnFile(id) === undefined ? id : `${vm.domain.uuid}/${target}`;
}

/** Of `virStorageVolType`. */
const fileVolume = 0;
/** Discs are no volumes of a VM. */
const discSuffix = ".iso";

/**
 * Files of active pools that are in no chain of a VM's disk: restored volumes, and disks that were detached. Hidden files are none, nor are
 * overlays of volumes that are listed.
 */
async function* listUnattached(
  host: KvmHost,
  attached: readonly AttachedVolume[],
  unsupported: ReadonlySet<string>,
): AsyncGenerator<VolumeDescription> {
  const inChains = new Set([...unsupported, ...attached.flatMap(({ chain }) => chain.map(({ path }) => path))]);
  const found = (await readPoolFiles(host)).filter(({ path }) => !inChains.has(path));
  const paths = new Set(found.map(({ path }) => path));
  for (const { path, capacity, allocation } of found) {
    const overlay = parseOverlayPath(path);
    if (overlay && (paths.has(overlay.volume) || inChains.has(overlay.volume))) continue;
    yield {
      externalId: path,
      name: basename(path),
      sizeBytes: capacity,
      allocatedBytes: allocation,
      inUse: false,
      unsupported: "no VM has it as a disk",
    };
  }
}

interface PoolFile {
  readonly path: string;
  readonly capacity: number;
  readonly allocation: number;
}

async function readPoolFiles(host: KvmHost): Promise<PoolFile[]> {
  const { pools } = await host.call("connectListAllPools", all);
  const files: PoolFile[] = [];
  for (const pool of pools) {
    // One that is not active, or at work, shows what it last saw, or nothing.
    await host.call("poolRefresh", { pool, ...none }).catch(ignoreRefusal);
    const { volumes } = await host.call("poolListAllVolumes", { pool, ...all }).catch(noVolumes);
    for (const volume of volumes) {
      if (volume.name.startsWith(".") || volume.name.endsWith(discSuffix)) continue;
      const info = await host.call("volumeGetInfo", { volume }).catch(ignoreRefusal);
      const path = await host.call("volumeGetPath", { volume }).catch(ignoreRefusal);
      if (info?.type !== fileVolume || !path) continue;
      files.push({ path: path.path, capacity: info.capacity, allocation: info.allocation });
    }
  }
  return files.sort((a, b) => (a.path < b.path ? -1 : 1));
}

function noVolumes(error: unknown): { volumes: [] } {
  ignoreRefusal(error);
  return { volumes: [] };
}

/** A pool or file that is gone, or not in a state to be looked at. */
function ignoreRefusal(error: unknown): undefined {
  if (!(error instanceof HypervisorFailed)) throw error;
}
