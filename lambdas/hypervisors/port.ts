/**
 * What a hypervisor adapter does. The comments are the contract; `test/contract/hypervisor.ts` checks every adapter against it.
 *
 * - Every method may run twice with the same arguments and then finds what the first run made: names on the hypervisor
 *   derive from the ids given here.
 * - Adapters do not retry and do not count: they throw the classes of `domain/errors.ts` and leave the rest to the caller.
 * - All offsets, lengths and sizes are bytes. A volume has any size, 0 and odd ones too.
 */
import type { Consistency } from "../domain/snapshot.ts";

export interface Capabilities {
  /** Whether a VM's writes can be held around the snapshot. */
  readonly quiesce: boolean;
  /** Whether there is a {@link Hypervisor.changedExtents}. */
  readonly changeTracking: boolean;
  /** Whether a taken snapshot costs time in proportion to the volume's allocated bytes (a copy) or not (a clone, an overlay). */
  readonly snapshotCopies: boolean;
}

/** A volume as the hypervisor knows it. `externalId` is stable and unique within the hypervisor. */
export interface VolumeDescription {
  readonly externalId: string;
  readonly name: string;
  readonly sizeBytes: number;
  /** Bytes that take room on primary storage, where the hypervisor can tell. */
  readonly allocatedBytes?: number;
  readonly inUse: boolean;
  /** Why this volume cannot be backed up; absent when it can. */
  readonly unsupported?: string;
}

/** What a registered hypervisor turned out to be, for people. */
export interface HypervisorReport {
  /** By the name of the software, as `{"libvirt": "9.0.0", "QEMU": "7.2.19"}`. */
  readonly versions: Readonly<Record<string, string>>;
  /** What will not work although all else does; sentences. */
  readonly warnings: readonly string[];
}

/** `unknown`: whether the guest answers was not looked at, or cannot be told now. */
export type GuestAgentState = "connected" | "absent" | "unknown";

/** A virtual machine as the hypervisor knows it. `externalId` (its UUID) stays through renaming. */
export interface VmDescription {
  readonly externalId: string;
  readonly name: string;
  readonly state: "running" | "stopped" | "paused" | "other";
  readonly guestAgent: GuestAgentState;
  /** In the order in which the hypervisor has them; the one that it boots from comes first where it can tell. */
  readonly disks: readonly VmDisk[];
}

export interface VmDisk {
  /** As the guest's host names it, `vda`. */
  readonly target: string;
  /** Of the {@link VolumeDescription}; also of disks that are `unsupported` there. */
  readonly volumeExternalId: string;
}

/** What can be done to a VM. Paths and ids are the hypervisor's own. */
export type VmOperationRequest =
  | { readonly operation: "start" | "stop" | "reboot" | "destroy" | "detach-iso" }
  | { readonly operation: "attach-iso"; readonly path: string }
  | { readonly operation: "attach-disk" | "detach-disk"; readonly volumeExternalId: string }
  | { readonly operation: "change-cpu"; readonly cpus: number }
  | { readonly operation: "change-memory"; readonly memoryBytes: number }
  | { readonly operation: "reinstall"; readonly imagePath: string };

export interface OperatedVm {
  readonly finished: boolean;
}

/**
 * Whether a VM's file systems are flushed and held around the snapshot: not at all; held, or QuiesceFailed before anything is created;
 * held where it can be, else not.
 */
export type Quiesce = boolean | "preferred";

export interface SnapshotRequest {
  readonly externalId: string;
  readonly snapshotId: string;
}

export interface TakenSnapshot {
  readonly snapshotId: string;
  /** Where the frozen bytes lie, in the adapter's own words; the argument of every later call on this snapshot. */
  readonly installPath: string;
  readonly sizeBytes: number;
  /** Bytes that the frozen state takes on primary storage. */
  readonly physicalBytes: number;
  readonly consistency: Consistency;
  /** The VM that has the volume as a disk. Absent where there is none, or its definition does not have that disk. */
  readonly vm?: DefinedVm;
}

/** A VM as it is defined at the moment. */
export interface DefinedVm {
  /** Of the {@link VmDescription}. */
  readonly externalId: string;
  readonly name: string;
  /** Which of its disks the volume is. */
  readonly target: string;
  /** In the adapter's own words, for {@link Hypervisor.defineVm} on any hypervisor of its kind. Free of secrets. */
  readonly definition: string;
}

export interface DeletedSnapshot {
  readonly finished: boolean;
}

/** A range of a volume. Ranges that are not listed read as zeros. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
}

/** An opened export. Plain JSON, free of secrets: it travels through execution input. */
export interface ExportDescriptor {
  readonly kind: string;
  readonly snapshotId: string;
  readonly installPath: string;
  readonly sizeBytes: number;
}

export interface VolumeReader extends AsyncDisposable {
  /** Exactly `length` bytes from `offset`, into `target` (which is `length` long). Throws ExportLost when they are gone. */
  read(target: Uint8Array, offset: number): Promise<void>;
}

/** A volume under construction. Nobody but its writers sees it until {@link Hypervisor.publishVolume}. */
export interface NewVolume {
  /** Derives from the job that restores, so that a retry finds the same unfinished volume. */
  readonly restoreId: string;
  readonly name: string;
  /** The storage pool that it is made in; absent for the default. Only for hypervisors that have pools. */
  readonly pool?: string;
  readonly sizeBytes: number;
  /**
   * externalId of the volume whose bytes these become. It keeps its identity, what it held is kept until
   * {@link Hypervisor.forgetReplaced}, and no VM starts with it from createVolume until then, where the hypervisor can see to that.
   */
  readonly replaces?: string;
}

/** A VM that is to be made from the definition of another. */
export interface NewVm {
  readonly name: string;
  /** Of {@link DefinedVm}. */
  readonly definition: string;
  /** The disk of the definition that is the volume now. */
  readonly target: string;
  readonly volumeExternalId: string;
}

export interface VolumeWriter extends AsyncDisposable {
  /** Writes all of `data` at `offset`. What is never written reads as zeros. */
  write(data: Uint8Array, offset: number): Promise<void>;
  /** Makes all that was written durable. */
  flush(): Promise<void>;
}

export interface Hypervisor {
  readonly kind: string;
  readonly capabilities: Capabilities;

  /** Whether the hypervisor can be used as it is registered: reachable, rights, versions. Throws with a sentence that says what is missing. */
  check(): Promise<HypervisorReport>;
  listVolumes(): AsyncIterable<VolumeDescription>;
  /** Throws VolumeNotFound. */
  describeVolume(externalId: string): Promise<VolumeDescription>;

  /** The path that {@link takeSnapshots} will use, so that it can be recorded before anything is created. */
  plannedInstallPath(request: SnapshotRequest): string;
  /** Freezes all the volumes at one moment where it can, all or none. A snapshot that exists already is returned as it is. */
  takeSnapshots(requests: readonly SnapshotRequest[], options: { quiesce: Quiesce }): Promise<TakenSnapshot[]>;
  /**
   * Deletes the frozen bytes and whatever an interrupted take left. Gone is success. Where that takes long it returns `finished: false`
   * at about `until` (of `Date.now()`) while the hypervisor works on; the next call finds out how far it is.
   */
  deleteSnapshot(installPath: string, options?: { readonly until?: number }): Promise<DeletedSnapshot>;
  /**
   * Deletes as {@link deleteSnapshot} does whatever frozen bytes are left of a volume, so that nothing of them stands between it and its VM.
   * Absent where frozen bytes lie apart from the volume.
   */
  deleteAllSnapshots?(externalId: string, options?: { readonly until?: number }): Promise<DeletedSnapshot>;

  openExport(snapshot: { snapshotId: string; installPath: string }): Promise<ExportDescriptor>;
  /** Allocated ranges within `range`, ascending, not overlapping. An adapter that cannot tell yields the whole range. */
  extents(descriptor: ExportDescriptor, range: Extent): AsyncIterable<Extent>;
  /**
   * Every range whose bytes may differ from those of the earlier snapshot `since` of the same volume, ascending, not overlapping: what
   * was written, discarded, or lies beyond the earlier size. The earlier snapshot need not be on primary any more. Undefined when that
   * cannot be told: tracking was off or reset in between, `since` was never seen or is not the earlier of the two. A range too many
   * costs time; one too few would be a wrong backup, so in doubt the answer is undefined. Absent where changes are not tracked.
   */
  changedExtents?(
    descriptor: ExportDescriptor,
    since: { snapshotId: string; installPath: string },
  ): Promise<AsyncIterable<Extent> | undefined>;
  openReader(descriptor: ExportDescriptor): Promise<VolumeReader>;
  /** Gone or closed already is success. */
  closeExport(descriptor: ExportDescriptor): Promise<void>;

  /**
   * Creates the unfinished volume, or finds the one that an earlier run made. Throws VolumeNameTaken if `name` exists. Of one that replaces
   * another: VolumeNotFound, and OperationRefused while that is in use.
   */
  createVolume(volume: NewVolume): Promise<void>;
  openWriter(volume: NewVolume): Promise<VolumeWriter>;
  /** Gives the finished volume its name; never overwrites (VolumeNameTaken). A second call finds it published and answers the same. */
  publishVolume(volume: NewVolume): Promise<VolumeDescription>;
  /** Deletes an unfinished volume. Gone is success; a published one is left alone, but one that replaced another gives way to that again. */
  discardVolume(volume: NewVolume): Promise<void>;
  /** Deletes what a published volume has replaced. Gone is success. */
  forgetReplaced(volume: NewVolume): Promise<void>;

  /** Absent, with the five below, where the hypervisor has no virtual machines. */
  listVms?(): AsyncIterable<VmDescription>;
  /** One of them, whatever state the disks of others are in. Undefined when it is gone. */
  describeVm?(externalId: string): Promise<VmDescription | undefined>;
  /**
   * Throws OperationRefused with the hypervisor's reason. A guest that was asked to stop and has not at about `until` (of `Date.now()`) is
   * answered with `finished: false`: it may go on, and asking again waits on. Other operations that take longer fail.
   */
  operateVm?(
    vmExternalId: string,
    operation: VmOperationRequest,
    options?: { readonly until?: number },
  ): Promise<OperatedVm>;
  /**
   * Makes a VM that does not run, with the volume as its only disk, and returns its externalId. A VM of that name that has the volume was made
   * by an earlier call. Throws OperationRefused for a name that another VM has, a volume that is a disk of one, and what it cannot define.
   */
  defineVm?(vm: NewVm): Promise<string>;
  /** Lets go the file systems that {@link takeSnapshots} of a worker that died left held; returns the VMs' externalIds. */
  thaw?(): Promise<readonly string[]>;
  /**
   * Closes exports of snapshots that nobody needs any more; returns the ids of their snapshots. `isNeeded` is asked after the exports were
   * listed: who opens one has said so before, so that one that opens meanwhile is let be.
   */
  closeStaleExports?(isNeeded: (snapshotId: string) => Promise<boolean>): Promise<readonly string[]>;
  /** Ends what is open between calls, as connections. A later call opens it again. */
  close?(): Promise<void>;
}
