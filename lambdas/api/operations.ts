/** Every operation of the API as data: the router, the checks and the OpenAPI document are made from this table. */
import type * as z from "zod";
import type { IdKind } from "../domain/ids.ts";
import type { Role } from "./http.ts";
import * as requests from "./request-schemas.ts";
import * as responses from "./response-schemas.ts";

export interface Answer {
  readonly description: string;
  readonly schema: z.ZodType;
  /** Whether the answer has a `Location`, the path of the job. */
  readonly location?: boolean;
}

export interface Operation {
  readonly method: "GET" | "POST" | "PATCH" | "DELETE";
  readonly path: string;
  readonly tag: "snapshots" | "jobs" | "volumes" | "vms" | "hypervisors" | "stores" | "service";
  readonly summary: string;
  readonly description?: string;
  /** The least role that may call it. */
  readonly access: Role | "public";
  /** What `{id}` in the path is an id of. */
  readonly id?: IdKind;
  readonly query: z.ZodType;
  readonly body?: z.ZodType;
  readonly answers: Readonly<Partial<Record<200 | 201 | 202, Answer>>>;
  /** Problems beside those that every operation may answer with. */
  readonly problems: readonly (404 | 409 | 422)[];
  /** Takes an `Idempotency-Key`. */
  readonly idempotent?: boolean;
  /** Takes `Prefer: wait=N`. */
  readonly waits?: boolean;
}

const jobEnded = "The job has ended within the time to wait.";

export const operations = {
  createSnapshot: {
    method: "POST",
    path: "/volumes/{id}/snapshots",
    tag: "snapshots",
    summary: "Snapshot a volume and back it up",
    description:
      "Answers at once, whatever the volume's size. With `asyncBackup` the job has succeeded when the snapshot is CreatedOnPrimary and names the backup job; otherwise when it is BackedUp.",
    access: "operator",
    id: "volume",
    query: requests.noQuery,
    body: requests.createSnapshotBody,
    answers: {
      202: { description: "Accepted.", schema: responses.jobAndSnapshot, location: true },
      200: { description: jobEnded, schema: responses.jobAndSnapshot, location: true },
    },
    problems: [404, 409, 422],
    idempotent: true,
    waits: true,
  },
  listSnapshots: {
    method: "GET",
    path: "/snapshots",
    tag: "snapshots",
    summary: "List snapshots, newest first",
    access: "reader",
    query: requests.listSnapshotsQuery,
    answers: { 200: { description: "A page of snapshots.", schema: responses.snapshotPage } },
    problems: [],
  },
  getSnapshot: {
    method: "GET",
    path: "/snapshots/{id}",
    tag: "snapshots",
    summary: "Look at a snapshot",
    description: "A Destroyed snapshot can be looked at for 30 days.",
    access: "reader",
    id: "snapshot",
    query: requests.noQuery,
    answers: { 200: { description: "The snapshot.", schema: responses.snapshotSchema } },
    problems: [404],
  },
  getSnapshotLocation: {
    method: "GET",
    path: "/snapshots/{id}/location",
    tag: "snapshots",
    summary: "Where the backup of a snapshot lies",
    description:
      "For who has credentials of their own for the bucket: `snapferry snapshots download` reads it from there. Only while the snapshot is BackedUp.",
    access: "operator",
    id: "snapshot",
    query: requests.noQuery,
    answers: { 200: { description: "The place.", schema: responses.locationSchema } },
    problems: [404, 409],
  },
  deleteSnapshot: {
    method: "DELETE",
    path: "/snapshots/{id}",
    tag: "snapshots",
    summary: "Delete a snapshot everywhere",
    description:
      "A snapshot that is being deleted is answered with the job that does it; one that is Destroyed with 404. A backup that is still queued is cancelled along.",
    access: "operator",
    id: "snapshot",
    query: requests.noQuery,
    answers: {
      202: { description: "Accepted.", schema: responses.jobAndSnapshot, location: true },
      200: { description: jobEnded, schema: responses.jobAndSnapshot, location: true },
    },
    problems: [404, 409],
    waits: true,
  },
  restoreSnapshot: {
    method: "POST",
    path: "/snapshots/{id}/restore",
    tag: "snapshots",
    summary: "Restore a backup to a new volume, or in place",
    description:
      "A new volume overwrites nothing: one of that name is a 409. It may become a disk of a VM that is there, or of one that is made for it, when it is complete. Where that fails the job fails, says why, and the volume stays. `inPlace` gives the snapshot's own volume the bytes and the size that it had. That is a 409 while a VM that has it as a disk is not stopped (one that is `stopping` is looked at by the job, which fails if it still runs), and while snapshots of it have no backup; its copies on primary storage are merged away first. What the volume held is kept until the restore has succeeded. VMs that have the disk are not started until the volume is not `restoring` any more.",
    access: "operator",
    id: "snapshot",
    query: requests.noQuery,
    body: requests.restoreBody,
    answers: {
      202: { description: "Accepted.", schema: responses.jobSnapshotAndVolume, location: true },
      200: { description: jobEnded, schema: responses.jobSnapshotAndVolume, location: true },
    },
    problems: [404, 409, 422],
    idempotent: true,
    waits: true,
  },
  backupSnapshot: {
    method: "POST",
    path: "/snapshots/{id}/backup",
    tag: "snapshots",
    summary: "Back a snapshot up again",
    description:
      "From Error, or from CreatedOnPrimary when its last backup has ended, while the copy on primary storage is there.",
    access: "operator",
    id: "snapshot",
    query: requests.noQuery,
    body: requests.emptyBody,
    answers: {
      202: { description: "Accepted.", schema: responses.jobAndSnapshot, location: true },
      200: { description: jobEnded, schema: responses.jobAndSnapshot, location: true },
    },
    problems: [404, 409, 422],
    idempotent: true,
    waits: true,
  },
  listJobs: {
    method: "GET",
    path: "/jobs",
    tag: "jobs",
    summary: "List jobs, newest first",
    access: "reader",
    query: requests.listJobsQuery,
    answers: { 200: { description: "A page of jobs.", schema: responses.jobPage } },
    problems: [],
  },
  getJob: {
    method: "GET",
    path: "/jobs/{id}",
    tag: "jobs",
    summary: "Look at a job, or wait for it",
    access: "reader",
    id: "job",
    query: requests.noQuery,
    answers: { 200: { description: "The job.", schema: responses.jobSchema } },
    problems: [404],
    waits: true,
  },
  cancelJob: {
    method: "POST",
    path: "/jobs/{id}/cancel",
    tag: "jobs",
    summary: "Cancel a job",
    description:
      "A queued job leaves its queue, a running one is stopped; what it made is cleaned up as after a failure. A job that is Cancelled already is answered with 200.",
    access: "operator",
    id: "job",
    query: requests.noQuery,
    body: requests.emptyBody,
    answers: {
      200: { description: "The job is Cancelled.", schema: responses.jobAnswer, location: true },
      202: { description: "The job is being cancelled.", schema: responses.jobAnswer, location: true },
    },
    problems: [404, 409],
    waits: true,
  },
  listVolumes: {
    method: "GET",
    path: "/volumes",
    tag: "volumes",
    summary: "List volumes",
    access: "reader",
    query: requests.listVolumesQuery,
    answers: { 200: { description: "A page of volumes.", schema: responses.volumePage } },
    problems: [],
  },
  getVolume: {
    method: "GET",
    path: "/volumes/{id}",
    tag: "volumes",
    summary: "Look at a volume",
    access: "reader",
    id: "volume",
    query: requests.noQuery,
    answers: { 200: { description: "The volume.", schema: responses.volumeSchema } },
    problems: [404],
  },
  unprotectVolume: {
    method: "POST",
    path: "/volumes/{id}/unprotect",
    tag: "volumes",
    summary: "Take a volume out of protection",
    description:
      "No more snapshots of it are taken, and what its snapshots have on primary storage goes, so that its VM runs on the volume's own file again. Their backups stay and can be restored. `protection` says how far that is: `ending` until nothing is left. Snapshots that have no backup are a 409 that names them. A volume that is unprotected already is answered as it is.",
    access: "operator",
    id: "volume",
    query: requests.noQuery,
    body: requests.emptyBody,
    answers: { 202: { description: "Accepted: the volume as it is now.", schema: responses.volumeSchema } },
    problems: [404, 409],
  },
  protectVolume: {
    method: "POST",
    path: "/volumes/{id}/protect",
    tag: "volumes",
    summary: "Take a volume into protection again",
    description:
      "Snapshots of it can be taken again; backups go on as incrementals. 409 while what it has on primary storage is being merged. A volume that is protected is answered as it is.",
    access: "operator",
    id: "volume",
    query: requests.noQuery,
    body: requests.emptyBody,
    answers: { 200: { description: "The volume as it is now.", schema: responses.volumeSchema } },
    problems: [404, 409],
  },
  listVms: {
    method: "GET",
    path: "/vms",
    tag: "vms",
    summary: "List virtual machines",
    access: "reader",
    query: requests.listVmsQuery,
    answers: { 200: { description: "A page of VMs.", schema: responses.vmPage } },
    problems: [],
  },
  getVm: {
    method: "GET",
    path: "/vms/{id}",
    tag: "vms",
    summary: "Look at a virtual machine",
    access: "reader",
    id: "vm",
    query: requests.noQuery,
    answers: { 200: { description: "The VM.", schema: responses.vmSchema } },
    problems: [404],
  },
  createVmSnapshot: {
    method: "POST",
    path: "/vms/{id}/snapshots",
    tag: "vms",
    summary: "Snapshot volumes of a virtual machine at one moment and back them up",
    description:
      "All its volumes, or those that are named: one snapshot of each, taken together, all or none. Each is then backed up by itself, and has jobs of its own. A disk that is another tenant's, or that cannot be backed up, is a 409 unless the others are named.",
    access: "operator",
    id: "vm",
    query: requests.noQuery,
    body: requests.createVmSnapshotBody,
    answers: { 202: { description: "Accepted.", schema: responses.vmSnapshotSchema } },
    problems: [404, 409, 422],
    idempotent: true,
  },
  listVmSnapshots: {
    method: "GET",
    path: "/vms/{id}/snapshots",
    tag: "vms",
    summary: "List the snapshots that were taken of a virtual machine, newest first",
    access: "reader",
    id: "vm",
    query: requests.listVmSnapshotsQuery,
    answers: { 200: { description: "A page of snapshots.", schema: responses.snapshotPage } },
    problems: [404],
  },
  listVmOperations: {
    method: "GET",
    path: "/vms/{id}/operations",
    tag: "vms",
    summary: "What may be done to a virtual machine now",
    description:
      "By the VM's state at the last discovery or operation. Most is allowed while snapshots of its disks are BackingUp; what is not names the jobs that it has to wait for.",
    access: "reader",
    id: "vm",
    query: requests.noQuery,
    answers: { 200: { description: "The operations.", schema: responses.vmOperationsSchema } },
    problems: [404],
  },
  operateVm: {
    method: "POST",
    path: "/vms/{id}/operations",
    tag: "vms",
    summary: "Do something to a virtual machine",
    description:
      "Done on the hypervisor before the answer comes; a guest that has been asked to stop for 12 s and has not is answered as `stopping`, and may stop after that or not: ask for the same again to wait on. A reboot goes on in the guest. What is not allowed now is a 409 with the reason. One operation of a VM at a time. All else that takes too long for an answer is a 503 that says so: ask for the same again. What names files on the hypervisor is for administrators of the tenant that registered it.",
    access: "operator",
    id: "vm",
    query: requests.noQuery,
    body: requests.operateVmBody,
    answers: { 200: { description: "The VM as it is now.", schema: responses.vmSchema } },
    problems: [404, 409, 422],
    idempotent: true,
  },
  registerHypervisor: {
    method: "POST",
    path: "/hypervisors",
    tag: "hypervisors",
    summary: "Register a hypervisor",
    description: "It is checked before it is registered. Its volumes are known after a discovery.",
    access: "admin",
    query: requests.noQuery,
    body: requests.registerHypervisorBody,
    answers: { 201: { description: "Registered.", schema: responses.hypervisorSchema, location: true } },
    problems: [409, 422],
    idempotent: true,
  },
  listHypervisors: {
    method: "GET",
    path: "/hypervisors",
    tag: "hypervisors",
    summary: "List hypervisors, newest first",
    access: "reader",
    query: requests.listHypervisorsQuery,
    answers: { 200: { description: "A page of hypervisors.", schema: responses.hypervisorPage } },
    problems: [],
  },
  getHypervisor: {
    method: "GET",
    path: "/hypervisors/{id}",
    tag: "hypervisors",
    summary: "Look at a hypervisor",
    access: "reader",
    id: "hypervisor",
    query: requests.noQuery,
    answers: { 200: { description: "The hypervisor.", schema: responses.hypervisorSchema } },
    problems: [404],
  },
  deleteHypervisor: {
    method: "DELETE",
    path: "/hypervisors/{id}",
    tag: "hypervisors",
    summary: "Forget a hypervisor",
    description:
      "409 with a list while snapshots of its volumes exist. With `force` their copies on primary storage are forgotten, and so are snapshots that have no backup; those with a backup stay. Never while jobs work on it. Nothing on the hypervisor is touched: where copies are layers of a volume (kind `kvm`), its VM goes on with them. `copiesLeftOf` names those volumes; to leave nothing, unprotect them before.",
    access: "admin",
    id: "hypervisor",
    query: requests.forceQuery,
    answers: { 200: { description: "What was forgotten.", schema: responses.forgottenSchema } },
    problems: [404, 409],
  },
  discoverVolumes: {
    method: "POST",
    path: "/hypervisors/{id}/discover",
    tag: "hypervisors",
    summary: "Look for volumes and virtual machines on a hypervisor",
    access: "admin",
    id: "hypervisor",
    query: requests.noQuery,
    body: requests.emptyBody,
    answers: { 200: { description: "What was found.", schema: responses.discoverySchema } },
    problems: [404, 409],
  },
  registerStore: {
    method: "POST",
    path: "/stores",
    tag: "stores",
    summary: "Register a store for backups",
    description:
      "Endpoint, secret and bucket are checked, and what the repository format relies on is tried out, before it is registered.",
    access: "admin",
    query: requests.noQuery,
    body: requests.registerStoreBody,
    answers: { 201: { description: "Registered.", schema: responses.storeSchema, location: true } },
    problems: [422],
    idempotent: true,
  },
  listStores: {
    method: "GET",
    path: "/stores",
    tag: "stores",
    summary: "List stores, the default one first",
    access: "reader",
    query: requests.listStoresQuery,
    answers: { 200: { description: "A page of stores.", schema: responses.storePage } },
    problems: [],
  },
  getStore: {
    method: "GET",
    path: "/stores/{id}",
    tag: "stores",
    summary: "Look at a store",
    access: "reader",
    id: "store",
    query: requests.noQuery,
    answers: { 200: { description: "The store, without its secret.", schema: responses.storeSchema } },
    problems: [404],
  },
  changeStore: {
    method: "PATCH",
    path: "/stores/{id}",
    tag: "stores",
    summary: "Change limits and retention of a store",
    description:
      "What is not named stays as it is (RFC 7396). Options of the default store are the caller's tenant's own: those of other tenants stay as they are.",
    access: "admin",
    id: "store",
    query: requests.noQuery,
    body: requests.changeStoreBody,
    answers: { 200: { description: "The store as it is now.", schema: responses.storeSchema } },
    problems: [404],
  },
  importBackups: {
    method: "POST",
    path: "/stores/{id}/import",
    tag: "stores",
    summary: "Make rows for the backups that a store holds",
    description:
      "After tables were lost, or for the bucket of an earlier deployment. Backups of the caller's tenant that have no rows get them: the snapshot as BackedUp, and its volume as missing until it is discovered. What has rows is left alone, but for `lockedUntil` where the store's lock ends later. Answers a page at a time: go on with `nextCursor` until there is none.",
    access: "admin",
    id: "store",
    query: requests.importQuery,
    body: requests.emptyBody,
    answers: { 200: { description: "What became of the backups of this page.", schema: responses.importSchema } },
    problems: [404, 409],
  },
  deleteStore: {
    method: "DELETE",
    path: "/stores/{id}",
    tag: "stores",
    summary: "Forget a store",
    description:
      "409 with a list while snapshots use it. With `force` those snapshots are forgotten; their bytes stay where they are. Never while jobs work on it, and never the default store.",
    access: "admin",
    id: "store",
    query: requests.forceQuery,
    answers: { 200: { description: "What was forgotten.", schema: responses.forgottenSchema } },
    problems: [404, 409],
  },
  getOpenapi: {
    method: "GET",
    path: "/openapi.json",
    tag: "service",
    summary: "This document",
    access: "public",
    query: requests.noQuery,
    answers: { 200: { description: "OpenAPI 3.1.", schema: responses.documentSchema } },
    problems: [],
  },
  getHealth: {
    method: "GET",
    path: "/health",
    tag: "service",
    summary: "Whether the service works",
    access: "public",
    query: requests.noQuery,
    answers: { 200: { description: "It does.", schema: responses.healthSchema } },
    problems: [],
  },
} as const satisfies Record<string, Operation>;

export type OperationName = keyof typeof operations;
export type BodyOf<O extends Operation> = O extends { readonly body: infer Body extends z.ZodType }
  ? z.output<Body>
  : undefined;
export type QueryOf<O extends Operation> = z.output<O["query"]>;
