/** Walking a snapshot's tree: from the root through its branches to its pages. */
import { RepositoryDamaged, UnsupportedFormat } from "../domain/errors.ts";
import { type Branch, type PageReference, readBranch } from "./branch.ts";
import { mapAhead } from "./in-flight.ts";
import type { BranchReference, Root } from "./manifest.ts";
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

/** All pages of a snapshot, ascending by index. Throws RepositoryDamaged, or passes over what is damaged. */
export async function* pagesOf(
  source: { readonly store: ObjectStore; readonly domain: string },
  root: Root,
  options?: { readonly skipDamaged: boolean },
): AsyncGenerator<PageReference> {
  const read = (reference: BranchReference) =>
    branchOf(source, reference).catch((error: unknown) => {
      if (options?.skipDamaged && isDamage(error)) return undefined;
      throw error;
    });
  for await (const branch of mapAhead(root.branches, branchesAhead, read)) yield* branch?.pages ?? [];
}

function isDamage(error: unknown): boolean {
  return error instanceof RepositoryDamaged || error instanceof UnsupportedFormat;
}
