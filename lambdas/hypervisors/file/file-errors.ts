/** What the file system says, in the words of `domain/errors.ts`. */
import {
  HypervisorMisconfigured,
  HypervisorUnavailable,
  PathOutsideDirectory,
  PrimaryStorageFull,
  SnapferryError,
} from "../../domain/errors.ts";

export function hasCode(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof Error && "code" in error && codes.includes(String(error.code));
}

/** The error to throw for one that came up with the file or directory at `path`. */
export function fileError(error: unknown, path: string): Error {
  if (error instanceof SnapferryError) return error;
  const options = { cause: error };
  if (hasCode(error, "ENOSPC", "EDQUOT")) return new PrimaryStorageFull(`There is no room left for ${path}.`, options);
  if (hasCode(error, "EFBIG"))
    return new PrimaryStorageFull(`The file system has no files as large as ${path}.`, options);
  if (hasCode(error, "ELOOP")) return new PathOutsideDirectory(`${path} is a symbolic link.`, options);
  if (hasCode(error, "EACCES", "EPERM", "EROFS")) {
    return new HypervisorMisconfigured(`Snapferry has no right to use ${path}.`, options);
  }
  if (hasCode(error, "EIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EMFILE", "ENFILE", "EHOSTDOWN", "ENOENT", "ENOTDIR")) {
    return new HypervisorUnavailable(`${path} cannot be used now: ${messageOf(error)}.`, options);
  }
  return error instanceof Error ? error : new Error(String(error));
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Runs `work`; what it throws comes out as {@link fileError}. */
export async function onFile<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw fileError(error, path);
  }
}
