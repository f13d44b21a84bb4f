/** How far a transfer is, on stderr: a bar on a terminal, a line now and then elsewhere. What is over soon says nothing. */
import { SingleBar } from "cli-progress";
import { bytes, percentage } from "./format.ts";
import type { Terminal } from "./terminal.ts";

/** What takes no longer than this needs no progress. */
const silentMilliseconds = 2_000;
/** Between two lines, where lines are printed. */
const lineMilliseconds = 10_000;

export interface Progress {
  show(bytesDone: number): void;
  /** Ends the bar. May be called more than once. */
  stop(): void;
}

export function showProgress(terminal: Terminal, label: string, bytesTotal: number): Progress {
  const startedAt = Date.now();
  const print = terminal.interactive ? bar(label, bytesTotal) : lines(terminal, label, bytesTotal);
  return {
    show: (bytesDone) => {
      if (Date.now() - startedAt > silentMilliseconds) print.show(Math.min(bytesDone, bytesTotal));
    },
    stop: print.stop,
  };
}

function bar(label: string, bytesTotal: number): Progress {
  const shown = new SingleBar({
    format: "{label}  {bar} {share}  {amount}",
    barsize: 20,
    barCompleteChar: "█",
    barIncompleteChar: "░",
    hideCursor: true,
    linewrap: false,
    gracefulExit: false,
    stream: process.stderr,
  });
  let running = false;
  return {
    show: (bytesDone) => {
      const share = percentage({ bytesDone, bytesTotal }).padStart(5);
      const words = { label, share, amount: amount(bytesDone, bytesTotal) };
      if (!running) shown.start(Math.max(1, bytesTotal), bytesDone, words);
      running = true;
      shown.update(bytesDone, words);
    },
    stop: () => {
      if (running) shown.stop();
      running = false;
    },
  };
}

function lines(terminal: Terminal, label: string, bytesTotal: number): Progress {
  let printedAt = 0;
  return {
    show: (bytesDone) => {
      const now = Date.now();
      if (now - printedAt < lineMilliseconds) return;
      printedAt = now;
      terminal.err(`${label}  ${percentage({ bytesDone, bytesTotal })}  ${amount(bytesDone, bytesTotal)}\n`);
    },
    stop: () => {},
  };
}

function amount(bytesDone: number, bytesTotal: number): string {
  return `${bytes(bytesDone)} of ${bytes(bytesTotal)}`;
}
