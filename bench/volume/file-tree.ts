/** Real files for the volume: whole folders of a directory, chosen by the seed until they take the room that is wanted. */
import { copyFileSync, lstatSync, mkdirSync, readdirSync, utimesSync } from "node:fs";
import { join, relative } from "node:path";
import type { SeededBytes } from "./seeded-bytes.ts";

/** ext4 gives room in blocks of this size. */
const blockBytes = 4096;

export interface Folder {
  readonly path: string;
  readonly files: readonly string[];
  /** Room that its files take in a file system. */
  readonly bytes: number;
}

export interface FileSelection {
  readonly chosen: readonly Folder[];
  /** What was left: new data for the volume's next version. */
  readonly spare: readonly Folder[];
}

export function selectFolders(source: string, budgetBytes: number, random: SeededBytes): FileSelection {
  const chosen: Folder[] = [];
  const spare: Folder[] = [];
  let left = budgetBytes;
  for (const folder of random.shuffle([...foldersBelow(source)])) {
    // One folder with a quarter of everything would make the mix of files depend on that one draw.
    if (folder.bytes > Math.min(left, budgetBytes / 4)) spare.push(folder);
    else {
      chosen.push(folder);
      left -= folder.bytes;
    }
  }
  return { chosen, spare };
}

function* foldersBelow(path: string): Generator<Folder> {
  const entries = readable(() => readdirSync(path, { withFileTypes: true })) ?? [];
  entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(path, entry.name));
  const bytes = files.reduce((sum, file) => sum + Math.ceil((lstatSync(file).size || 1) / blockBytes) * blockBytes, 0);
  if (files.length > 0) yield { path, files, bytes };
  for (const entry of entries) if (entry.isDirectory()) yield* foldersBelow(join(path, entry.name));
}

/** Copies the folders below `target`, with the files' times: they are part of the file system's bytes. */
export function copyFolders(folders: readonly Folder[], source: string, target: string): void {
  for (const folder of folders) {
    for (const file of folder.files) {
      const copy = join(target, relative(source, file));
      mkdirSync(join(target, relative(source, folder.path)), { recursive: true });
      readable(() => {
        copyFileSync(file, copy);
        const { mtime } = lstatSync(file);
        utimesSync(copy, mtime, mtime);
      });
    }
  }
}

/** Undefined for what this user may not read, or is gone. */
function readable<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch (error) {
    if (["EACCES", "EPERM", "ENOENT"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw error;
  }
}
