/** One command to be measured, and what it used. Plain JSON: it travels between processes. */
export interface Command {
  readonly file: string;
  readonly arguments: readonly string[];
  /** The whole environment of the command. */
  readonly environment: NodeJS.ProcessEnv;
  readonly directory: string;
}

export interface Usage {
  readonly exitCode: number;
  readonly signal: NodeJS.Signals | undefined;
  readonly wallSeconds: number;
  readonly userSeconds: number;
  readonly systemSeconds: number;
  /** Largest resident set of any one process of the command. Not below that of the process that started it, about 50 MiB. */
  readonly peakBytes: number;
}

/** A command in Bash: every part of a pipe must succeed. */
export function shell(script: string, rest: Pick<Command, "environment" | "directory">): Command {
  return { file: "bash", arguments: ["-euo", "pipefail", "-c", script], ...rest };
}

/** `text` as one word of a shell. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
