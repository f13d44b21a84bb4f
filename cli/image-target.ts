/** Which file a snapshot is written to, as flags of a command. */
import type { Command } from "commander";
import type { Target } from "./bucket/read-to-file.ts";
import { CliError, exitCodes } from "./exit-codes.ts";

export interface TargetFlags {
  readonly raw?: string;
  readonly qcow2?: string;
  readonly force?: boolean;
  readonly salvage?: boolean;
}

export function withTargetFlags(to: Command): Command {
  return to
    .option("--raw <file>", "write a raw image; zeros take no room in it")
    .option("--qcow2 <file>", "write a qcow2 image")
    .option("--force", "replace the file if it is there")
    .option(
      "--salvage",
      "keep what is left of a damaged backup: what is lost is zeros, and listed in FILE.damage.json",
    );
}

/** Throws a usage error unless exactly one file is named. */
export function targetOf({ raw, qcow2, force, salvage }: TargetFlags): Target {
  const named = [
    ...(raw === undefined ? [] : [{ format: "raw" as const, path: raw }]),
    ...(qcow2 === undefined ? [] : [{ format: "qcow2" as const, path: qcow2 }]),
  ];
  const [target] = named;
  if (!target || named.length > 1 || target.path === "")
    throw new CliError(exitCodes.usage, "Give the file to write: either --raw FILE or --qcow2 FILE.");
  return { ...target, force: force ?? false, salvage: salvage ?? false };
}
