/** SSH has no list of arguments, only one text that the user's shell takes apart. */
import { SshArgumentInvalid } from "./errors.ts";

/**
 * A command line that a POSIX shell takes apart into exactly these arguments. Everything is quoted, so that nothing has to be known of
 * what shells find special.
 *
 * @throws SshArgumentInvalid
 */
export function commandLine(args: readonly string[]): string {
  if (args.length === 0) throw new SshArgumentInvalid("A command line needs a command.");
  return args.map(quoted).join(" ");
}

function quoted(argument: string): string {
  assertText(argument);
  return `'${argument.replaceAll("'", "'\\''")}'`;
}

/** Throws SshArgumentInvalid for what does not reach the other side as it is. */
export function assertText(text: string): void {
  if (text.includes("\0")) throw new SshArgumentInvalid("An argument has a NUL character.");
  if (!text.isWellFormed()) throw new SshArgumentInvalid("An argument is no well-formed text.");
}
