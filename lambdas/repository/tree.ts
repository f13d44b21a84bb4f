/** Walking a snapshot's tree: from the root through its branches to its pages. */
import { RepositoryDamaged, UnsupportedFormat } from "../domain/errors.ts";
import { type Branch, branchPages, type PageReference, readBranch } from "./branch.ts";
import type { LostRange } from "./damage.ts";
import type { Geometry } from "./domain-record.ts";
import { mapAhead } from "./in-flight.ts";
import { domainKeys } from "./layout.ts";
import { type BranchReference, chunksOfPage, pageCount, type Root } from "./manifest.ts";
import type { ObjectStore } from "./object-store.ts";
import { type Page, readPage } from "./page.ts";

/** Branches fetched ahead of the one that is used: some 60 KB to 1 MB each. */
const branchesAhead = 4;

/** The branch that a root names. Throws RepositoryDamaged when it is missing, damaged or of another place. */
export async function branchOf(
  source: { readonly store: ObjectStore; readonly domain: string },
  reference: BranchReference,
): Promise<Branch> {
  const branch = await readBranch(source.store, source.domain, reference.name);
  if (branch.index === reference.index) return branch;
  throw new RepositoryDamaged(`The branch ${reference.name} is of another place than the root says.`);
}

/** All pages of a snapshot, ascending by index; none lies behind its end. Throws RepositoryDamaged, or passes over what is damaged. */
export async function* pagesOf(
  source: { readonly store: ObjectStore; readonly domain: string },
  root: Root,
  options?: { readonly skipDamaged: boolean },
): AsyncGenerator<PageReference> {
  const pages = pageCount(root.sizeBytes, root);
  const read = async (reference: BranchReference) => {
    try {
      const branch = await branchOf(source, reference);
      if (branch.pages.every(({ index }) => index < pages)) return branch;
      throw new RepositoryDamaged(`The branch ${reference.name} has pages behind the end of the volume.`);
    } catch (error) {
      if (options?.skipDamaged && isDamage(error)) return undefined;
      throw error;
    }
  };
  for await (const branch of mapAhead(root.branches, branchesAhead, read)) yield* branch?.pages ?? [];
}

/** The pages of a base that a volume of this shape can take over: not those behind its end. Throws RepositoryDamaged. */
export async function* pagesWithin(
  source: { readonly store: ObjectStore; readonly domain: string },
  base: Root,
  volume: { readonly sizeBytes: number; readonly geometry: Pick<Geometry, "chunkBytes" | "pageChunks"> },
): AsyncGenerator<PageReference> {
  const pages = pageCount(volume.sizeBytes, volume.geometry);
  const branches = base.branches.filter(({ index }) => index * branchPages < pages);
  for await (const page of pagesOf(source, { ...base, branches })) if (page.index < pages) yield page;
}

/** What a branch says of a page, or the bytes that are lost because the branch is. */
export interface FoundReference {
  readonly page?: PageReference;
  readonly lost?: LostRange;
  /** The page of the volume that comes after it. */
  readonly next: number;
  /** Chunks that are not zeros, lost ones included. */
  readonly chunks: number;
}

/** All that the root leads to, in the order of the volume; what lies behind its end is none of it. Throws no damage: it is in what is found. */
export async function* foundReferences(
  source: { readonly store: ObjectStore; readonly domain: string },
  root: Root,
): AsyncGenerator<FoundReference> {
  const pages = pageCount(root.sizeBytes, root);
  const read = async (reference: BranchReference): Promise<FoundReference[]> => {
    try {
      const branch = await branchOf(source, reference);
      const within = branch.pages.filter(({ index }) => index < pages);
      return within.map((page) => ({ page, next: page.index + 1, chunks: page.chunks }));
    } catch (error) {
      if (!isDamage(error)) throw error;
      const lost = lostBranch(source.domain, reference, root);
      return [{ lost, next: (reference.index + 1) * branchPages, chunks: reference.chunks }];
    }
  };
  for await (const found of mapAhead(root.branches, branchesAhead, read)) yield* found;
}

function lostBranch(domain: string, { index, name }: BranchReference, volume: Volume): LostRange {
  const span = branchPages * volume.pageChunks * volume.chunkBytes;
  const offset = index * span;
  return { offset, length: Math.min(span, volume.sizeBytes - offset), object: domainKeys(domain).page(name) };
}

export type Volume = Pick<Root, "sizeBytes" | "chunkBytes" | "pageChunks">;

/** The page, or the bytes of the volume that are lost because it is missing, damaged, of another place or of a format that is not read. */
export async function readReferencedPage(
  source: { readonly store: ObjectStore; readonly domain: string },
  reference: Pick<PageReference, "index" | "name">,
  volume: Volume,
): Promise<{ readonly page?: Page; readonly lost?: LostRange }> {
  const chunks = chunksOfPage(reference.index, volume);
  const offset = reference.index * volume.pageChunks * volume.chunkBytes;
  const length = Math.min(chunks * volume.chunkBytes, volume.sizeBytes - offset);
  const lost = { offset, length, object: domainKeys(source.domain).page(reference.name) };
  try {
    const page = await readPage(source.store, source.domain, reference.name);
    return page.index === reference.index && page.chunks.length === chunks ? { page } : { lost };
  } catch (error) {
    if (isDamage(error)) return { lost };
    throw error;
  }
}

export function isDamage(error: unknown): error is RepositoryDamaged | UnsupportedFormat {
  return error instanceof RepositoryDamaged || error instanceof UnsupportedFormat;
}
