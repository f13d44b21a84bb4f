/**
 * The root of a snapshot: its size, its pages, and every pack that these refer to, so that the sweep needs to read roots only.
 * A root is deterministic: the same selection of results gives the same bytes.
 */
import { type ByteReader, ByteWriter, hashBytes, seal, unseal } from "./binary.ts";
import type { Geometry } from "./domain-record.ts";
import { formatPackName, formatPageName, isPlainName, parsePackName, parsePageName } from "./layout.ts";
import { maxPageChunks } from "./page.ts";

export interface PageReference {
  readonly index: number;
  /** See `formatPageName`. */
  readonly name: string;
  /** Chunks in it that are not zeros. */
  readonly chunks: number;
}

export interface Root {
  readonly snapshotId: string;
  /** The job that published it. */
  readonly jobId: string;
  readonly sizeBytes: number;
  readonly chunkBytes: number;
  readonly pageChunks: number;
  /** Ascending by index. A page that is not listed is all zeros. */
  readonly pages: readonly PageReference[];
  /** Names of all packs that the pages refer to, without repetition. */
  readonly packs: ReadonlySet<string>;
}

/** Chunks that a volume of this size has, the last one included. */
export function chunkCount(sizeBytes: number, chunkBytes: number): number {
  return Math.ceil(sizeBytes / chunkBytes);
}

/** Pages that a volume of this size has. */
function pageCount(sizeBytes: number, geometry: Pick<Geometry, "chunkBytes" | "pageChunks">): number {
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

/** One writer's packs: all of them or some, as runs of sequence numbers. */
interface PackGroup {
  readonly job: number;
  readonly attempt: number;
  readonly shard: number;
  readonly token: string;
  readonly runs: { first: number; count: number }[];
}

/** attempt u32, shard u32, token 8, job u32, runs u32 and one run of two u32 */
const minGroupBytes = 4 + 4 + 8 + 4 + 4 + 8;
/** index u32, job u32, attempt u32, SHA-256, chunks u32 */
const pageReferenceBytes = 4 + 4 + 4 + hashBytes + 4;

export function encodeRoot(root: Root): Buffer {
  const jobs = jobsOf(root);
  const numbers = new Map(jobs.map((jobId, number) => [jobId, number]));
  const jobNumber = (jobId: string) => numbers.get(jobId)!;
  const writer = new ByteWriter().text(root.snapshotId).text(root.jobId);
  writer.u64(root.sizeBytes).u32(root.chunkBytes).u32(root.pageChunks).u32(jobs.length);
  for (const jobId of jobs) writer.text(jobId);
  writer.bytes(encodePageReferences(root.pages, jobNumber)).bytes(encodePackGroups(groupPacks(root.packs, jobNumber)));
  return seal("root", writer.finish());
}

/** The jobs that wrote the root's pages and packs, sorted. */
function jobsOf(root: Root): string[] {
  const jobs = new Set<string>();
  for (const page of root.pages) jobs.add(parsePageName(page.name)!.jobId);
  for (const pack of root.packs) jobs.add(parsePackName(pack)!.jobId);
  return [...jobs].sort();
}

function encodePageReferences(pages: readonly PageReference[], jobNumber: (jobId: string) => number): Buffer {
  const writer = new ByteWriter().u32(pages.length);
  for (const page of pages) {
    const name = parsePageName(page.name)!;
    writer.u32(page.index).u32(jobNumber(name.jobId)).u32(name.attempt).hex(name.sha256).u32(page.chunks);
  }
  return writer.finish();
}

function groupPacks(packs: ReadonlySet<string>, jobNumber: (jobId: string) => number): PackGroup[] {
  const groups = new Map<string, { group: PackGroup; sequences: number[] }>();
  for (const pack of packs) {
    const { sequence, ...writer } = parsePackName(pack)!;
    const key = `${writer.jobId}/${writer.attempt}-${writer.shard}-${writer.token}`;
    const known = groups.get(key) ?? { group: { ...writer, job: jobNumber(writer.jobId), runs: [] }, sequences: [] };
    known.sequences.push(sequence);
    groups.set(key, known);
  }
  const sorted = [...groups].sort(([a], [b]) => (a < b ? -1 : 1));
  return sorted.map(([, { group, sequences }]) => ({ ...group, runs: toRuns(sequences) }));
}

function toRuns(sequences: readonly number[]): PackGroup["runs"] {
  const runs: PackGroup["runs"] = [];
  for (const sequence of sequences.toSorted((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last && last.first + last.count === sequence) last.count += 1;
    else runs.push({ first: sequence, count: 1 });
  }
  return runs;
}

function encodePackGroups(groups: readonly PackGroup[]): Buffer {
  const writer = new ByteWriter().u32(groups.length);
  for (const group of groups) {
    writer.u32(group.job).u32(group.attempt).u32(group.shard).hex(group.token).u32(group.runs.length);
    for (const run of group.runs) writer.u32(run.first).u32(run.count);
  }
  return writer.finish();
}

/** Throws RepositoryDamaged, UnsupportedFormat. `name` is the object's key, for messages. */
export function decodeRoot(bytes: Uint8Array, name: string): Root {
  const reader = unseal("root", bytes, name);
  const snapshotId = reader.text();
  const jobId = reader.text();
  const sizeBytes = reader.u64();
  const chunkBytes = reader.u32();
  const pageChunks = reader.u32();
  if (chunkBytes === 0 || pageChunks === 0 || pageChunks > maxPageChunks)
    throw reader.damaged("its sizes make no sense");
  const jobs = Array.from({ length: reader.count(2) }, () => plainNameOf(reader));
  const volumePages = pageCount(sizeBytes, { chunkBytes, pageChunks });
  const pages = decodePageReferences(reader, jobs, { volumePages, pageChunks });
  const chunks = pages.reduce((sum, page) => sum + page.chunks, 0);
  const packs = decodePackNames(reader, jobs, chunks);
  reader.end();
  return { snapshotId, jobId, sizeBytes, chunkBytes, pageChunks, pages, packs };
}

function plainNameOf(reader: ByteReader): string {
  const name = reader.text();
  if (!isPlainName(name)) throw reader.damaged("a name in it is not one");
  return name;
}

function decodePageReferences(
  reader: ByteReader,
  jobs: readonly string[],
  limits: { readonly volumePages: number; readonly pageChunks: number },
): PageReference[] {
  let previous = -1;
  return Array.from({ length: reader.count(pageReferenceBytes) }, () => {
    const index = reader.u32();
    const jobId = jobs[reader.u32()];
    const attempt = reader.u32();
    const sha256 = reader.hex(hashBytes);
    const chunks = reader.u32();
    const fits = index > previous && index < limits.volumePages && chunks <= limits.pageChunks;
    if (jobId === undefined || !fits) throw reader.damaged("its list of pages makes no sense");
    previous = index;
    return { index, name: formatPageName({ jobId, attempt, sha256 }), chunks };
  });
}

/** `limit`: no more packs than chunks, since a pack is only listed when a chunk lies in it. */
function decodePackNames(reader: ByteReader, jobs: readonly string[], limit: number): Set<string> {
  const packs = new Set<string>();
  for (let groups = reader.count(minGroupBytes); groups > 0; groups--) {
    const jobId = jobs[reader.u32()];
    if (jobId === undefined) throw reader.damaged("its list of packs makes no sense");
    const writer = { jobId, attempt: reader.u32(), shard: reader.u32(), token: reader.hex(8) };
    for (let runs = reader.count(8); runs > 0; runs--) {
      const first = reader.u32();
      const count = reader.u32();
      if (packs.size + count > limit) throw reader.damaged("its list of packs is too long");
      for (let at = 0; at < count; at++) packs.add(formatPackName({ ...writer, sequence: first + at }));
    }
  }
  return packs;
}
