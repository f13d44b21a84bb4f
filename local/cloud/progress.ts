import type { WriteStream } from "node:tty";

/** Told what a start is doing. Times are in milliseconds. */
export interface ProgressListener {
  /** A step begins. */
  started(title: string): void;
  /** The step is done; `detail` replaces the title where it tells more. */
  done(title: string, elapsedMs: number, detail?: string): void;
  /** The step failed; its error is thrown to the caller. */
  failed(title: string, elapsedMs: number): void;
  /** Something to know besides the steps, e.g. what is being waited for. */
  note(text: string): void;
}

/** Says nothing. */
export const silentProgress: ProgressListener = { started() {}, done() {}, failed() {}, note() {} };

/** What a step needs to run longer than to be worth a line. */
const WORTH_A_LINE_MS = 2_000;
const SPIN_MS = 100;
const FRAMES = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/**
 * Prints `✔` lines with seconds. On a terminal a line with a running clock stands for the step under way; elsewhere a
 * plain line says what is being done once it has taken two seconds.
 */
export function consoleProgress(stream: NodeJS.WriteStream | WriteStream = process.stderr): ProgressListener {
  const live = stream.isTTY === true;
  let timer: NodeJS.Timeout | undefined;

  const stop = () => {
    clearTimeout(timer);
    clearInterval(timer);
    timer = undefined;
    if (live) stream.write("\r\x1b[K");
  };
  const finished = (mark: string, title: string, elapsedMs: number, always: boolean) => {
    stop();
    if (always || elapsedMs >= WORTH_A_LINE_MS) stream.write(`  ${mark} ${title.padEnd(44)} ${seconds(elapsedMs)}\n`);
  };
  return {
    started(title) {
      const since = Date.now();
      timer = live
        ? setInterval(() => {
            const elapsed = Date.now() - since;
            const frame = FRAMES[Math.floor(elapsed / SPIN_MS) % FRAMES.length];
            if (elapsed > WORTH_A_LINE_MS) stream.write(`\r\x1b[K  ${frame} ${title.padEnd(44)} ${seconds(elapsed)}`);
          }, SPIN_MS)
        : setTimeout(() => stream.write(`  … ${title}\n`), WORTH_A_LINE_MS);
      timer.unref();
    },
    done: (title, elapsedMs, detail) => finished("✔", detail ?? title, elapsedMs, detail !== undefined),
    failed: (title, elapsedMs) => finished("✘", title, elapsedMs, true),
    note(text) {
      if (live) stream.write("\r\x1b[K");
      stream.write(`  ${text}\n`);
    },
  };
}

/**
 * Runs one step and tells the listener.
 *
 * @param describe text for the finished step; a step without one is only reported when it took more than two seconds
 */
export async function step<T>(
  progress: ProgressListener,
  title: string,
  work: () => Promise<T>,
  describe?: (result: T) => string,
): Promise<T> {
  const started = performance.now();
  progress.started(title);
  try {
    const result = await work();
    progress.done(title, performance.now() - started, describe?.(result));
    return result;
  } catch (error) {
    progress.failed(title, performance.now() - started);
    throw error;
  }
}

function seconds(milliseconds: number): string {
  const value = milliseconds / 1000;
  return `${value < 10 ? value.toFixed(1) : value.toFixed(0)} s`;
}
