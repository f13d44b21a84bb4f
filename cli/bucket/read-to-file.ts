/** A snapshot into an image file, from the bucket: sparse, whole or not at all, or with `salvage` as much as there is. */
import { rm, writeFile } from "node:fs/promises";
import type { LostRange } from "../../lambdas/repository/damage.ts";
import type { DomainLocation } from "../../lambdas/repository/domain-record.ts";
import { readRoot } from "../../lambdas/repository/reader.ts";
import { bytesToRead, readOut } from "../../lambdas/repository/salvage.ts";
import { CliError, exitCodes } from "../exit-codes.ts";
import { showProgress } from "../progress.ts";
import type { Terminal } from "../terminal.ts";
import { OutputFile, refuseExisting } from "./output-file.ts";
import { bucketProblem } from "./problems.ts";
import { mostQcow2Bytes, Qcow2Image } from "./qcow2-image.ts";
import { RawImage } from "./raw-image.ts";

export const imageFormats = ["raw", "qcow2"] as const;
export type ImageFormat = (typeof imageFormats)[number];

export interface Target {
  readonly format: ImageFormat;
  readonly path: string;
  /** Whether a file that is there may be replaced. */
  readonly force: boolean;
  /** Whether to keep what is left of a damaged backup. */
  readonly salvage: boolean;
}

/** What a restore has come to, as `--json` shows it. */
export interface ReadSnapshot {
  readonly snapshotId: string;
  readonly domain: string;
  readonly file: string;
  readonly format: ImageFormat;
  /** Of the volume. */
  readonly sizeBytes: number;
  /** Zeros in the file. Only after a salvage. */
  readonly lost: readonly LostRange[];
  /** Where these are listed, too. */
  readonly damageFile?: string;
}

/**
 * Writes the file. Throws CliError: on damage without `salvage`, when it is interrupted, and whatever stands in the way. Nothing is left
 * then.
 */
export async function readToFile(
  source: DomainLocation & { readonly snapshotId: string },
  target: Target,
  terminal: Terminal,
): Promise<ReadSnapshot> {
  const { snapshotId, domain } = source;
  const { path, format, force, salvage } = target;
  const damageFile = `${path}.damage.json`;
  let ifDamaged: string | undefined;
  let interrupted = false;
  const stopListening = terminal.onInterrupt(() => {
    interrupted = true;
  });
  try {
    const root = await readRoot(source);
    if (format === "qcow2" && root.sizeBytes > mostQcow2Bytes)
      throw new CliError(exitCodes.failed, `--qcow2: ${snapshotId} is larger than a qcow2 file can be. Use --raw.`);
    const replacing = { flag: `--${format}`, force };
    if (salvage) await refuseExisting(damageFile, replacing);
    const output = await OutputFile.create(path, replacing);
    if (!salvage) ifDamaged = "Nothing was kept. --salvage keeps all the rest and lists what is lost.";
    const progress = showProgress(terminal, snapshotId, bytesToRead(root));
    let damageIsOurs = false;
    try {
      const Image = format === "raw" ? RawImage : Qcow2Image;
      const writer = new Image(output.handle, root.sizeBytes);
      const stopped = () => interrupted;
      const lost = await readOut(source, root, { writer, salvage, stopped, onProgress: progress.show });
      if (interrupted) throw new CliError(exitCodes.interrupted, `Interrupted: nothing was kept of ${path}.`);
      const result = { snapshotId, domain, file: path, format, sizeBytes: root.sizeBytes, lost };
      if (force) await rm(damageFile, { force: true });
      damageIsOurs = lost.length > 0;
      if (damageIsOurs) await writeFile(damageFile, `${JSON.stringify(result, null, 2)}\n`);
      await output.keep();
      return lost.length > 0 ? { ...result, damageFile } : result;
    } catch (error) {
      await output.discard();
      if (damageIsOurs) await rm(damageFile, { force: true });
      throw error;
    } finally {
      progress.stop();
    }
  } catch (error) {
    throw bucketProblem(error, { file: path, ...(ifDamaged === undefined ? {} : { ifDamaged }) });
  } finally {
    stopListening();
  }
}
