/** Volumes that are disks of VMs on one host with libvirt and QEMU, reached through SSH. */
import type {
  Capabilities,
  DeletedSnapshot,
  ExportDescriptor,
  Extent,
  Hypervisor,
  HypervisorReport,
  NewVm,
  NewVolume,
  OperatedVm,
  Quiesce,
  SnapshotRequest,
  TakenSnapshot,
  VmDescription,
  VmOperationRequest,
  VolumeDescription,
  VolumeReader,
  VolumeWriter,
} from "../port.ts";
import { plannedBy, plannedOverlay } from "./chain.ts";
import { checkHost } from "./check.ts";
import { describeVmByUuid, describeVolume, listVms, listVolumes } from "./discovery.ts";
import {
  closeExport,
  closeStaleExports,
  type ExportRecord,
  frozenChain,
  type KvmExport,
  listExports,
  openExport,
} from "./export.ts";
import { changedExtents, changedLayers, dataExtents } from "./export-extents.ts";
import { KvmHost, type KvmHostSettings } from "./host.ts";
import { mergeAll, mergeSnapshot } from "./merge.ts";
import { thawForgotten } from "./quiesce.ts";
import { KvmVolumeReader, withMetadata } from "./reader.ts";
import { ReplacedVolume } from "./replaced-volume.ts";
import { RestoredVolume } from "./restored-volume.ts";
import { takeSnapshots } from "./take.ts";
import { Turns } from "./turns.ts";
import { operateVm } from "./vm-operations.ts";
import { defineVm } from "./vm-operations-define.ts";

export class KvmHypervisor implements Hypervisor {
  readonly kind = "kvm";
  readonly capabilities: Capabilities = { quiesce: true, changeTracking: true, snapshotCopies: false };
  readonly #host: KvmHost;
  /** libvirt changes one chain of a VM after another anyway. */
  readonly #takes = new Turns(1);
  readonly #openExports = async () => (await listExports(this.#host)).filter(({ running }) => running);

  /** Opens nothing yet. */
  constructor(settings: KvmHostSettings) {
    this.#host = new KvmHost(settings);
  }

  check(): Promise<HypervisorReport> {
    return checkHost(this.#host);
  }

  listVolumes(): AsyncGenerator<VolumeDescription> {
    return listVolumes(this.#host);
  }

  describeVolume(externalId: string): Promise<VolumeDescription> {
    return describeVolume(this.#host, externalId);
  }

  listVms(): AsyncGenerator<VmDescription> {
    return listVms(this.#host);
  }

  describeVm(externalId: string): Promise<VmDescription | undefined> {
    return describeVmByUuid(this.#host, externalId);
  }

  plannedInstallPath(request: SnapshotRequest): string {
    return plannedOverlay(request);
  }

  takeSnapshots(requests: readonly SnapshotRequest[], options: { quiesce: Quiesce }): Promise<TakenSnapshot[]> {
    return this.#takes.take(() => takeSnapshots(this.#host, requests, options));
  }

  deleteSnapshot(installPath: string, options: { until?: number } = {}): Promise<DeletedSnapshot> {
    plannedBy(installPath);
    return mergeSnapshot(this.#host, installPath, { exports: this.#openExports, ...options });
  }

  deleteAllSnapshots(externalId: string, options: { until?: number } = {}): Promise<DeletedSnapshot> {
    return mergeAll(this.#host, externalId, { exports: this.#openExports, ...options });
  }

  operateVm(vmExternalId: string, operation: VmOperationRequest, options?: { until?: number }): Promise<OperatedVm> {
    return operateVm(this.#host, vmExternalId, operation, options);
  }

  defineVm(vm: NewVm): Promise<string> {
    return defineVm(this.#host, vm);
  }

  thaw(): Promise<string[]> {
    return thawForgotten(this.#host);
  }

  openExport(snapshot: { snapshotId: string; installPath: string }): Promise<KvmExport> {
    return openExport(this.#host, snapshot);
  }

  extents(descriptor: ExportDescriptor, range: Extent): AsyncGenerator<Extent> {
    return withMetadata(this.#host, kvmExport(descriptor), (pool) => dataExtents(pool, range));
  }

  async changedExtents(descriptor: ExportDescriptor, since: ExportRecord): Promise<AsyncIterable<Extent> | undefined> {
    const changed = changedLayers(await frozenChain(this.#host, descriptor), since);
    return changed && withMetadata(this.#host, kvmExport(descriptor), (pool) => changedExtents(pool, changed));
  }

  openReader(descriptor: ExportDescriptor): Promise<VolumeReader> {
    return KvmVolumeReader.open(this.#host, kvmExport(descriptor));
  }

  closeExport(descriptor: ExportDescriptor): Promise<void> {
    return closeExport(this.#host, descriptor);
  }

  closeStaleExports(isNeeded: (snapshotId: string) => Promise<boolean>): Promise<string[]> {
    return closeStaleExports(this.#host, isNeeded);
  }

  createVolume(volume: NewVolume): Promise<void> {
    return this.#underConstruction(volume).create();
  }

  openWriter(volume: NewVolume): Promise<VolumeWriter> {
    return this.#underConstruction(volume).openWriter();
  }

  async publishVolume(volume: NewVolume): Promise<VolumeDescription> {
    return this.describeVolume(await this.#underConstruction(volume).publish());
  }

  discardVolume(volume: NewVolume): Promise<void> {
    return this.#underConstruction(volume).discard();
  }

  async forgetReplaced(volume: NewVolume): Promise<void> {
    const { replaces } = volume;
    if (replaces !== undefined) await new ReplacedVolume(this.#host, volume, replaces).forgetReplaced();
  }

  #underConstruction(volume: NewVolume): RestoredVolume | ReplacedVolume {
    const { replaces } = volume;
    return replaces === undefined
      ? new RestoredVolume(this.#host, volume)
      : new ReplacedVolume(this.#host, volume, replaces);
  }

  close(): Promise<void> {
    return this.#host.close();
  }
}

/** Throws TypeError for the descriptor of another kind of hypervisor, which is a bug. */
function kvmExport(descriptor: ExportDescriptor): KvmExport {
  if (descriptor.kind === "kvm" && "socket" in descriptor && typeof descriptor.socket === "string") {
    return descriptor as KvmExport;
  }
  throw new TypeError(`This is not an export of a KVM host: ${descriptor.kind}.`);
}
