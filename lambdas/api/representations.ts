/** Rows as the API shows them: what callers can use, nothing of how it is kept. */
import {
  defaultStoreId,
  type HypervisorCheck,
  type HypervisorRow,
  type HypervisorSettings,
  type StoreEncryption,
  type StoreOptions,
  type StoreRow,
  type Volume,
  volumeStatus,
} from "../domain/inventory.ts";
import type { Job } from "../domain/job.ts";
import { protectionOf } from "../domain/protection.ts";
import type { BackupCheck, Snapshot } from "../domain/snapshot.ts";
import type { StoreReference } from "../domain/store-reference.ts";
import type { DiskOfVm, Vm } from "../domain/vm.ts";
import type { Progress } from "../tables/progress.ts";
import { basePath, type Caller, mayActAs } from "./http.ts";
import type {
  HypervisorRepresentation,
  JobRepresentation,
  SnapshotRepresentation,
  StoreRepresentation,
  VmRepresentation,
  VolumeRepresentation,
} from "./response-schemas.ts";

export function pathOf(kind: "jobs" | "snapshots" | "volumes" | "vms" | "hypervisors" | "stores", id: string): string {
  return `${basePath}/${kind}/${id}`;
}

/** What is known of a job beside its row. */
export interface JobSurroundings {
  /** The backup that a creation waits for: its phase, attempts and progress are what the waiting is about. */
  readonly awaitedBackup?: Job;
  readonly progress?: Progress;
  readonly queue?: { readonly position: number; readonly waitsFor: string };
}

export function jobRepresentation(job: Omit<Job, "open">, surroundings: JobSurroundings = {}): JobRepresentation {
  const { awaitedBackup, progress, queue } = surroundings;
  const worker = awaitedBackup ?? job;
  return {
    id: job.id,
    kind: job.kind,
    state: job.state,
    phase: worker.phase,
    snapshotId: job.snapshotId,
    volumeId: job.volumeId,
    ...given({ groupId: job.group?.id, asyncBackup: job.asyncBackup }),
    attempt: worker.attempt,
    maxAttempts: worker.policy.maxAttempts,
    ...given({ verify: worker.policy.verify, full: worker.policy.full }),
    ...given({ quiesce: job.kind === "create-snapshot" ? job.policy.quiesce : undefined }),
    attempts: worker.attempts.map(({ attempt, startedAt, endedAt, error }) => ({
      attempt,
      startedAt,
      endedAt,
      error: { name: error.name, message: error.message },
    })),
    ...given({ progress, queue, backup: worker.backup, backupJobId: job.backupJobId, parentJobId: job.parentJobId }),
    ...(job.target === undefined
      ? {}
      : {
          target: {
            hypervisorId: job.target.hypervisorId,
            name: job.target.name,
            ...given({ pool: job.target.pool }),
            volumeId: job.target.volumeId,
            ...given({ vmId: job.target.vmId, newVm: job.target.newVm }),
          },
        }),
    ...given({ salvage: job.salvage, lost: job.lost && [...job.lost] }),
    ...given({ error: job.error, cancelRequestedAt: job.cancelRequestedAt }),
    createdAt: job.createdAt,
    updatedAt: job.updatedAt,
    queuedAt: job.queuedAt,
    ...given({ startedAt: job.startedAt, finishedAt: job.finishedAt }),
    links: {
      self: pathOf("jobs", job.id),
      snapshot: pathOf("snapshots", job.snapshotId),
      volume: pathOf("volumes", job.target?.volumeId ?? job.volumeId),
      ...(job.backupJobId === undefined ? {} : { backupJob: pathOf("jobs", job.backupJobId) }),
      ...(job.parentJobId === undefined ? {} : { parentJob: pathOf("jobs", job.parentJobId) }),
      ...(job.target?.vmId === undefined ? {} : { vm: pathOf("vms", job.target.vmId) }),
    },
  };
}

/** What is known of a snapshot beside its row. */
export interface SnapshotSurroundings {
  readonly references?: readonly StoreReference[];
  readonly progress?: Progress;
  readonly job?: Pick<Job, "id" | "kind" | "state">;
}

export function snapshotRepresentation(
  snapshot: Snapshot,
  surroundings: SnapshotSurroundings = {},
): SnapshotRepresentation {
  const { references = [], progress, job } = surroundings;
  return {
    id: snapshot.id,
    volumeId: snapshot.volumeId,
    hypervisorId: snapshot.hypervisorId,
    storeId: snapshot.storeId,
    ...given({ vmId: snapshot.vmId, groupId: snapshot.groupId }),
    ...given({ name: snapshot.name, description: snapshot.description }),
    tags: snapshot.tags,
    state: snapshot.state,
    ...given({ consistency: snapshot.consistency, vmDefinition: snapshot.vmDefinition }),
    bytes: given({
      logical: snapshot.logicalBytes,
      physical: snapshot.physicalBytes,
      stored: snapshot.storedBytes,
    }),
    ...given({ progress }),
    references: references.map(({ role, storeId, state, sizeBytes, physicalBytes, error }) => ({
      role,
      storeId,
      state,
      ...given({ sizeBytes, physicalBytes, error }),
    })),
    job: {
      id: snapshot.jobId,
      ...(job === undefined ? {} : { kind: job.kind, state: job.state }),
      href: pathOf("jobs", snapshot.jobId),
    },
    attempt: snapshot.attempt,
    maxAttempts: snapshot.maxAttempts,
    readers: [...snapshot.readers],
    ...given({ error: snapshot.error, primaryKeptUntil: snapshot.primaryKeptUntil }),
    createdAt: snapshot.createdAt,
    updatedAt: snapshot.updatedAt,
    ...given({
      createdOnPrimaryAt: snapshot.createdOnPrimaryAt,
      backedUpAt: snapshot.backedUpAt,
      lockedUntil: snapshot.lockedUntil,
      lastCheck: snapshot.lastCheck && checkRepresentation(snapshot.lastCheck),
      hintMismatch: snapshot.hintMismatch,
    }),
  };
}

function checkRepresentation({ lost, ...check }: BackupCheck) {
  return { ...check, ...(lost === undefined ? {} : { lost: [...lost] }) };
}

export function volumeRepresentation(volume: Volume, caller: Caller): VolumeRepresentation {
  return {
    id: volume.id,
    hypervisorId: volume.hypervisorId,
    name: volume.name,
    externalId: volume.externalId,
    status: volumeStatus(volume),
    sizeBytes: volume.sizeBytes,
    ...given({ allocatedBytes: volume.allocatedBytes }),
    inUse: volume.inUse,
    backingUp: volume.backingUp,
    protection: protectionOf(volume),
    ...given({
      protectionError: volume.protectionError,
      restoringJobId: volume.restoringJobId,
      unsupported: volume.unsupported,
    }),
    ...(mayActAs(caller, "admin") ? { unassigned: volume.unassigned } : {}),
    discoveredAt: volume.discoveredAt,
  };
}

export function vmRepresentation(vm: Vm, disks: readonly DiskOfVm[], caller: Caller): VmRepresentation {
  return {
    id: vm.id,
    hypervisorId: vm.hypervisorId,
    name: vm.name,
    externalId: vm.externalId,
    state: vm.missing ? "missing" : vm.state,
    guestAgent: vm.guestAgent,
    disks: disks.map(({ target, root, volumeId, volume, visible }) => ({
      target,
      root,
      ...(visible ? given({ volumeId, name: volume?.name, sizeBytes: volume?.sizeBytes }) : {}),
    })),
    backingUp: disks.reduce((sum, { volume }) => sum + (volume?.backingUp ?? 0), 0),
    ...(mayActAs(caller, "admin") ? { unassigned: vm.unassigned } : {}),
    discoveredAt: vm.discoveredAt,
  };
}

export function hypervisorRepresentation(hypervisor: HypervisorRow, caller: Caller): HypervisorRepresentation {
  return {
    id: hypervisor.id,
    name: hypervisor.name,
    ...settingsRepresentation(hypervisor.settings),
    ...(mayActAs(caller, "admin") ? { tenantRules: [...hypervisor.tenantRules] } : {}),
    ...given({ lastCheck: hypervisor.lastCheck && hypervisorCheckRepresentation(hypervisor.lastCheck) }),
    createdAt: hypervisor.createdAt,
    ...given({ discoveredAt: hypervisor.discoveredAt }),
  };
}

function settingsRepresentation(settings: HypervisorSettings) {
  if (settings.kind !== "kvm") return settings;
  const { hostKeys, hostKeyTypes, ...others } = settings;
  return { ...others, hostKeys: [...hostKeys], ...given({ hostKeyTypes: hostKeyTypes && [...hostKeyTypes] }) };
}

function hypervisorCheckRepresentation({ at, versions, warnings }: HypervisorCheck) {
  return { at, versions: { ...versions }, warnings: [...warnings] };
}

export function storeRepresentation(store: StoreRow): StoreRepresentation {
  return {
    id: store.id,
    name: store.name,
    default: false,
    bucket: store.bucket,
    prefix: store.prefix,
    ...given({ endpoint: store.endpoint }),
    region: store.region,
    pathStyle: store.pathStyle,
    secretId: store.secretId,
    encryption: store.encryption ?? "none",
    ...optionsOf(store),
    createdAt: store.createdAt,
  };
}

/** The stack's own bucket: every tenant has it, and nobody needs to know where it is. */
export function defaultStoreRepresentation(encryption: StoreEncryption, options: StoreOptions): StoreRepresentation {
  return { id: defaultStoreId, name: defaultStoreId, default: true, encryption, ...optionsOf(options) };
}

function optionsOf({ bytesPerSecond, requestsPerSecond, objectLock }: StoreOptions) {
  const limits = given({ bytesPerSecond, requestsPerSecond });
  return given({ limits: Object.keys(limits).length > 0 ? limits : undefined, objectLock });
}

type Given<T> = { [Key in keyof T]?: Exclude<T[Key], undefined> };

/** Only the members that have a value: JSON has no undefined, and schemas tell absent from null. */
function given<T extends object>(members: T): Given<T> {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined)) as Given<T>;
}
