/**
 * When a process started, in clock ticks since boot: together with the pid it names one process for good.
 *
 * @returns undefined when there is no such process (or it is a zombie)
 */
export function processStartTime(pid: number): string | undefined;

/**
 * Holds a lock file while `work` runs. A lock whose holder is dead is taken over.
 *
 * @param onWait called once when somebody else holds the lock
 */
export function withFileLock<T>(path: string, work: () => Promise<T>, onWait?: (holderPid: number) => void): Promise<T>;
