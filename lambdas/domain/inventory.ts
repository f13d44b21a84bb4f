/** What administrators register and discovery finds: hypervisors, volumes, stores. Pure. */
import { createHash } from "node:crypto";
import type { ErrorSummary } from "./errors.ts";
import { derivedId } from "./ids.ts";

export interface Volume {
  readonly tenant: string;
  readonly id: string;
  readonly hypervisorId: string;
  readonly hypervisorTenant: string;
  /** The hypervisor's own id of the volume. */
  readonly externalId: string;
  readonly name: string;
  readonly sizeBytes: number;
  readonly allocatedBytes?: number;
  readonly inUse: boolean;
  /** Snapshots of this volume that are BackingUp, changed in the same transactions as theirs. */
  readonly backingUp: number;
  /** The job that writes this volume's bytes; nobody else may use it until that has ended. */
  readonly restoringJobId?: string;
  /** The operation on a VM during which no backup of this volume may begin, and until when that counts (ISO 8601) if nobody ends it. */
  readonly heldFor?: string;
  readonly heldUntil?: string;
  /** Absent: it is protected (protection.ts). */
  readonly protection?: "ending" | "ended";
  /** Why protection has not ended yet, where that waits for somebody to mend something. */
  readonly protectionError?: ErrorSummary;
  /** Why it cannot be backed up. */
  readonly unsupported?: string;
  /** No rule gave it a tenant: only administrators of the hypervisor's tenant see it. */
  readonly unassigned: boolean;
  /** The last discovery did not find it any more. */
  readonly missing: boolean;
  readonly discoveredAt: string;
}

/** `available | in-use` as the hypervisor says, and what Snapferry does to it, in one word for clients that want one. */
export type VolumeStatus = "available" | "in-use" | "backing-up" | "restoring" | "missing";

export function volumeStatus(volume: Volume): VolumeStatus {
  if (volume.restoringJobId !== undefined) return "restoring";
  if (volume.missing) return "missing";
  if (volume.backingUp > 0) return "backing-up";
  return volume.inUse ? "in-use" : "available";
}

/** `*` in `pattern` stands for any characters of a volume's name; the first matching rule gives the tenant. */
export interface TenantRule {
  readonly pattern: string;
  readonly tenant: string;
}

export interface FileHypervisorSettings {
  readonly kind: "file";
  /** Absolute path of the directory whose plain files are the volumes. */
  readonly directory: string;
}

export interface KvmHypervisorSettings {
  readonly kind: "kvm";
  /** `ssh://user@host:port`. */
  readonly endpoint: string;
  /** Fingerprints of the keys that the host may show, as `SHA256:…`. */
  readonly hostKeys: readonly string[];
  /** The kinds of these keys, as `ssh-ed25519`: a host that has several keys is asked for one of them. Missing in rows of before this was kept. */
  readonly hostKeyTypes?: readonly string[];
  /** The user's private key in Secrets Manager, by name, below {@link secretPrefix}. */
  readonly secretId: string;
  /** Which libvirt of the host: `qemu:///system`, or one with its socket. */
  readonly uri: string;
}

export type HypervisorSettings = FileHypervisorSettings | KvmHypervisorSettings;
export type HypervisorKind = HypervisorSettings["kind"];

/**
 * What is to be known of a kind without asking a hypervisor of it. `chained`: copies on primary are links of one chain with the volume, so
 * that there must not be many. `tended`: a worker that dies may leave something open there, so that garbage collection looks after it.
 * `pools`: its volumes lie in storage pools that have names. `makesVms`: it makes VMs from saved definitions.
 * `snapshotNames`: what the files of its snapshots are called beside volumes, so that no volume can have such a name.
 */
export const hypervisorKinds: Readonly<
  Record<
    HypervisorKind,
    {
      readonly chained: boolean;
      readonly tended: boolean;
      readonly pools: boolean;
      readonly makesVms: boolean;
      readonly snapshotNames?: RegExp;
    }
  >
> = {
  file: { chained: false, tended: false, pools: false, makesVms: false },
  kvm: {
    chained: true,
    tended: true,
    pools: true,
    makesVms: true,
    snapshotNames: /^.+\.snap_[A-Za-z0-9_-]+\.qcow2$/s,
  },
};

/** What a hypervisor turned out to be when it was registered. */
export interface HypervisorCheck {
  /** ISO 8601. */
  readonly at: string;
  /** By the name of the software. */
  readonly versions: Readonly<Record<string, string>>;
  /** What will not work although all else does; sentences. */
  readonly warnings: readonly string[];
}

export interface HypervisorRow {
  readonly tenant: string;
  readonly id: string;
  readonly name: string;
  readonly settings: HypervisorSettings;
  /** Without rules every volume belongs to the hypervisor's own tenant. */
  readonly tenantRules: readonly TenantRule[];
  /** Absent on rows from before checks had reports. */
  readonly lastCheck?: HypervisorCheck;
  readonly createdAt: string;
  readonly discoveredAt?: string;
  /** Whether the last discovery found that writes of its VMs can be held for a snapshot. */
  readonly quiesces?: boolean;
}

/** The tenant that a volume of this name belongs to, and whether a rule said so. */
export function assignTenant(
  hypervisor: Pick<HypervisorRow, "tenant" | "tenantRules">,
  volumeName: string,
): { tenant: string; unassigned: boolean } {
  if (hypervisor.tenantRules.length === 0) return { tenant: hypervisor.tenant, unassigned: false };
  const rule = hypervisor.tenantRules.find(({ pattern }) => matchesPattern(pattern, volumeName));
  return rule ? { tenant: rule.tenant, unassigned: false } : { tenant: hypervisor.tenant, unassigned: true };
}

/** Greedy wildcard match without backtracking blow-up: each literal part is searched after the one before. */
function matchesPattern(pattern: string, name: string): boolean {
  const parts = pattern.split("*");
  const first = parts[0] ?? "";
  const last = parts.at(-1) ?? "";
  if (parts.length === 1) return name === pattern;
  if (!name.startsWith(first) || !name.endsWith(last) || name.length < first.length + last.length) return false;
  let position = first.length;
  const end = name.length - last.length;
  for (const part of parts.slice(1, -1)) {
    const found = name.indexOf(part, position);
    if (found < 0 || found + part.length > end) return false;
    position = found + part.length;
  }
  return true;
}

/** {@link derivedId} of a volume. */
export function volumeIdFor(hypervisorId: string, externalId: string): string {
  return derivedId("volume", hypervisorId, externalId);
}

/** Every tenant's default store: the stack's own bucket. A row of this id holds nothing but the tenant's options for it. */
export const defaultStoreId = "default";

/**
 * No worker may starve: each has to write a pack of 16 MiB within its 840 s, and 16 workers at once (4 backups of 4 shards) take
 * 312 KiB a second for that.
 */
export const leastBytesPerSecond = 512 * 1024;

/** How fast all workers together may use a store. Absent: as fast as they can. */
export interface StoreLimits {
  /** Bytes of bodies that are written and read. */
  readonly bytesPerSecond?: number;
  readonly requestsPerSecond?: number;
}

export const objectLockModes = ["governance", "compliance"] as const;

/** Retention that each object of a backup gets when the backup is published. */
export interface ObjectLock {
  readonly mode: (typeof objectLockModes)[number];
  readonly days: number;
}

/** What of a store may be changed at any time. Limits are read live; retention counts for backups that are published later. */
export interface StoreOptions extends StoreLimits {
  readonly objectLock?: ObjectLock;
}

/** `client`: everything but names and sizes of objects is encrypted before it leaves the worker. */
export const storeEncryptions = ["none", "client"] as const;
export type StoreEncryption = (typeof storeEncryptions)[number];

export interface StoreRow extends StoreOptions {
  readonly tenant: string;
  readonly id: string;
  readonly name: string;
  readonly bucket: string;
  readonly prefix: string;
  /** Absent: Amazon S3 in `region`. */
  readonly endpoint?: string;
  readonly region: string;
  readonly pathStyle: boolean;
  /** A secret `{"accessKeyId":"…","secretAccessKey":"…"}` in Secrets Manager, by name, below {@link secretPrefix}. */
  readonly secretId: string;
  /** Absent: `none`. Never changes. */
  readonly encryption?: StoreEncryption;
  readonly createdAt: string;
}

/** A tenant's secrets begin with this; those of others are not its to use. */
export function secretPrefix(tenant: string): string {
  return `snapferry/${tenant}/`;
}

/** Whether the tenant may name this secret in what it registers. */
export function isSecretOf(tenant: string, secretId: string): boolean {
  const prefix = secretPrefix(tenant);
  return secretId.startsWith(prefix) && secretId.length > prefix.length;
}

/** One volume's backups share chunks with each other and with nobody else's. Hashed, so that keys of objects, which stand in access logs, name no tenant. */
export function dedupDomain(tenant: string, volumeId: string): string {
  return createHash("sha256").update(`${tenant}\0${volumeId}`).digest("hex").slice(0, 32);
}
