/** What goes wrong with a bucket, as the command line ends: a sentence and an exit code. */
import {
  EncryptionKeyUnavailable,
  RepositoryDamaged,
  SnapferryError,
  StoreRefused,
  StoreUnavailable,
  Throttled,
} from "../../lambdas/domain/errors.ts";
import { CliError, type ExitCode, exitCodes } from "../exit-codes.ts";
import { printable } from "../format.ts";

const codes: readonly (readonly [abstract new (...given: never[]) => Error, ExitCode])[] = [
  [RepositoryDamaged, exitCodes.damaged],
  [StoreUnavailable, exitCodes.unreachable],
  [Throttled, exitCodes.unreachable],
  [StoreRefused, exitCodes.notAllowed],
  [EncryptionKeyUnavailable, exitCodes.notAllowed],
];

/** What to try, after a sentence that does not say it itself. */
const waysOut: readonly (readonly [abstract new (...given: never[]) => Error, string])[] = [
  [StoreRefused, "Check --bucket and --region, and the credentials (--profile, or AWS_PROFILE, AWS_ACCESS_KEY_ID, …)."],
  [StoreUnavailable, "Check --endpoint and --region, then try again."],
  [
    EncryptionKeyUnavailable,
    "Use credentials that may call kms:Decrypt with the key of this repository: --kms-profile, --kms-key.",
  ],
];

/** Codes of the system that are about the file being written. */
const fileFaults: Readonly<Record<string, string>> = {
  ENOSPC: "there is no room left on its file system",
  EDQUOT: "the quota of its file system is used up",
  EFBIG: "its file system takes no files of this size",
  EIO: "its file system has failed",
};

export interface ProblemContext {
  /** What was being written. */
  readonly file?: string;
  /** What to try where a backup is damaged. */
  readonly ifDamaged?: string;
}

/** The error that ends a command which reads a bucket. */
export function bucketProblem(error: unknown, { file, ifDamaged }: ProblemContext = {}): unknown {
  if (error instanceof SnapferryError) {
    const code = codes.find(([kind]) => error instanceof kind)?.[1] ?? exitCodes.failed;
    const wayOut =
      error instanceof RepositoryDamaged ? ifDamaged : waysOut.find(([kind]) => error instanceof kind)?.[1];
    return new CliError(
      code,
      [sentence(printable(error.message)), wayOut].filter((text) => text !== undefined).join(" "),
    );
  }
  const fault = fileFaults[(error as NodeJS.ErrnoException | undefined)?.code ?? ""];
  if (file !== undefined && fault !== undefined)
    return new CliError(exitCodes.failed, `${file} cannot be written: ${fault}. Nothing was kept.`);
  return error;
}

function sentence(text: string): string {
  return text.endsWith(".") ? text : `${text}.`;
}
