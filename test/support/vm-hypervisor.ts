/** A hypervisor in memory that has VMs: what is frozen on it and what was done to its VMs can be looked at. It copies no bytes. */
import { HypervisorFailed, OperationRefused, VolumeNotFound } from "../../lambdas/domain/errors.ts";
import type {
  Capabilities,
  DeletedSnapshot,
  Hypervisor,
  NewVm,
  NewVolume,
  OperatedVm,
  Quiesce,
  SnapshotRequest,
  TakenSnapshot,
  VmDescription,
  VmOperationRequest,
  VolumeDescription,
} from "../../lambdas/hypervisors/port.ts";

export class VmHypervisor {
  readonly kind = "vm-double";
  readonly capabilities: Capabilities = { quiesce: true, changeTracking: false, snapshotCopies: false };
  volumes: VolumeDescription[] = [];
  vms: VmDescription[] = [];
  /** Install paths of what is frozen. */
  readonly frozen = new Set<string>();
  /** Volumes that are being restored, by their restores. */
  readonly unfinished = new Map<string, NewVolume>();
  /** What every snapshot's VM is defined as. */
  definition = "definition";
  readonly takes: { snapshotIds: string[]; quiesce: Quiesce }[] = [];
  readonly done: { vm: string; request: VmOperationRequest }[] = [];
  /** The externalId of a volume that cannot be frozen: those before it are, and are let go again. */
  broken: string | undefined;
  /** Runs while an operation is done. What it throws, the operation throws. */
  meanwhile: () => Promise<void> = async () => {};
  /** Whether guests that are asked to stop do so at once. */
  guestsObey = true;

  /** For what takes a {@link Hypervisor}. */
  get adapter(): Hypervisor {
    return this as unknown as Hypervisor;
  }

  /** A VM with a disk for each of the names, of which it boots from the first. */
  addVm(name: string, disks: readonly string[]): this {
    const targets = disks.map((volumeExternalId, index) => ({
      target: `vd${String.fromCharCode(97 + index)}`,
      volumeExternalId,
    }));
    this.vms.push({ externalId: `uuid-${name}`, name, state: "running", guestAgent: "connected", disks: targets });
    const known = new Set(this.volumes.map(({ externalId }) => externalId));
    for (const disk of disks)
      if (!known.has(disk)) this.volumes.push({ externalId: disk, name: disk, sizeBytes: 1024, inUse: true });
    return this;
  }

  async *listVolumes(): AsyncGenerator<VolumeDescription> {
    for (const { externalId } of this.volumes) yield this.describeVolume(externalId);
  }

  async *listVms(): AsyncGenerator<VmDescription> {
    yield* this.vms;
  }

  async describeVm(externalId: string): Promise<VmDescription | undefined> {
    return this.vms.find((vm) => vm.externalId === externalId);
  }

  async operateVm(vm: string, request: VmOperationRequest): Promise<OperatedVm> {
    await this.meanwhile();
    this.done.push({ vm, request });
    if (request.operation === "stop" && !this.guestsObey) return { finished: false };
    if (request.operation === "attach-disk") this.#attach(vm, request.volumeExternalId);
    const state = { stop: "stopped", destroy: "stopped", start: "running" }[request.operation as string];
    if (state !== undefined) this.setState(vm, state as VmDescription["state"]);
    return { finished: true };
  }

  setState(vm: string, state: VmDescription["state"]): void {
    this.vms = this.vms.map((one) => (one.externalId === vm ? { ...one, state } : one));
  }

  #attach(vm: string, volumeExternalId: string): void {
    const owner = this.#ownerOf(volumeExternalId);
    if (owner?.externalId === vm) return;
    if (owner) throw new OperationRefused(`${volumeExternalId} is a disk of ${owner.name}.`);
    this.vms = this.vms.map((one) => {
      if (one.externalId !== vm) return one;
      const target = `vd${String.fromCharCode(97 + one.disks.length)}`;
      return { ...one, disks: [...one.disks, { target, volumeExternalId }] };
    });
  }

  #ownerOf(volumeExternalId: string): VmDescription | undefined {
    return this.vms.find(({ disks }) => disks.some((disk) => disk.volumeExternalId === volumeExternalId));
  }

  async defineVm({ name, target, volumeExternalId, definition }: NewVm): Promise<string> {
    await this.meanwhile();
    const owner = this.#ownerOf(volumeExternalId);
    if (owner?.name === name) return owner.externalId;
    if (owner) throw new OperationRefused(`${volumeExternalId} is a disk of ${owner.name}.`);
    if (this.vms.some((vm) => vm.name === name)) throw new OperationRefused(`There is a VM ${name} already.`);
    const externalId = `uuid-${name}-of-${definition}`;
    const disks = [{ target, volumeExternalId }];
    this.vms.push({ externalId, name, state: "stopped", guestAgent: "absent", disks });
    return externalId;
  }

  async createVolume(volume: NewVolume): Promise<void> {
    this.unfinished.set(volume.restoreId, volume);
  }

  /** Calls it by a path, as KVM does. */
  async publishVolume({ restoreId, name, pool = "default", sizeBytes }: NewVolume): Promise<VolumeDescription> {
    const externalId = `/${pool}/${name}`;
    if (this.unfinished.delete(restoreId))
      this.volumes.push({ externalId, name, sizeBytes, inUse: false, unsupported: "no VM has it as a disk" });
    return this.describeVolume(externalId);
  }

  async discardVolume({ restoreId }: NewVolume): Promise<void> {
    this.unfinished.delete(restoreId);
  }

  async describeVolume(externalId: string): Promise<VolumeDescription> {
    const found = this.volumes.find((volume) => volume.externalId === externalId);
    if (!found) throw new VolumeNotFound(`There is no volume ${externalId}.`);
    const owner = this.#ownerOf(externalId);
    if (!owner) return found;
    const { unsupported: _, ...volume } = found;
    return { ...volume, inUse: owner.state === "running" };
  }

  plannedInstallPath({ externalId, snapshotId }: SnapshotRequest): string {
    return `/${externalId}.${snapshotId}`;
  }

  async takeSnapshots(
    requests: readonly SnapshotRequest[],
    { quiesce }: { quiesce: Quiesce },
  ): Promise<TakenSnapshot[]> {
    this.takes.push({ snapshotIds: requests.map(({ snapshotId }) => snapshotId), quiesce });
    const made: string[] = [];
    for (const request of requests) {
      const installPath = this.plannedInstallPath(request);
      if (request.externalId === this.broken) {
        for (const path of made) this.frozen.delete(path);
        throw new HypervisorFailed(`${request.externalId} cannot be frozen`);
      }
      this.frozen.add(installPath);
      made.push(installPath);
    }
    return requests.map((request) => ({
      ...this.#vmOf(request.externalId),
      snapshotId: request.snapshotId,
      installPath: this.plannedInstallPath(request),
      sizeBytes: 1024,
      physicalBytes: 512,
      consistency: quiesce === false ? "crash" : "filesystem",
    }));
  }

  #vmOf(externalId: string): Pick<TakenSnapshot, "vm"> {
    const owner = this.#ownerOf(externalId);
    const target = owner?.disks.find((disk) => disk.volumeExternalId === externalId)?.target;
    return owner && target !== undefined
      ? { vm: { externalId: owner.externalId, name: owner.name, target, definition: this.definition } }
      : {};
  }

  async deleteSnapshot(installPath: string): Promise<DeletedSnapshot> {
    this.frozen.delete(installPath);
    return { finished: true };
  }
}
