/** What answers hold. The representations are typed by these, and the OpenAPI document is made from them. */
import * as z from "zod";
import { objectLockModes, storeEncryptions } from "../domain/inventory.ts";
import { backupVerifications, jobKinds, jobPhases, jobStates, quiesceModes } from "../domain/job.ts";
import { vmOperations } from "../domain/operations.ts";
import { protections } from "../domain/protection.ts";
import { snapshotStates } from "../domain/snapshot.ts";
import { storeReferenceStates } from "../domain/store-reference.ts";
import { guestAgentStates, vmStates } from "../domain/vm.ts";

const time = z.iso.datetime().meta({ description: "ISO 8601, UTC." });
const bytes = z.int().min(0);
const link = z
  .string()
  .meta({ description: "A path of this API.", example: "/v1/jobs/job_01JD7QXN8ZK4V1TQ3C5M9R2WEY" });

const error = z
  .object({ name: z.string(), message: z.string() })
  .meta({ id: "Error", description: "What went wrong: the name never changes, the message is for people." });

const progress = z
  .object({ bytesDone: bytes, bytesTotal: bytes })
  .meta({ id: "Progress", description: "How far a job is, in bytes." });

export const jobSchema = z
  .object({
    id: z.string(),
    kind: z.enum(jobKinds),
    state: z.enum(jobStates),
    phase: z
      .enum(jobPhases)
      .meta({ description: "Where the job is. A job that waits for its backup shows the backup's." }),
    snapshotId: z.string(),
    volumeId: z.string(),
    groupId: z
      .string()
      .optional()
      .meta({ description: "Of a creation whose snapshot is one of several of the same moment." }),
    asyncBackup: z.boolean().optional(),
    attempt: z.int().min(0).meta({ description: "0 before the first." }),
    maxAttempts: z.int().min(1),
    verify: z
      .enum(backupVerifications)
      .optional()
      .meta({ description: "Of creations and backups: how the backup is checked before it is published." }),
    full: z
      .boolean()
      .optional()
      .meta({ description: "Of creations and backups: whether nothing of earlier backups is used again." }),
    quiesce: z
      .literal(quiesceModes)
      .optional()
      .meta({
        type: ["boolean", "string"],
        enum: [...quiesceModes],
        description: "Of creations: whether file systems are to be held for the moment of the snapshot.",
      }),
    attempts: z
      .array(z.object({ attempt: z.int(), startedAt: time, endedAt: time, error }))
      .meta({ description: "The attempts that failed." }),
    progress: progress.optional(),
    queue: z
      .object({ position: z.int().min(1), waitsFor: z.string() })
      .optional()
      .meta({ description: "While the job waits for a slot of a pool." }),
    backup: z
      .object({
        kind: z.enum(["full", "incremental"]),
        base: z.string().optional().meta({ description: "The snapshot whose backup it builds on." }),
        reading: z.enum(["changed", "everything"]).meta({
          description:
            "Whether all allocated bytes were read, or those only that change tracking calls changed since the base.",
        }),
        reason: z.string().optional().meta({ description: "Why it is full, or why everything was read." }),
      })
      .optional()
      .meta({ description: "How a backup came by its bytes." }),
    backupJobId: z.string().optional().meta({ description: "Of a creation: the job that backs the snapshot up." }),
    parentJobId: z.string().optional().meta({ description: "Of a backup: the creation that waits for it." }),
    target: z
      .object({
        hypervisorId: z.string(),
        name: z.string(),
        pool: z.string().optional(),
        volumeId: z.string().meta({
          description:
            "On hypervisors that call it otherwise than by its name, another one once the volume is complete.",
        }),
        vmId: z
          .string()
          .optional()
          .meta({ description: "The VM that gets the volume as a disk; of one that is made for it, once it is made." }),
        newVm: z.object({ name: z.string() }).optional(),
      })
      .optional()
      .meta({ description: "Of a restore." }),
    salvage: z.boolean().optional().meta({ description: "Of a restore of what is left of a damaged backup." }),
    lost: z.array(z.string()).optional().meta({
      description:
        "What such a restore has found lost, at its end: sentences that name objects and byte ranges of the volume, which are zeros in it.",
    }),
    error: error.optional(),
    cancelRequestedAt: time.optional(),
    createdAt: time,
    updatedAt: time,
    queuedAt: time,
    startedAt: time.optional(),
    finishedAt: time.optional(),
    links: z.object({
      self: link,
      snapshot: link,
      volume: link,
      backupJob: link.optional(),
      parentJob: link.optional(),
      vm: link.optional(),
    }),
  })
  .meta({ id: "Job" });

export const snapshotSchema = z
  .object({
    id: z.string(),
    volumeId: z.string(),
    hypervisorId: z.string(),
    storeId: z.string(),
    vmId: z.string().optional().meta({ description: "Of a snapshot that was taken of a VM." }),
    groupId: z.string().optional().meta({ description: "Snapshots with the same are of the same moment." }),
    name: z.string().optional(),
    description: z.string().optional(),
    tags: z.record(z.string(), z.string()),
    state: z.enum(snapshotStates),
    consistency: z.enum(["none", "offline", "crash", "filesystem"]).optional().meta({
      description:
        "What the frozen bytes are worth: of no single moment, of a volume not in use, as after a power cut, flushed by the guest.",
    }),
    vmDefinition: z.object({ name: z.string(), target: z.string() }).optional().meta({
      description:
        "The definition of the VM is saved, so that a restore can make another VM of it: what the VM was called, and which of its disks the volume was.",
    }),
    bytes: z.object({ logical: bytes.optional(), physical: bytes.optional(), stored: bytes.optional() }).meta({
      description: "Size of the volume, room taken on primary storage, room that this snapshot added to the store.",
    }),
    progress: progress.optional().meta({ description: "While BackingUp." }),
    references: z
      .array(
        z.object({
          role: z.enum(["Primary", "Image"]),
          storeId: z.string().meta({ description: "The hypervisor (Primary) or the store (Image)." }),
          state: z.enum(storeReferenceStates),
          sizeBytes: bytes.optional(),
          physicalBytes: bytes.optional(),
          error: error.optional(),
        }),
      )
      .meta({ description: "Where the bytes lie." }),
    job: z
      .object({ id: z.string(), kind: z.enum(jobKinds).optional(), state: z.enum(jobStates).optional(), href: link })
      .meta({ description: "The job that works on the snapshot, or worked on it last." }),
    attempt: z.int().min(0),
    maxAttempts: z.int().min(1),
    readers: z
      .array(z.string())
      .meta({ description: "Jobs that read the backup; it is not deleted while there are any." }),
    error: error.optional(),
    primaryKeptUntil: time
      .optional()
      .meta({ description: "Until when the copy on primary storage of a failed snapshot is kept." }),
    createdAt: time,
    updatedAt: time,
    createdOnPrimaryAt: time.optional(),
    backedUpAt: time.optional(),
    lockedUntil: time
      .optional()
      .meta({ description: "Until when the store refuses to delete the backup. A DELETE before is a 409." }),
    lastCheck: z
      .object({
        at: time,
        checkedChunks: z.int().min(0),
        checkedBytes: bytes,
        result: z.enum(["intact", "damaged"]),
        lost: z
          .array(z.string())
          .optional()
          .meta({ description: "Of a damaged one: sentences that name objects and ranges of the volume." }),
      })
      .optional()
      .meta({ description: "The last look at a sample of the backup's chunks." }),
    hintMismatch: z.object({ at: time, jobId: z.string(), attempt: z.int(), message: z.string() }).optional().meta({
      description: "The hypervisor called ranges unchanged that had changed; the backup then read everything.",
    }),
  })
  .meta({ id: "Snapshot" });

export const volumeSchema = z
  .object({
    id: z.string(),
    hypervisorId: z.string(),
    name: z.string(),
    externalId: z.string().meta({ description: "The hypervisor's own id of the volume." }),
    status: z.enum(["available", "in-use", "backing-up", "restoring", "missing"]),
    sizeBytes: bytes,
    allocatedBytes: bytes.optional(),
    inUse: z.boolean(),
    backingUp: z.int().min(0).meta({ description: "Snapshots of this volume that are BackingUp." }),
    protection: z.enum(protections).meta({
      description:
        "Whether snapshots of it are taken. `ending`: what is left of them on primary storage is being taken away; `ended`: nothing is left there.",
    }),
    protectionError: error.optional().meta({ description: "Why protection has not ended yet." }),
    restoringJobId: z.string().optional(),
    unsupported: z.string().optional().meta({ description: "Why it cannot be backed up." }),
    unassigned: z.boolean().optional().meta({ description: "No rule gave it a tenant. Only administrators see it." }),
    discoveredAt: time,
  })
  .meta({ id: "Volume" });

export const vmSchema = z
  .object({
    id: z.string(),
    hypervisorId: z.string(),
    name: z.string(),
    externalId: z.string().meta({ description: "The hypervisor's own id of the VM." }),
    state: z.enum([...vmStates, "missing"]).meta({
      description:
        "As the last discovery or operation found it. `stopping`: asked to stop, it had not yet when it was looked at last; it may have by now.",
    }),
    guestAgent: z
      .enum(guestAgentStates)
      .meta({ description: "Whether the agent answers that holds the guest's file systems." }),
    disks: z
      .array(
        z.object({
          target: z.string().meta({ description: "As the VM's host names it." }),
          root: z.boolean().meta({ description: "Whether the VM boots from it." }),
          volumeId: z.string().optional().meta({ description: "Absent where the volume is not the caller's." }),
          name: z.string().optional(),
          sizeBytes: bytes.optional(),
        }),
      )
      .meta({ description: "In the hypervisor's order." }),
    backingUp: z.int().min(0).meta({ description: "Snapshots of its disks that are BackingUp." }),
    unassigned: z.boolean().optional().meta({ description: "No rule gave it a tenant. Only administrators see it." }),
    discoveredAt: time,
  })
  .meta({ id: "Vm" });

export const vmOperationsSchema = z
  .object({
    vmId: z.string(),
    operations: z.array(
      z.object({
        operation: z.enum(vmOperations),
        volumeId: z.string().optional().meta({ description: "Of detach-disk: which disk." }),
        allowed: z.boolean(),
        reason: z.string().optional().meta({ description: "Why not, and until when." }),
        jobs: z.array(z.string()).optional().meta({ description: "What stands in the way." }),
      }),
    ),
  })
  .meta({ id: "VmOperations" });

export const hypervisorSchema = z
  .object({
    id: z.string(),
    kind: z.enum(["file", "kvm"]),
    name: z.string(),
    directory: z.string().optional().meta({ description: "Of kind `file`." }),
    endpoint: z.string().optional().meta({ description: "Of kind `kvm`: `ssh://user@host:port`." }),
    hostKeys: z
      .array(z.string())
      .optional()
      .meta({ description: "Of kind `kvm`: fingerprints of the keys that the host may show." }),
    hostKeyTypes: z
      .array(z.string())
      .optional()
      .meta({ description: "Of kind `kvm`: the kinds of these keys, as `ssh-ed25519`, for which the host is asked." }),
    secretId: z
      .string()
      .optional()
      .meta({ description: "Of kind `kvm`: the name of the secret, never what it holds." }),
    uri: z.string().optional().meta({ description: "Of kind `kvm`: which libvirt of the host." }),
    tenantRules: z
      .array(z.object({ pattern: z.string(), tenant: z.string() }))
      .optional()
      .meta({ description: "Only administrators see them." }),
    lastCheck: z
      .object({
        at: time,
        versions: z.record(z.string(), z.string()).meta({ description: "By the name of the software." }),
        warnings: z.array(z.string()).meta({ description: "What will not work although all else does." }),
      })
      .optional()
      .meta({ description: "What it turned out to be when it was registered." }),
    createdAt: time,
    discoveredAt: time.optional(),
  })
  .meta({ id: "Hypervisor" });

export const storeSchema = z
  .object({
    id: z.string(),
    name: z.string(),
    default: z.boolean().meta({ description: "The stack's own bucket, which every tenant has." }),
    bucket: z.string().optional(),
    prefix: z.string().optional(),
    endpoint: z.string().optional(),
    region: z.string().optional(),
    pathStyle: z.boolean().optional(),
    secretId: z.string().optional().meta({ description: "The name of the secret, never what it holds." }),
    encryption: z.enum(storeEncryptions).meta({
      description: "`client`: backups are encrypted before they leave the worker.",
    }),
    limits: z
      .object({ bytesPerSecond: z.int().optional(), requestsPerSecond: z.int().optional() })
      .optional()
      .meta({ description: "How fast all workers together may use the store." }),
    objectLock: z
      .object({ mode: z.enum(objectLockModes), days: z.int() })
      .optional()
      .meta({ description: "Retention of backups that are published from now on." }),
    createdAt: time.optional(),
  })
  .meta({ id: "Store" });

/** A page of a list. */
function pageOf<Item extends z.ZodType>(item: Item, id: string) {
  return z
    .object({
      items: z.array(item),
      nextCursor: z.string().optional().meta({ description: "Absent on the last page." }),
    })
    .meta({ id });
}

export const snapshotPage = pageOf(snapshotSchema, "SnapshotPage");
export const jobPage = pageOf(jobSchema, "JobPage");
export const volumePage = pageOf(volumeSchema, "VolumePage");
export const vmPage = pageOf(vmSchema, "VmPage");
export const hypervisorPage = pageOf(hypervisorSchema, "HypervisorPage");
export const storePage = pageOf(storeSchema, "StorePage");

export const jobAndSnapshot = z.object({ job: jobSchema, snapshot: snapshotSchema }).meta({ id: "JobAndSnapshot" });
export const jobSnapshotAndVolume = z
  .object({ job: jobSchema, snapshot: snapshotSchema, volume: volumeSchema })
  .meta({ id: "JobSnapshotAndVolume" });
export const vmSnapshotSchema = z
  .object({
    groupId: z.string().meta({ description: "What the snapshots of this moment have in common." }),
    vmId: z.string(),
    snapshots: z.array(snapshotSchema),
  })
  .meta({ id: "VmSnapshot" });
export const jobAnswer = z.object({ job: jobSchema }).meta({ id: "JobAnswer" });

export const discoverySchema = z
  .object({
    found: z.int().min(0).meta({ description: "Volumes that are there now." }),
    added: z.int().min(0).meta({ description: "Those of them that were not known." }),
    missing: z.int().min(0).meta({ description: "Volumes that were known and are not there." }),
    unsupported: z.int().min(0).meta({ description: "Volumes that are there and cannot be backed up." }),
    vms: z
      .object({ found: z.int().min(0), added: z.int().min(0), missing: z.int().min(0) })
      .optional()
      .meta({ description: "The same of VMs, where the hypervisor has them." }),
  })
  .meta({ id: "Discovery" });

export const forgottenSchema = z
  .object({
    snapshots: z.array(z.string()).meta({ description: "Snapshots whose rows were forgotten." }),
    volumes: z.int().min(0).meta({ description: "Volumes whose rows were forgotten." }),
    bytesLeftBehind: z
      .object({ primary: bytes, stored: bytes })
      .meta({ description: "What lies on primary storage and in the store and is nobody's now." }),
    copiesLeftOf: z.array(z.string()).optional().meta({
      description:
        "Of a hypervisor: its own ids of the volumes of which copies are left there. Where copies are layers of a volume its VM goes on with them. Absent: none.",
    }),
  })
  .meta({ id: "Forgotten" });

export const importSchema = z
  .object({
    imported: z
      .array(z.object({ snapshotId: z.string(), volumeId: z.string() }))
      .meta({ description: "Snapshots that have rows now and had none." }),
    known: z.int().min(0).meta({ description: "Snapshots that had rows already: these are as they were." }),
    refused: z
      .array(z.object({ snapshotId: z.string(), domain: z.string(), reason: z.string() }))
      .meta({ description: "Backups that got no rows, and why. In the default store only the caller's own." }),
    nextCursor: z.string().optional().meta({ description: "There is more to look through. Absent at the end." }),
  })
  .meta({ id: "Import" });

export const locationSchema = z
  .object({
    snapshotId: z.string(),
    storeId: z.string(),
    bucket: z.string(),
    prefix: z.string(),
    endpoint: z.string().optional().meta({ description: "Absent: Amazon S3." }),
    region: z.string(),
    pathStyle: z.boolean().optional(),
    domain: z.string().meta({ description: "The part of the keys after `domains/`." }),
    encrypted: z
      .boolean()
      .meta({ description: "Whether it is encrypted for certain: what is found without encryption was replaced." }),
  })
  .meta({ id: "Location" });

export const healthSchema = z.object({ status: z.literal("ok"), version: z.string() }).meta({ id: "Health" });

export const documentSchema = z.looseObject({ openapi: z.string() }).meta({ id: "OpenApiDocument" });

export const problemSchema = z
  .looseObject({
    type: z.string().meta({ example: "/problems/invalid-request" }),
    title: z.string(),
    status: z.int(),
    detail: z.string(),
    instance: z.string(),
    requestId: z.string(),
    errors: z
      .array(
        z.object({
          pointer: z.string().optional(),
          parameter: z.string().optional(),
          header: z.string().optional(),
          detail: z.string(),
        }),
      )
      .optional()
      .meta({ description: "What is wrong with the request, one entry for each field, query parameter or header." }),
  })
  .meta({ id: "Problem", description: "RFC 9457." });

export type JobRepresentation = z.output<typeof jobSchema>;
export type SnapshotRepresentation = z.output<typeof snapshotSchema>;
export type VolumeRepresentation = z.output<typeof volumeSchema>;
export type VmRepresentation = z.output<typeof vmSchema>;
export type VmOperationsRepresentation = z.output<typeof vmOperationsSchema>;
export type VmSnapshotRepresentation = z.output<typeof vmSnapshotSchema>;
export type HypervisorRepresentation = z.output<typeof hypervisorSchema>;
export type StoreRepresentation = z.output<typeof storeSchema>;
export type Discovery = z.output<typeof discoverySchema>;
export type Forgotten = z.output<typeof forgottenSchema>;
export type ImportReport = z.output<typeof importSchema>;
export type SnapshotLocation = z.output<typeof locationSchema>;
