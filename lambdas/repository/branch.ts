/** A branch: the middle of a snapshot's tree. It lists up to {@link branchPages} pages and the packs that each refers to. Immutable, named by its own hash. */
import { RepositoryDamaged } from "../domain/errors.ts";
import { ByteWriter, hashBytes, seal, sha256, unseal } from "./binary.ts";
import { domainKeys, formatPageName, isNameNumber, parsePageName } from "./layout.ts";
import type { ObjectStore } from "./object-store.ts";
import { decodeJobs, decodePacks, encodeJobs, encodePacks, jobsOfPacks } from "./pack-table.ts";

/** Pages of a branch: where a page spans 256 MiB, a branch spans 256 GiB and takes some 60 KB. */
export const branchPages = 1024;
/** In the names of branches, which all attempts make alike; pages have the attempt that wrote them, from 1 on. */
export const branchAttempt = 0;

export interface PageReference {
  /** Position in the volume, in pages. */
  readonly index: number;
  /** See `formatPageName`. */
  readonly name: string;
  /** Chunks in it that are not zeros. */
  readonly chunks: number;
  /** Names of the packs that its chunks lie in. */
  readonly packs: readonly string[];
}

export interface Branch {
  /** Position in the volume, in branches. */
  readonly index: number;
  /** Ascending by index. A page that is not listed is all zeros. */
  readonly pages: readonly PageReference[];
}

/** index u32, job u32, attempt u32, SHA-256, chunks u32, packs u32 */
const pageReferenceBytes = 4 + 4 + 4 + hashBytes + 4 + 4;
/** A page lists a pack by its position, u32. */
const packReferenceBytes = 4;
/** A pack is listed for the chunks in it, so that no branch has more packs than chunks. Nor are there more than the pages have room to list. */
const maxPacks = 1_000_000;

/** Deterministic: the same pages give the same bytes. */
export function encodeBranch(branch: Branch): Buffer {
  const packs = new Set(branch.pages.flatMap((page) => page.packs));
  const writer = new ByteWriter().u32(branch.index);
  const pageJobs = branch.pages.map((page) => parsePageName(page.name)!.jobId);
  const jobs = encodeJobs(writer, [...pageJobs, ...jobsOfPacks(packs)]);
  const numbers = encodePacks(writer, packs, jobs);
  writer.u32(branch.pages.length);
  for (const page of branch.pages) {
    const { jobId, attempt, sha256: hash } = parsePageName(page.name)!;
    writer.u32(page.index).u32(jobs.get(jobId)!).u32(attempt).hex(hash).u32(page.chunks).u32(page.packs.length);
    const ofPage = page.packs.map((pack) => numbers.get(pack)!).sort((a, b) => a - b);
    for (const number of ofPage) writer.u32(number);
  }
  return seal("branch", writer.finish());
}

/** Throws RepositoryDamaged, UnsupportedFormat. `name` is the object's key, for messages. */
export function decodeBranch(bytes: Uint8Array, name: string): Branch {
  const reader = unseal("branch", bytes, name);
  const index = reader.u32();
  const jobs = decodeJobs(reader);
  const packs = decodePacks(reader, jobs, Math.min(maxPacks, reader.room(packReferenceBytes)));
  let previous = index * branchPages - 1;
  const pages = Array.from({ length: reader.count(pageReferenceBytes, branchPages) }, () => {
    const page = {
      index: reader.u32(),
      jobId: jobs[reader.u32()],
      attempt: reader.u32(),
      sha256: reader.hex(hashBytes),
    };
    const chunks = reader.u32();
    const ofPage = Array.from({ length: reader.count(packReferenceBytes, packs.length) }, () => packs[reader.u32()]);
    const { jobId } = page;
    const isInOrder = page.index > previous && page.index < (index + 1) * branchPages;
    if (jobId === undefined || !isNameNumber(page.attempt) || !isInOrder || !ofPage.every((pack) => pack !== undefined))
      throw reader.damaged("its list of pages makes no sense");
    previous = page.index;
    return { index: page.index, name: formatPageName({ ...page, jobId }), chunks, packs: ofPage };
  });
  reader.end();
  return { index, pages };
}

/** Reads a branch and checks that it is the one its name tells. Throws RepositoryDamaged when it is missing or damaged. */
export async function readBranch(store: ObjectStore, domain: string, name: string): Promise<Branch> {
  const key = domainKeys(domain).page(name);
  const bytes = await store.get(key);
  if (!bytes) throw new RepositoryDamaged(`The object ${key} is missing.`);
  if (sha256(bytes) !== parsePageName(name)?.sha256) {
    throw new RepositoryDamaged(`The object ${key} is damaged: it is not the branch that its name tells.`);
  }
  return decodeBranch(bytes, key);
}
