/**
 * What may be done to VMs and volumes, and what while snapshots of them are BackingUp. A frozen disk is read apart from the VM, so that most of
 * it is allowed; refused is what takes the disk away that a backup is of, and to detach discs (docs/decisions/024-operations-hold-disks.md). Pure.
 */
import type { VmState } from "./vm.ts";

/** Allowed, or why not, as a part of a sentence. */
export type Permission = true | string;

/** Which disk is BackingUp, seen from an operation: the one that it names, the one that the VM boots from, or any other of the VM. */
export const disksBackingUp = ["namedDisk", "rootDisk", "dataDisk"] as const;
export type DiskBackingUp = (typeof disksBackingUp)[number];

/** What an operation on a VM is told. `imagePath` and `path` are files on the hypervisor. */
export type VmOperationField = "volumeId" | "path" | "imagePath" | "cpus" | "memoryBytes";

/** A disk that an operation must leave alone while it gets back the bytes of a snapshot, by what it is to the operation. */
type RestoringRule = Readonly<Partial<Record<DiskBackingUp, string>>>;

interface VmOperationRule {
  /** All of them must be given, and no others. */
  readonly fields: readonly VmOperationField[];
  /** Absent: in whatever state the VM is. */
  readonly needs?: "running" | "stopped";
  /** An operation that names no disk has no `namedDisk`. */
  readonly while: Readonly<Record<"rootDisk" | "dataDisk", Permission> & Partial<Record<"namedDisk", Permission>>>;
  /** Absent: all are allowed. */
  readonly whileRestored?: RestoringRule;
}

const always = { rootDisk: true, dataDisk: true } as const;
const discStays = "a disc stays in its drive while a disk of the VM is being backed up";
const notStarted = "a VM is not started while a disk of it is restored in place";

/** The only operations on a VM that there are. */
export const vmOperationRules = {
  start: { fields: [], while: always, whileRestored: { rootDisk: notStarted, dataDisk: notStarted } },
  stop: { fields: [], while: always },
  reboot: { fields: [], needs: "running", while: always },
  destroy: {
    fields: [],
    while: { rootDisk: "a VM is not destroyed while its root disk is being backed up", dataDisk: true },
  },
  "attach-iso": { fields: ["path"], while: always },
  "detach-iso": { fields: [], while: { rootDisk: discStays, dataDisk: discStays } },
  "attach-disk": { fields: ["volumeId"], while: { ...always, namedDisk: true } },
  "detach-disk": {
    fields: ["volumeId"],
    while: { ...always, namedDisk: "a disk stays attached while it is being backed up" },
    whileRestored: { namedDisk: "a disk stays attached while it is restored in place" },
  },
  "change-cpu": { fields: ["cpus"], while: always },
  "change-memory": { fields: ["memoryBytes"], while: always },
  reinstall: {
    fields: ["imagePath"],
    needs: "stopped",
    while: { rootDisk: "a root disk is not replaced while it is being backed up", dataDisk: true },
    whileRestored: { rootDisk: "a root disk is not replaced while it is restored in place" },
  },
} as const satisfies Record<string, VmOperationRule>;

export type VmOperation = keyof typeof vmOperationRules;
export const vmOperations = Object.keys(vmOperationRules) as VmOperation[];

/** Operations that name files on the hypervisor: these are for who administers it, since a path may lead to anybody's files. */
export function namesFiles(operation: VmOperation): boolean {
  return fieldsOf(operation).some((field) => field === "path" || field === "imagePath");
}

export function fieldsOf(operation: VmOperation): readonly VmOperationField[] {
  return vmOperationRules[operation].fields;
}

/** Whether `operation` may be done to a VM in that state. One that is paused, or on its way down, is there and not stopped. */
export function permissionIn(operation: VmOperation, state: VmState): Permission {
  const { needs }: VmOperationRule = vmOperationRules[operation];
  return needs === undefined || (needs === "stopped") === (state === "stopped") || `it needs a VM that is ${needs}`;
}

/** Whether `operation` may be done while that disk is BackingUp. */
export function permissionWhile(operation: VmOperation, disk: DiskBackingUp): Permission {
  const rule: VmOperationRule = vmOperationRules[operation];
  return rule.while[disk] ?? true;
}

/** Whether `operation` may be done while that disk is restored in place. */
export function permissionWhileRestored(operation: VmOperation, disk: DiskBackingUp): Permission {
  const rule: VmOperationRule = vmOperationRules[operation];
  return rule.whileRestored?.[disk] ?? true;
}

/** Whether there is a disk whose backup forbids the operation. */
export function isForbiddenBySomeBackup(operation: VmOperation): boolean {
  return disksBackingUp.some((disk) => permissionWhile(operation, disk) !== true);
}

/** What one disk of a VM is to an operation that names the volume `named`. */
export function roleOf(disk: { readonly volumeId: string; readonly root: boolean }, named?: string): DiskBackingUp {
  if (disk.volumeId === named) return "namedDisk";
  return disk.root ? "rootDisk" : "dataDisk";
}

/** The only operation on a volume that there is, and whether it may be done while that volume is BackingUp. Other volumes never matter. */
export const volumeOperationRules: Readonly<Record<"snapshot", Permission>> = { snapshot: true };
