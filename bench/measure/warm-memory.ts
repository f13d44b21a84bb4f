/** The machine's memory before a measurement. */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { withFile } from "../volume/files.ts";

const piece = Buffer.alloc(4 * 1024 * 1024);

/**
 * Takes so many bytes of a tmpfs and lets them go, so that what is measured next finds memory that the machine has at hand. A virtual machine gives
 * memory that is free back to its host and waits several times longer for each page that it takes again: for seconds of a restore, which then
 * depend on what ran before.
 */
export async function warmMemory(directory: string, bytes: number): Promise<void> {
  const path = join(directory, "warm");
  try {
    await withFile(path, "w", async (file) => {
      for (let at = 0; at < bytes; at += piece.length) await file.write(piece);
    });
  } finally {
    rmSync(path, { force: true });
  }
}
