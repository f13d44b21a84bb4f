/**
 * The root of a snapshot: its size, what is known about it, and the branches of its tree. With its branches it names every pack
 * that the snapshot needs. A root is deterministic: the same selection of results gives the same bytes.
 */
import { ByteWriter, hashBytes, seal, unseal } from "./binary.ts";
import { branchPages } from "./branch.ts";
import type { DomainCipher } from "./domain-cipher.ts";
import { areSizesOfDomain, type Geometry } from "./domain-record.ts";
import { formatPageName, isNameNumber, isPlainName, parsePageName } from "./layout.ts";
import { decodeJobs, encodeJobs } from "./pack-table.ts";

export interface BranchReference {
  /** Position in the volume, in branches. */
  readonly index: number;
  /** See `formatPageName`. */
  readonly name: string;
  /** Chunks below it that are not zeros. */
  readonly chunks: number;
}

/** What a store tells about a snapshot without any database: texts by name, as `volumeName` or `createdAt`. */
export type SnapshotDescription = Readonly<Record<string, string>>;

export interface Root {
  readonly snapshotId: string;
  /** The job that published it. */
  readonly jobId: string;
  readonly sizeBytes: number;
  readonly chunkBytes: number;
  readonly pageChunks: number;
  readonly description: SnapshotDescription;
  /** The domain's wrapped data key; empty when the chunks are not encrypted. */
  readonly wrappedKey: Uint8Array;
  /** Ascending by index. A branch that is not listed is all zeros. */
  readonly branches: readonly BranchReference[];
}

/** Chunks that a volume of this size has, the last one included. */
export function chunkCount(sizeBytes: number, chunkBytes: number): number {
  return Math.ceil(sizeBytes / chunkBytes);
}

/** Pages that a volume of this size has. */
export function pageCount(sizeBytes: number, geometry: Pick<Geometry, "chunkBytes" | "pageChunks">): number {
  return Math.ceil(chunkCount(sizeBytes, geometry.chunkBytes) / geometry.pageChunks);
}

/** Chunks of the page `index`: fewer in a volume's last one. */
export function chunksOfPage(
  index: number,
  volume: { readonly sizeBytes: number } & Pick<Geometry, "chunkBytes" | "pageChunks">,
): number {
  const all = chunkCount(volume.sizeBytes, volume.chunkBytes);
  return Math.min(volume.pageChunks, all - index * volume.pageChunks);
}

/** Bytes of the chunk `index` (counted through the whole volume). */
export function chunkLength(
  index: number,
  volume: { readonly sizeBytes: number; readonly chunkBytes: number },
): number {
  return Math.min(volume.chunkBytes, volume.sizeBytes - index * volume.chunkBytes);
}

/** index u32, job u32, attempt u32, SHA-256, chunks u32 */
const branchReferenceBytes = 4 + 4 + 4 + hashBytes + 4;
const maxWrappedKeyBytes = 8192;

/** `cipher` authenticates the root of an encrypted domain. */
export function encodeRoot(root: Root, cipher?: DomainCipher): Buffer {
  const writer = new ByteWriter().text(root.snapshotId).text(root.jobId);
  writer.u64(root.sizeBytes).u32(root.chunkBytes).u32(root.pageChunks).u32(branchPages);
  writer.text(JSON.stringify(root.description, Object.keys(root.description).sort()));
  const jobs = encodeJobs(
    writer,
    root.branches.map((branch) => parsePageName(branch.name)!.jobId),
  );
  writer.u32(root.branches.length);
  for (const branch of root.branches) {
    const { jobId, attempt, sha256 } = parsePageName(branch.name)!;
    writer.u32(branch.index).u32(jobs.get(jobId)!).u32(attempt).hex(sha256).u32(branch.chunks);
  }
  writer.u32(root.wrappedKey.length).bytes(root.wrappedKey);
  if (root.wrappedKey.length > 0) {
    if (!cipher) throw new TypeError("The root of an encrypted domain needs the domain's cipher.");
    writer.hex(cipher.authenticate(writer.finish()));
  }
  return seal("root", writer.finish());
}

/** Throws RepositoryDamaged, UnsupportedFormat. `name` is the object's key, for messages. With `cipher` its authenticity is checked too. */
export function decodeRoot(bytes: Uint8Array, name: string, cipher?: DomainCipher): Root {
  const reader = unseal("root", bytes, name);
  const snapshotId = reader.text();
  const jobId = reader.text();
  if (!isPlainName(snapshotId) || !isPlainName(jobId)) throw reader.damaged("a name in it is not one");
  const sizeBytes = reader.u64();
  const chunkBytes = reader.u32();
  const pageChunks = reader.u32();
  const makesSense = areSizesOfDomain({ chunkBytes, pageChunks }) && reader.u32() === branchPages;
  if (!makesSense) throw reader.damaged("its sizes make no sense");
  const description = parseDescription(reader.text());
  if (!description) throw reader.damaged("its description is not one");
  const jobs = decodeJobs(reader);
  const volumeBranches = Math.ceil(pageCount(sizeBytes, { chunkBytes, pageChunks }) / branchPages);
  let previous = -1;
  const branches = Array.from({ length: reader.count(branchReferenceBytes) }, () => {
    const branch = {
      index: reader.u32(),
      jobId: jobs[reader.u32()],
      attempt: reader.u32(),
      sha256: reader.hex(hashBytes),
    };
    const chunks = reader.u32();
    const { index, jobId: writer } = branch;
    if (writer === undefined || !isNameNumber(branch.attempt) || index <= previous || index >= volumeBranches)
      throw reader.damaged("its list of branches makes no sense");
    previous = index;
    return { index, name: formatPageName({ ...branch, jobId: writer }), chunks };
  });
  const wrappedKey = Uint8Array.from(reader.bytes(reader.count(1, maxWrappedKeyBytes)));
  const authenticated = reader.past();
  const authentication = wrappedKey.length > 0 ? reader.hex(hashBytes) : undefined;
  reader.end();
  if (cipher && authentication !== cipher.authenticate(authenticated))
    throw reader.damaged("it was not written with the domain's key");
  return { snapshotId, jobId, sizeBytes, chunkBytes, pageChunks, description, wrappedKey, branches };
}

function parseDescription(text: string): SnapshotDescription | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return isDescription(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Any name may be in it, `__proto__` too: a record of zod would leave that one out. */
function isDescription(value: unknown): value is SnapshotDescription {
  const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
  return isObject && Object.values(value).every((text) => typeof text === "string");
}
