/** What a command reads and writes: the process's own streams, or those of a test. */
export interface Terminal {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Results. */
  out(text: string): void;
  /** Progress, hints and problems. */
  err(text: string): void;
  /** Whether stderr is a terminal that shows a progress bar. */
  readonly interactive: boolean;
  /** All of stdin as text, when it is not a terminal. */
  readInput(): Promise<string | undefined>;
  /** Calls back at Ctrl-C, until the returned function is called. */
  onInterrupt(callback: () => void): () => void;
}

/** The process's own. */
export function processTerminal(): Terminal {
  return {
    env: process.env,
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    interactive: process.stderr.isTTY === true,
    readInput: async () => {
      if (process.stdin.isTTY) return undefined;
      const chunks: Buffer[] = [];
      for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
      return Buffer.concat(chunks).toString("utf8");
    },
    onInterrupt: (callback) => {
      process.once("SIGINT", callback);
      return () => void process.off("SIGINT", callback);
    },
  };
}
