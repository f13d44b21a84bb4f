/** Walking a snapshot's tree: from the root through its branches to its pages. */
import { RepositoryDamaged, UnsupportedFormat } from "../domain/errors.ts";
import { type Branch, branchPages, type PageReference, readBranch } from "./branch.ts";
import type { Geometry } from "./domain-record.ts";
import { mapAhead } from "./in-flight.ts";
import { type BranchReference, pageCount, type Root } from "./manifest.ts";
import type { ObjectStore } from "./object-store.ts";

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

export function isDamage(error: unknown): boolean {
  return error instanceof RepositoryDamaged || error instanceof UnsupportedFormat;
}
