/**
 * A program of the host that works on when the connection ends, as a merge of a stopped VM may take hours. Whether it still runs is told by
 * a lock that the kernel takes away with the process: it survives no crash and no restart of the host.
 */
import { HypervisorFailed } from "../../domain/errors.ts";
import type { KvmHost } from "./host.ts";

/**
 * Arguments: files for the lock, for the process id and for the output, then the program. The lock is taken before this ends, so that
 * whoever looks next finds it held, and is handed down to the program.
 */
const startScript = `
exec 9>>"$1"
flock --nonblock 9 || exit 0
note=$2; output=$3; shift 3
setsid --fork sh -c 'echo "$$" >"$0"; exec "$@"' "$note" "$@" >"$output" 2>&1 </dev/null
`;
/** Arguments: the file of the process id, and a text that the program's arguments have: ids of processes are used again. */
const stopScript = 'pid=$(cat "$0") && grep -qF -- "$1" "/proc/$pid/cmdline" && kill "$pid"';

/** Of `sysexits.h`: the lock is held. */
const lockedCode = 75;
/** Arguments: the file of the lock, and how long to wait for it. One that is not there is not made: somebody has tidied up. */
const tryLockScript = `[ -e "$0" ] || exit 0; exec 9<"$0"; flock "$1" --conflict-exit-code ${lockedCode} 9`;
/** For a program that was told to end. */
const endSeconds = 20;
/** The end of what it wrote is what went wrong. */
const maxLogBytes = 4_000;

/** Paths of the files of a {@link DetachedCommand}, to be removed when the work is done: lock, process id, output. */
export function commandFiles(prefix: string): readonly [string, string, string] {
  return [`${prefix}.lock`, `${prefix}.pid`, `${prefix}.log`];
}

export class DetachedCommand {
  readonly #host: KvmHost;
  readonly #lock: string;
  readonly #processId: string;
  readonly #log: string;

  /** `prefix`: path of its three small files, up to their endings. Who uses the same prefix means the same work. */
  constructor(host: KvmHost, prefix: string) {
    this.#host = host;
    const [lock, processId, log] = commandFiles(prefix);
    this.#lock = lock;
    this.#processId = processId;
    this.#log = log;
  }

  /** Starts it and returns at once. Does nothing while one runs. */
  async start(argv: readonly string[]): Promise<void> {
    await this.#host.script("setsid", startScript, [this.#lock, this.#processId, this.#log, ...argv]);
  }

  async isRunning(): Promise<boolean> {
    const { code } = await this.#tryLock("--nonblock");
    return code === lockedCode;
  }

  /** Waits for its end for at most so long; tells whether it has ended. */
  async ended(seconds: number): Promise<boolean> {
    const { code } = await this.#tryLock(`--timeout=${seconds}`);
    return code !== lockedCode;
  }

  /** The end of what it wrote. */
  async output(): Promise<string> {
    const { stdout } = await this.#host.exec(["tail", "-c", `${maxLogBytes}`, this.#log]);
    return stdout.trim();
  }

  /** Ends it, if it runs. `argument`: one that it was started with. Throws HypervisorFailed when it does not end. */
  async stop(argument: string): Promise<void> {
    if (!(await this.isRunning())) return;
    await this.#host.exec(["sh", "-c", stopScript, this.#processId, argument]);
    if (!(await this.ended(endSeconds)))
      throw new HypervisorFailed(`A program that works on ${argument} does not end.`);
  }

  #tryLock(patience: string) {
    return this.#host.exec(["sh", "-c", tryLockScript, this.#lock, patience]);
  }
}
