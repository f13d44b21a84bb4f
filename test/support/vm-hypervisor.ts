/** A hypervisor in memory that has VMs: what is frozen on it and what was done to its VMs can be looked at. It copies no bytes. */
import { HypervisorFailed } from "../../lambdas/domain/errors.ts";
import type {
  Capabilities,
  DeletedSnapshot,
  Hypervisor,
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
  readonly takes: { snapshotIds: string[]; quiesce: Quiesce }[] = [];
  readonly done: { vm: string; request: VmOperationRequest }[] = [];
  /** The externalId of a volume that cannot be frozen: those before it are, and are let go again. */
  broken: string | undefined;
  /** Runs while an operation is done. What it throws, the operation throws. */
  meanwhile: () => Promise<void> = async () => {};

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
    yield* this.volumes;
  }

  async *listVms(): AsyncGenerator<VmDescription> {
    yield* this.vms;
  }

  async operateVm(vm: string, request: VmOperationRequest): Promise<void> {
    await this.meanwhile();
    this.done.push({ vm, request });
    const state = { stop: "stopped", destroy: "stopped", start: "running" }[request.operation as string];
    if (state === undefined) return;
    this.vms = this.vms.map((one) => (one.externalId === vm ? ({ ...one, state } as VmDescription) : one));
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
      snapshotId: request.snapshotId,
      installPath: this.plannedInstallPath(request),
      sizeBytes: 1024,
      physicalBytes: 512,
      consistency: quiesce === false ? "crash" : "filesystem",
    }));
  }

  async deleteSnapshot(installPath: string): Promise<DeletedSnapshot> {
    this.frozen.delete(installPath);
    return { finished: true };
  }
}
