/** What requests may hold. Validation, types and the OpenAPI document all come from here. */
import * as z from "zod";
import { parsePosition } from "../domain/backup-import.ts";
import { type IdKind, idPattern } from "../domain/ids.ts";
import { defaultStoreId, leastBytesPerSecond, objectLockModes, storeEncryptions } from "../domain/inventory.ts";
import { backupVerifications, jobKinds, jobStates, quiesceModes } from "../domain/job.ts";
import { fieldsOf, type VmOperationField, vmOperations } from "../domain/operations.ts";
import { snapshotStates } from "../domain/snapshot.ts";
import { parseSshEndpoint } from "../domain/ssh-endpoint.ts";
import { knownKeysOf, publicKeyOf } from "../protocols/ssh/known-hosts.ts";
import { decodeCursor } from "./cursor.ts";
import { quoted } from "./problem.ts";

const controlCharacters = /\p{Cc}/u;
const controlCharactersButLines = /[^\P{Cc}\t\n\r]/u;

interface TextBounds {
  readonly min?: number;
  readonly max: number;
  readonly lines?: boolean;
}

/** Text of so many characters (code points, as JSON Schema counts them), without control characters and half surrogate pairs. */
function text({ min = 1, max, lines = false }: TextBounds) {
  const forbidden = lines ? controlCharactersButLines : controlCharacters;
  return z
    .string()
    .check((context) => {
      const problem = wrongText(context.value, min, max, forbidden);
      if (problem) context.issues.push({ code: "custom", message: problem, input: context.value });
    })
    .meta({ ...(min > 0 ? { minLength: min } : {}), maxLength: max });
}

function wrongText(value: string, min: number, max: number, forbidden: RegExp): string | undefined {
  const length = value.length > 2 * max ? value.length : [...value].length;
  if (length < min) return "must not be empty";
  if (length > max) return `must have at most ${max} characters, not ${length}`;
  if (!value.isWellFormed()) return "holds half of a surrogate pair, which is no character";
  if (forbidden.test(value)) return "must not hold control characters";
  return undefined;
}

/** Text of a given form. `form` ends the sentence "must be …". */
function matching(pattern: RegExp, form: string, max: number) {
  return z
    .string()
    .refine((value) => value.length <= max && pattern.test(value), {
      error: ({ input }) => `must be ${form}, not ${typeof input === "string" ? quoted(input) : "this"}`,
    })
    .meta({ pattern: pattern.source, maxLength: max });
}

const storeId = matching(new RegExp(`^${defaultStoreId}$|${idPattern("store").source}`), "the id of a store", 40);
const hypervisorId = matching(idPattern("hypervisor"), "the id of a hypervisor", 40);
const snapshotId = matching(idPattern("snapshot"), "the id of a snapshot", 40);
const volumeId = matching(idPattern("volume"), "the id of a volume", 40);
const vmId = matching(idPattern("vm"), "the id of a VM", 40);
const tenantName = matching(
  /^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$/,
  "the name of a tenant (letters, digits, _ and -, at most 63)",
  63,
);

const mostTags = 50;
const tags = z
  .record(text({ max: 128 }), text({ min: 0, max: 256, lines: true }))
  .refine((entries) => Object.keys(entries).length <= mostTags, { error: `must have at most ${mostTags} entries` })
  .meta({ maxProperties: mostTags, description: "Keys of 1 to 128 characters, values of at most 256." });

const ofEverySnapshot = {
  name: text({ max: 255 }).optional(),
  description: text({ min: 0, max: 1024, lines: true }).optional(),
  asyncBackup: z
    .boolean()
    .default(false)
    .meta({ description: "true: the job has succeeded at CreatedOnPrimary; false: at BackedUp." }),
  storeId: storeId.default(defaultStoreId).meta({ description: "Where the backup goes." }),
  tags: tags.default({}),
  verify: z.enum(backupVerifications).default("checksum").meta({
    description:
      "How the backup is checked before it is published: by the checksums that the store keeps, or by reading every byte back.",
  }),
  full: z
    .boolean()
    .default(false)
    .meta({ description: "true: the whole volume is read, and nothing of earlier backups is used again." }),
  quiesce: z
    .literal(quiesceModes)
    .optional()
    .meta({
      type: ["boolean", "string"],
      enum: [...quiesceModes],
      description:
        "Whether the guest's file systems are flushed and held for the moment of the snapshot. false, or absent: they are not; true: they are, or nothing is created; `preferred`: where they can be.",
    }),
};

export const createSnapshotBody = z.strictObject(ofEverySnapshot).meta({ id: "CreateSnapshot" });

/** Volumes of one moment: their rows change in one transaction, which has 100 items at most, 4 for each. */
export const mostVolumesTogether = 25;

export const createVmSnapshotBody = z
  .strictObject({
    volumeIds: z
      .array(volumeId)
      .min(1)
      .max(mostVolumesTogether)
      .refine((ids) => new Set(ids).size === ids.length, { error: "must not name a volume twice" })
      .optional()
      .meta({ description: "Which of the VM's volumes. Absent: all." }),
    ...ofEverySnapshot,
  })
  .meta({ id: "CreateVmSnapshot" });

const hostPath = matching(/^\/[^\p{Cc}]*$/u, "an absolute path on the hypervisor", 4096);

export const operateVmBody = z
  .strictObject({
    operation: z.enum(vmOperations),
    volumeId: volumeId.optional().meta({ description: "Of attach-disk and detach-disk." }),
    path: hostPath.optional().meta({ description: "Of attach-iso: the file on the hypervisor." }),
    imagePath: hostPath
      .optional()
      .meta({ description: "Of reinstall: the file on the hypervisor that becomes the root disk." }),
    cpus: z.int().min(1).max(4096).optional().meta({ description: "Of change-cpu." }),
    memoryBytes: z
      .int()
      .min(2 ** 20)
      .max(2 ** 50)
      .optional()
      .meta({ description: "Of change-memory." }),
  } satisfies Record<"operation" | VmOperationField, z.ZodType>)
  .check((context) => {
    const { operation, ...fields } = context.value;
    const needed: readonly string[] = fieldsOf(operation);
    const issue = (field: string, message: string) =>
      context.issues.push({ code: "custom", message, path: [field], input: context.value });
    for (const field of needed) if (!(field in fields)) issue(field, `is missing: ${operation} needs it`);
    for (const field of Object.keys(fields)) if (!needed.includes(field)) issue(field, `is no field of ${operation}`);
  })
  .meta({ id: "OperateVm" });

const mostNameBytes = 255;

/** A file system's rules for names, which the strictest of the hypervisors has. */
const newVolumeName = z
  .string()
  .check((context) => {
    const problem = wrongVolumeName(context.value);
    if (problem) context.issues.push({ code: "custom", message: problem, input: context.value });
  })
  .meta({
    minLength: 1,
    maxLength: mostNameBytes,
    description:
      "1 to 255 bytes of UTF-8; no `/`, no control characters, no `.` first. On hypervisors of kind kvm not ending in `.SNAPSHOT.qcow2`, with the id of a snapshot.",
  });

function wrongVolumeName(name: string): string | undefined {
  return wrongFileName(name, mostNameBytes) ?? (name.startsWith(".") ? "must not begin with a dot" : undefined);
}

function wrongFileName(name: string, mostBytes: number): string | undefined {
  const problem = wrongText(name, 1, mostBytes, controlCharacters);
  if (problem !== undefined) return problem;
  if (Buffer.byteLength(name) > mostBytes) return `must have at most ${mostBytes} bytes in UTF-8`;
  return name.includes("/") ? "must not hold /" : undefined;
}

/** Names that libvirt keeps files under: `NAME.xml.new`, `NAME_VARS.fd` and others have to be names of files, too. */
const mostHostNameBytes = 240;

function hostName(what: string) {
  return z
    .string()
    .check((context) => {
      const problem = wrongFileName(context.value, mostHostNameBytes);
      if (problem) context.issues.push({ code: "custom", message: problem, input: context.value });
    })
    .meta({
      minLength: 1,
      maxLength: mostHostNameBytes,
      description: `${what} 1 to ${mostHostNameBytes} bytes of UTF-8; no \`/\`, no control characters.`,
    });
}

const restoreTarget = z
  .strictObject({
    hypervisorId: hypervisorId.optional().meta({ description: "Where the new volume is made." }),
    name: newVolumeName.optional(),
    pool: hostName("Of kind kvm: the storage pool that the volume is made in. Absent: `default`.").optional(),
    attachToVmId: vmId
      .optional()
      .meta({ description: "A VM of that hypervisor, running or stopped, that gets the volume as a disk." }),
    newVm: z
      .strictObject({ name: hostName("What the VM is called.") })
      .optional()
      .meta({
        description:
          "A VM is made from the definition that was saved with the snapshot, with the volume as the disk that it was, and no other disks. It is not started. Not together with attachToVmId.",
      }),
    inPlace: z.literal(true).optional().meta({
      description:
        "Instead of all these: the volume that the snapshot was taken of gets its bytes, and its size of then. Its VM has to be stopped.",
    }),
  })
  .check((context) => {
    const { inPlace, ...ofNewVolume } = context.value;
    const refuse = (field: keyof typeof ofNewVolume, message: string) =>
      context.issues.push({ code: "custom", message, path: [field], input: ofNewVolume[field] });
    for (const field of ["hypervisorId", "name", "pool", "attachToVmId", "newVm"] as const) {
      const isGiven = ofNewVolume[field] !== undefined;
      if (inPlace && isGiven) refuse(field, "must not be given with inPlace: the volume is the snapshot's own");
      const isNeeded = field === "hypervisorId" || field === "name";
      if (!inPlace && !isGiven && isNeeded) refuse(field, "is missing");
    }
    if (!inPlace && ofNewVolume.attachToVmId !== undefined && ofNewVolume.newVm !== undefined)
      refuse("newVm", "must not be given together with attachToVmId: the volume becomes a disk of one VM");
  });

export const restoreBody = z
  .strictObject({
    target: restoreTarget,
    salvage: z.boolean().optional().meta({
      description:
        "Restores all that is left of a damaged backup to a new volume: what is lost is zeros in it, and told in `lost` of the job. Absent: damage fails the job.",
    }),
  })
  .check(({ value, issues }) => {
    const message = "must not be true with inPlace: what is lost would be lost from the volume, too";
    if (value.salvage && value.target.inPlace)
      issues.push({ code: "custom", message, path: ["salvage"], input: value.salvage });
  })
  .meta({ id: "RestoreSnapshot" });

export const emptyBody = z.strictObject({}).meta({ id: "Empty" });

const secretId = matching(
  /^snapferry\/[A-Za-z0-9_-]+\/[A-Za-z0-9/_+=.@-]{1,400}$/,
  "the name of a secret that begins with snapferry/TENANT/",
  512,
);

const ofEveryHypervisor = {
  id: hypervisorId.optional().meta({
    description:
      "The id that it had before its row was lost: its volumes get their former ids, so that backups go on as incrementals.",
  }),
  name: text({ max: 255 })
    .optional()
    .meta({ description: "If absent, the last part of the directory, or the host's name." }),
  tenantRules: z
    .array(
      z.strictObject({
        pattern: text({ max: 255 }).meta({ description: "`*` stands for any characters of a volume's name." }),
        tenant: tenantName,
      }),
    )
    .max(100)
    .default([])
    .meta({
      description: "The first rule that matches gives a volume its tenant. Without rules all are the caller's.",
    }),
};

const registerFileHypervisor = z
  .strictObject({
    kind: z.literal("file"),
    ...ofEveryHypervisor,
    directory: text({ max: 4096 }).meta({ description: "Absolute path of the directory whose files are the volumes." }),
  })
  .meta({ id: "RegisterFileHypervisor", description: "A directory whose files are the volumes." });

/** A known_hosts of some hundred hosts. */
const mostKnownHosts = 65_536;

const registerKvmHypervisor = z
  .strictObject({
    kind: z.literal("kvm"),
    ...ofEveryHypervisor,
    endpoint: text({ max: 320 })
      .refine((value) => parseSshEndpoint(value) !== undefined, {
        error: "must be ssh://user@host or ssh://user@host:port, nothing more",
      })
      .meta({ description: "Where the host is reached: `ssh://user@host[:port]`.", format: "uri" }),
    hostKey: text({ max: 4096 })
      .refine((value) => publicKeyOf(value) !== undefined, {
        error:
          "must be the host's public key, as in its file ssh_host_ed25519_key.pub: ssh-ed25519, ecdsa-sha2-nistp256, -384 or -521, or ssh-rsa, and the key",
      })
      .optional()
      .meta({ description: "The host's public key, one line as OpenSSH writes it. This or `knownHosts`." }),
    knownHosts: text({ max: mostKnownHosts, lines: true })
      .optional()
      .meta({ description: "Lines of a `known_hosts`; those of the host count. This or `hostKey`." }),
    secretId: secretId.meta({
      description:
        "A secret in Secrets Manager, by name, `snapferry/TENANT/…`: the user's private key in OpenSSH's format or PEM, without a passphrase.",
    }),
    uri: matching(
      /^(?:qemu:\/\/\/system|qemu\+unix:\/\/\/(?:system|session)\?socket=\/[\w./-]{1,200})$/,
      "qemu:///system, or qemu+unix:///system?socket=/path where libvirt's socket is not in its usual place",
      256,
    )
      .default("qemu:///system")
      .meta({ description: "Which libvirt of the host." }),
  })
  .check((context) => {
    const { endpoint, hostKey, knownHosts } = context.value;
    const issue = (field: "hostKey" | "knownHosts", message: string) =>
      context.issues.push({ code: "custom", message, path: [field], input: context.value[field] });
    if (hostKey === undefined && knownHosts === undefined)
      issue("hostKey", "is missing: the host must be known by its key, here or in knownHosts");
    else if (hostKey !== undefined && knownHosts !== undefined)
      issue("knownHosts", "must not be given together with hostKey: one of them says what the host's key is");
    const host = parseSshEndpoint(endpoint);
    if (knownHosts !== undefined && host && knownKeysOf(knownHosts, host).length === 0)
      issue("knownHosts", `has no key of ${host.host}, port ${host.port}, of a kind that is accepted`);
  })
  .meta({ id: "RegisterKvmHypervisor", description: "A host with libvirt and QEMU, reached over SSH." });

export const registerHypervisorBody = z
  .discriminatedUnion("kind", [registerFileHypervisor, registerKvmHypervisor])
  .meta({ id: "RegisterHypervisor" });

const bucketName = matching(
  /^(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9](?:[a-z0-9-]|\.(?!\.)){1,61}[a-z0-9]$/,
  "the name of a bucket (3 to 63 of a-z, 0-9, - and .)",
  63,
);
const keyPrefix = matching(
  /^$|^(?!\/)(?!.*\/\/)(?!.*(?:^|\/)\.{1,2}(?:\/|$))[\w.!*'()/-]*$/,
  "a prefix of keys without a leading /",
  512,
);

const bytesPerSecond = z.int().min(leastBytesPerSecond);
const requestsPerSecond = z.int().min(1);
const limitsDescription =
  "How fast all workers together may use the store. Absent: as fast as they can. Running backups and restores feel a change within 5 seconds.";
const objectLock = z.strictObject({
  mode: z.enum(objectLockModes),
  days: z.int().min(1).max(36_500),
});
const objectLockDescription =
  "Retention of what a backup consists of, from the moment that it is published. The bucket must have Object Lock.";

export const registerStoreBody = z
  .strictObject({
    name: text({ max: 255 }),
    bucket: bucketName,
    prefix: keyPrefix.default("").meta({ description: "What the keys of all objects begin with." }),
    endpoint: z
      .string()
      .max(2048)
      .refine(isEndpoint, { error: "must be the URL of a service: https://host[:port], nothing more" })
      .optional()
      .meta({ format: "uri", description: "Absent: Amazon S3 in the region." }),
    region: matching(/^[a-z0-9][a-z0-9-]{0,62}$/, "the name of a region", 63).default("us-east-1"),
    pathStyle: z
      .boolean()
      .optional()
      .meta({ description: "Whether the bucket stands in the path; true if absent and an endpoint is given." }),
    secretId: secretId.meta({
      description:
        'A secret `{"accessKeyId":"…","secretAccessKey":"…"}` in Secrets Manager, by name: `snapferry/TENANT/…`.',
    }),
    limits: z
      .strictObject({ bytesPerSecond: bytesPerSecond.optional(), requestsPerSecond: requestsPerSecond.optional() })
      .optional()
      .meta({ description: limitsDescription }),
    encryption: z.enum(storeEncryptions).default("none").meta({
      description: "`client`: backups are encrypted before they leave the worker. It never changes.",
    }),
    objectLock: objectLock.optional().meta({ description: objectLockDescription }),
  })
  .meta({ id: "RegisterStore" });

export const changeStoreBody = z
  .strictObject({
    limits: z
      .strictObject({
        bytesPerSecond: bytesPerSecond.nullable().optional(),
        requestsPerSecond: requestsPerSecond.nullable().optional(),
      })
      .nullable()
      .optional()
      .meta({ description: `${limitsDescription} null removes one, or all.` }),
    objectLock: objectLock
      .nullable()
      .optional()
      .meta({
        description: `${objectLockDescription} A change counts for backups that are published later; null locks none of them.`,
      }),
  })
  .meta({ id: "ChangeStore" });

function isEndpoint(value: string): boolean {
  if (!URL.canParse(value)) return false;
  const url = new URL(value);
  const bare =
    url.pathname === "/" && url.search === "" && url.hash === "" && url.username === "" && url.password === "";
  return bare && (url.protocol === "https:" || url.protocol === "http:");
}

const largestPage = 100;

const limit = z
  .string()
  .refine((value) => /^\d{1,3}$/.test(value) && Number(value) >= 1 && Number(value) <= largestPage, {
    error: ({ input }) => `must be a whole number from 1 to ${largestPage}, not ${quoted(String(input))}`,
  })
  .transform(Number)
  .default(25)
  .meta({ type: "integer", minimum: 1, maximum: largestPage, default: 25, description: "How many at most." });

/** A cursor holds the id that a page ended with, so one of another kind of list shows. */
function page(kind: IdKind) {
  const cursor = z
    .string()
    .transform((value, context) => {
      const after = decodeCursor(value);
      if (after !== undefined && (idPattern(kind).test(after) || (kind === "store" && after === defaultStoreId)))
        return after;
      context.addIssue({ code: "custom", message: "is no cursor of this list", input: value });
      return z.NEVER;
    })
    .optional()
    .meta({ type: "string", description: "`nextCursor` of the page before." });
  return { limit, cursor };
}

const flag = z
  .enum(["true", "false"])
  .default("false")
  .transform((value) => value === "true")
  .meta({ type: "boolean", default: false });

export const listHypervisorsQuery = z.strictObject(page("hypervisor"));
export const listStoresQuery = z.strictObject(page("store"));
export const noQuery = z.strictObject({});
export const forceQuery = z.strictObject({
  force: flag.meta({ description: "Forget the rows that stand in the way. What they name stays where it is." }),
});
export const importQuery = z.strictObject({
  limit,
  cursor: z
    .string()
    .transform((value, context) => {
      const position = parsePosition(decodeCursor(value) ?? "");
      if (position) return position;
      context.addIssue({ code: "custom", message: "is no cursor of an import", input: value });
      return z.NEVER;
    })
    .optional()
    .meta({ type: "string", description: "`nextCursor` of the call before." }),
});
export const listSnapshotsQuery = z.strictObject({
  volumeId: volumeId.optional(),
  state: z.enum(snapshotStates).optional().meta({ description: "Destroyed ones are listed only on request." }),
  ...page("snapshot"),
});
export const listJobsQuery = z.strictObject({
  state: z.enum(jobStates).optional(),
  kind: z.enum(jobKinds).optional(),
  snapshotId: snapshotId.optional(),
  ...page("job"),
});
export const listVolumesQuery = z.strictObject({ hypervisorId: hypervisorId.optional(), ...page("volume") });
export const listVmsQuery = z.strictObject({ hypervisorId: hypervisorId.optional(), ...page("vm") });
export const listVmSnapshotsQuery = z.strictObject({
  state: z.enum(snapshotStates).optional().meta({ description: "Destroyed ones are listed only on request." }),
  ...page("snapshot"),
});

export type CreateSnapshotInput = z.input<typeof createSnapshotBody>;
export type CreateVmSnapshotInput = z.input<typeof createVmSnapshotBody>;
export type OperateVmInput = z.input<typeof operateVmBody>;
export type RestoreInput = z.input<typeof restoreBody>;
export type RegisterHypervisorInput = z.input<typeof registerHypervisorBody>;
export type RegisterStoreInput = z.input<typeof registerStoreBody>;
export type ChangeStoreInput = z.input<typeof changeStoreBody>;
