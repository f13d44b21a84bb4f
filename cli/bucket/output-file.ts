/** A file that appears whole or not at all: its bytes go to FILE.part, which takes the name in the end. */
import { type FileHandle, open, rename, rm, stat } from "node:fs/promises";
import { CliError, exitCodes } from "../exit-codes.ts";

export interface OutputFileOptions {
  /** The option that names the file, for messages. */
  readonly flag: string;
  /** Whether a file that is there may be replaced. */
  readonly force: boolean;
}

export class OutputFile {
  readonly path: string;
  readonly handle: FileHandle;
  readonly #options: OutputFileOptions;

  private constructor(path: string, handle: FileHandle, options: OutputFileOptions) {
    this.path = path;
    this.handle = handle;
    this.#options = options;
  }

  /** Throws CliError with the way out when the file is there, or cannot be made. */
  static async create(path: string, options: OutputFileOptions): Promise<OutputFile> {
    const part = partOf(path);
    await refuseExisting(path, options);
    try {
      return new OutputFile(path, await open(part, options.force ? "w+" : "wx+"), options);
    } catch (error) {
      if (isCode(error, "EEXIST"))
        throw failure(
          `${options.flag}: ${part} is there: another run is writing it, or was killed. Remove it, or add --force.`,
        );
      throw failure(`${options.flag}: ${part} cannot be made: ${(error as Error).message}`);
    }
  }

  /** The bytes are on the disk, then the file has its name. */
  async keep(): Promise<void> {
    await this.handle.sync();
    await this.handle.close();
    await refuseExisting(this.path, this.#options);
    await rename(partOf(this.path), this.path);
  }

  /** Nothing is left. May follow whatever has failed. */
  async discard(): Promise<void> {
    await this.handle.close().catch(() => undefined);
    await rm(partOf(this.path), { force: true });
  }
}

function partOf(path: string): string {
  return `${path}.part`;
}

/** Throws CliError with the way out when something is there that may not be replaced: a device or a directory never is. */
export async function refuseExisting(path: string, { flag, force }: OutputFileOptions): Promise<void> {
  const found = await stat(path).catch((error: unknown) => {
    if (isCode(error, "ENOENT")) return undefined;
    throw failure(`${flag}: ${(error as Error).message}`);
  });
  if (found && !found.isFile()) throw failure(`${flag}: ${path} is there and is no plain file. Give another name.`);
  if (found && !force)
    throw failure(`${flag}: ${path} is there already. Give another name, or add --force to replace it.`);
}

function isCode(error: unknown, code: string): boolean {
  return (error as NodeJS.ErrnoException).code === code;
}

function failure(message: string): CliError {
  return new CliError(exitCodes.failed, message);
}
