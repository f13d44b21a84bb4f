/** A folder of a file system that is not mounted. */
import { mkdirSync, renameSync, rmdirSync } from "node:fs";

/** Does something twice: while the folder is not there, and while an empty one is in its place, as where a file system would be mounted. */
export async function whileAway(folder: string, act: () => Promise<void>): Promise<void> {
  const mounted = `${folder}.mounted`;
  renameSync(folder, mounted);
  try {
    await act();
    mkdirSync(folder);
    await act();
    rmdirSync(folder);
  } finally {
    renameSync(mounted, folder);
  }
}
