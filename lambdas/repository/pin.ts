/**
 * What keeps a running backup's objects, and those of its base, from the sweep.
 *
 * `pin` is the job's first object of all. It holds a copy of the candidate base's root, so the base's packs and pages are kept even
 * when that root is deleted a moment later. Whether the base was still published when the pin was there already is decided after
 * that, once for all workers and replays, in `base`. See `sweep.ts` for why this needs no lock.
 */
import * as z from "zod";
import {
  EncryptionKeyUnavailable,
  RepositoryDamaged,
  UnsupportedFormat,
  VerificationFailed,
} from "../domain/errors.ts";
import { ByteWriter, repositoryFormat, seal, sha256, unseal } from "./binary.ts";
import { type DomainCipher, openCipher } from "./domain-cipher.ts";
import {
  type Domain,
  type DomainLocation,
  ensureDomain,
  type Geometry,
  geometryFor,
  readDomain,
} from "./domain-record.ts";
import { domainKeys, isPlainName, jobKeys } from "./layout.ts";
import { decodeRoot, type Root } from "./manifest.ts";
import { firstBelow, type ObjectStore } from "./object-store.ts";
import { decodeJobRecord, encodeJobRecord, type JobObject } from "./record.ts";
import type { VolumeShape } from "./shard-table.ts";

/** A backup: whose volume, of which snapshot, by which job. Names are of [A-Za-z0-9_-]. */
export interface BackupTarget extends DomainLocation {
  readonly snapshotId: string;
  readonly jobId: string;
}

export interface Pin {
  readonly jobId: string;
  readonly snapshotId: string;
  /** The sealed root of the candidate base; empty when there is none. */
  readonly baseRoot: Uint8Array;
}

const decisionSchema = z.object({ format: z.literal(repositoryFormat), baseSnapshotId: z.string().optional() });

/**
 * Pins the newest candidate that is published and readable as the base of this backup, or none. Every later call of the same job
 * answers the same. To be called before anything else is written for the job. `sizeBytes` of the volume decides on the domain's
 * sizes when this is its first backup. Throws RepositoryDamaged for a domain that is not encrypted where it has to be.
 */
export async function pinBase(
  target: BackupTarget,
  candidates: readonly string[],
  volume: { readonly sizeBytes: number },
): Promise<{ baseSnapshotId?: string }> {
  const pin = await writePin(target, candidates);
  return decideBase(target, pin, ensureDomain(target, lastKnown(volume.sizeBytes, baseRootOf(pin, target))));
}

async function writePin(target: BackupTarget, candidates: readonly string[]): Promise<Pin> {
  const [known, baseRoot] = await Promise.all([
    readPin(target.store, target.domain, target.jobId),
    newestRoot(target, candidates),
  ]);
  if (known) return known;
  const pin = { jobId: target.jobId, snapshotId: target.snapshotId, baseRoot };
  const outcome = await target.store.put(jobKeys(target.domain, target.jobId).pin, encodePin(pin), { ifAbsent: true });
  return outcome === "written" ? pin : writePin(target, candidates);
}

/** The bytes of the first root that exists and can be read; a damaged or forged one must not keep new backups from being made. */
async function newestRoot(target: BackupTarget, candidates: readonly string[]): Promise<Uint8Array> {
  for (const snapshotId of candidates) {
    const bytes = await readableRoot(snapshotId, target);
    if (bytes) return bytes;
  }
  return new Uint8Array();
}

/** Of an encrypted domain only what was written with the domain's key. */
async function readableRoot(snapshotId: string, target: BackupTarget): Promise<Uint8Array | undefined> {
  const key = domainKeys(target.domain).root(snapshotId);
  try {
    const bytes = await target.store.get(key);
    if (!bytes) return undefined;
    const root = decodeRoot(bytes, key);
    decodeRoot(bytes, key, await openCipher(target, root.wrappedKey));
    return root.snapshotId === snapshotId ? bytes : undefined;
  } catch (error) {
    if (unreadable.some((kind) => error instanceof kind)) return undefined;
    throw error;
  }
}

/** A key that cannot be unwrapped may be a forged one; the domain's own is asked for right after. */
const unreadable = [RepositoryDamaged, UnsupportedFormat, EncryptionKeyUnavailable] as const;

async function decideBase(
  target: BackupTarget,
  pin: Pin,
  domain: Promise<Domain>,
): Promise<{ baseSnapshotId?: string }> {
  const { base: key } = jobKeys(target.domain, target.jobId);
  const [known, base, { encryption }] = await Promise.all([target.store.get(key), publishedBase(target, pin), domain]);
  const object = { key, cipher: encryption?.cipher };
  if (known) return decisionOf(known, object);
  const decision = { format: repositoryFormat, ...(base && { baseSnapshotId: base.snapshotId }) };
  const record = encodeJobRecord(decision, object);
  const outcome = await target.store.put(key, record, { ifAbsent: true });
  return outcome === "written" ? decisionOf(record, object) : decideBase(target, pin, domain);
}

function decisionOf(bytes: Uint8Array, object: JobObject): { baseSnapshotId?: string } {
  const { baseSnapshotId } = decodeJobRecord(decisionSchema, bytes, object);
  return baseSnapshotId === undefined ? {} : { baseSnapshotId };
}

/** The pinned root, if the very same is published now that the pin protects it. */
async function publishedBase(target: BackupTarget, pin: Pin): Promise<Root | undefined> {
  const root = baseRootOf(pin, target);
  if (!root) return undefined;
  const published = await target.store.get(domainKeys(target.domain).root(root.snapshotId));
  return published && sha256(published) === sha256(pin.baseRoot) ? root : undefined;
}

/** With `cipher` its authenticity is checked: what a hinted plan takes over unread hangs on this root alone. */
function baseRootOf(
  pin: Pin,
  target: { domain: string; jobId: string },
  cipher?: DomainCipher | undefined,
): Root | undefined {
  if (pin.baseRoot.length === 0) return undefined;
  return decodeRoot(pin.baseRoot, jobKeys(target.domain, target.jobId).pin, cipher);
}

type VolumeToPin = { readonly sizeBytes: number } | VolumeShape;

/**
 * What the job was told by {@link pinBase}: the domain and the base's root. A lost `domain.json` is written again as the plan has it, before there is one
 * from the base, or for a volume of `sizeBytes` bytes. Throws VerificationFailed without a pin, RepositoryDamaged when the root in it is of another
 * snapshot than the base or was not written with the domain's key. The volume, or the shape that the plan has, may still be on its way.
 */
export async function readPinnedBase(
  target: BackupTarget,
  ofVolume: VolumeToPin | Promise<VolumeToPin>,
): Promise<{ domain: Domain; base?: Root }> {
  const keys = jobKeys(target.domain, target.jobId);
  const [pin, decision, known, volume] = await Promise.all([
    readPin(target.store, target.domain, target.jobId),
    target.store.get(keys.base),
    readDomain(target),
    ofVolume,
  ]);
  if (!pin || !decision)
    throw new VerificationFailed(`The job ${target.jobId} has not pinned its base, or was collected.`);
  const pinned = baseRootOf(pin, target);
  const domain =
    known ?? (await ensureDomain(target, "geometry" in volume ? volume : lastKnown(volume.sizeBytes, pinned)));
  const { geometry, encryption } = domain;
  const { baseSnapshotId } = decisionOf(decision, { key: keys.base, cipher: encryption?.cipher });
  const base = baseSnapshotId === undefined ? undefined : pinned;
  if (base && base.snapshotId !== baseSnapshotId)
    throw new RepositoryDamaged(`The object ${keys.pin} is damaged: it has another base than ${keys.base} names.`);
  const fits =
    base?.chunkBytes === geometry.chunkBytes &&
    base.pageChunks === geometry.pageChunks &&
    Buffer.compare(base.wrappedKey, encryption?.wrappedKey ?? new Uint8Array()) === 0;
  if (!base || !fits) return { domain };
  return { domain, base: baseRootOf(pin, target, encryption?.cipher)! };
}

function lastKnown(sizeBytes: number, base: Root | undefined): { geometry: Geometry; wrappedKey?: Uint8Array } {
  const geometry = geometryFor(sizeBytes);
  if (!base) return { geometry };
  const { chunkBytes, pageChunks, wrappedKey } = base;
  return { geometry: { ...geometry, chunkBytes, pageChunks }, wrappedKey };
}

function encodePin(pin: Pin): Buffer {
  const body = new ByteWriter().text(pin.jobId).text(pin.snapshotId).u32(pin.baseRoot.length).bytes(pin.baseRoot);
  return seal("pin", body.finish());
}

/** Undefined when the job has no pin. Throws RepositoryDamaged. */
export async function readPin(store: ObjectStore, domain: string, jobId: string): Promise<Pin | undefined> {
  const key = jobKeys(domain, jobId).pin;
  const bytes = await store.get(key);
  return bytes && decodePin(bytes, key);
}

export function decodePin(bytes: Uint8Array, key: string): Pin {
  const reader = unseal("pin", bytes, key);
  const pin = { jobId: reader.text(), snapshotId: reader.text(), baseRoot: reader.bytes(reader.count(1)) };
  reader.end();
  return pin;
}

/**
 * Deletes all that a backup job needed while it ran: one that has published its root, or one that is given up and of which no worker can
 * write any more; the sweep takes what it uploaded. Its pin goes last, so that whoever finds an unfinished clean-up finds the job. To be
 * repeated until `finished`; gone is success.
 */
export async function unpinJob(
  target: Pick<BackupTarget, "store" | "domain" | "jobId">,
  options?: { until?: () => boolean },
): Promise<{ finished: boolean }> {
  const keys = jobKeys(target.domain, target.jobId);
  const { finished } = await target.store.deleteEveryVersionBelow(keys.all, { ...options, last: keys.pin });
  return { finished };
}

/** The character after `/`: a key that sorts behind all keys below a folder and before the next folder. */
const followsSlash = "0";

/** Jobs with any object in the domain, restores included: one listing each, however many objects they have. */
export async function* jobsIn({ store, domain }: Pick<DomainLocation, "store" | "domain">): AsyncGenerator<string> {
  const { jobs } = domainKeys(domain);
  for (let startAfter = jobs; ; ) {
    const next = await firstBelow(store, jobs, { startAfter });
    if (!next) return;
    const [jobId = ""] = next.key.slice(jobs.length).split("/");
    if (isPlainName(jobId)) yield jobId;
    startAfter = `${jobs}${jobId}${followsSlash}`;
  }
}
