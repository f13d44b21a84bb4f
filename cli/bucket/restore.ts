/** `snapferry store restore`: a snapshot into a file, from a bucket and nothing else. */
import { CliError, exitCodes } from "../exit-codes.ts";
import { bytes, printable } from "../format.ts";
import type { Terminal } from "../terminal.ts";
import type { BucketFlags } from "./flags.ts";
import { requireDomain } from "./inspect.ts";
import { openBucket } from "./location.ts";
import { lostText } from "./lost-text.ts";
import { bucketProblem } from "./problems.ts";
import { type ReadSnapshot, readToFile, type Target } from "./read-to-file.ts";

export interface RestoreOptions extends BucketFlags {
  readonly json?: boolean;
  readonly domain?: string;
}

/** Throws CliError; after a salvage that lost something with a code of its own. */
export async function restoreFromBucket(
  snapshotId: string,
  target: Target,
  options: RestoreOptions,
  terminal: Terminal,
): Promise<void> {
  const bucket = await openBucket(options);
  try {
    const domain = await requireDomain(bucket, snapshotId, options.domain);
    report(await readToFile({ ...bucket, domain, snapshotId }, target, terminal), options, terminal);
  } catch (error) {
    throw bucketProblem(error);
  } finally {
    bucket.close();
  }
}

/** Prints what was written; what is missing of it is an error. */
export function report(read: ReadSnapshot, { json }: { json?: boolean }, terminal: Terminal): void {
  const { snapshotId, file, sizeBytes, lost, damageFile } = read;
  if (json) terminal.out(`${JSON.stringify(read, null, 2)}\n`);
  else
    terminal.out(
      `${printable(file)} holds ${snapshotId} (${bytes(sizeBytes)})${lost.length > 0 ? ", but for what is lost" : ""}.\n`,
    );
  if (lost.length === 0) return;
  const missing = lost.reduce((sum, { length }) => sum + length, 0);
  const lines = [`${bytes(missing)} are lost and zeros in the file; ${damageFile} lists them:`, ...lostText(lost)];
  throw new CliError(exitCodes.salvaged, lines.map(printable).join("\n"));
}
