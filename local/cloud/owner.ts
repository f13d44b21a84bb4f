import { identify, isAlive } from "./process.ts";

const EXIT_CODE_OF_SIGNAL = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;
type EndingSignal = keyof typeof EXIT_CODE_OF_SIGNAL;
const PARENT_POLL_MS = 1_000;

const endings = new Set<() => Promise<void>>();
let stopListening = () => {};

/**
 * Has something done before this process ends by a signal, or because bootstrap.mjs, which started it, is gone.
 * What ends it otherwise, SIGKILL among them, LocalStack sees by its lifeline.
 *
 * @returns takes it back
 */
export function onEndOfThisProcess(ending: () => Promise<void>): () => void {
  if (endings.size === 0) stopListening = listen();
  endings.add(ending);
  return () => {
    if (endings.delete(ending) && endings.size === 0) stopListening();
  };
}

function listen(): () => void {
  let ending = false;
  const end = (signal: EndingSignal) => {
    // Somebody who asks twice does not want to wait.
    if (ending) process.exit(EXIT_CODE_OF_SIGNAL[signal]);
    ending = true;
    void Promise.allSettled([...endings].map((work) => work())).then(() => process.exit(EXIT_CODE_OF_SIGNAL[signal]));
  };
  const signals = Object.keys(EXIT_CODE_OF_SIGNAL) as EndingSignal[];
  for (const signal of signals) process.on(signal, end);
  const watch = watchBootstrap(() => end("SIGHUP"));
  return () => {
    clearInterval(watch);
    for (const signal of signals) process.off(signal, end);
  };
}

function watchBootstrap(gone: () => void): NodeJS.Timeout | undefined {
  const pid = Number(process.env.SNAPFERRY_BOOTSTRAP_PID);
  // Only a direct parent: the variable is handed down further than that.
  const parent = pid === process.ppid ? identify(pid) : undefined;
  if (!parent) return undefined;
  const watch = setInterval(() => {
    if (isAlive(parent)) return;
    clearInterval(watch);
    gone();
  }, PARENT_POLL_MS);
  return watch.unref();
}
