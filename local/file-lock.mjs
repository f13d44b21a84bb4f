// Plain JavaScript: bootstrap.mjs needs it before any dependency and any newer Node is there.
import { randomUUID } from "node:crypto";
import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const POLL_MS = 200;

/**
 * When a process started, in clock ticks since boot: together with the pid it names one process for good.
 * @param {number} pid
 * @returns {string | undefined} undefined when there is no such process (or it is a zombie)
 */
export function processStartTime(pid) {
  let stat;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return undefined;
  }
  // The command stands in parentheses and may itself hold any character.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
}

/**
 * Holds a lock file while `work` runs. A lock whose holder is dead is taken over, so nothing has to be cleaned up after a crash.
 * @template T
 * @param {string} path
 * @param {() => Promise<T>} work
 * @param {(holderPid: number) => void} [onWait] called once when somebody else holds the lock
 * @returns {Promise<T>}
 */
export async function withFileLock(path, work, onWait) {
  mkdirSync(dirname(path), { recursive: true });
  const mine = JSON.stringify({ pid: process.pid, startTime: processStartTime(process.pid), id: randomUUID() });
  for (let waited = false; !tryCreate(path, mine); ) {
    const holder = readHolder(path);
    if (holder && !holder.alive) {
      breakStale(path, holder.text);
      continue;
    }
    if (holder && !waited) onWait?.(holder.pid);
    waited ||= holder !== undefined;
    await sleep(POLL_MS);
  }
  try {
    return await work();
  } finally {
    if (readHolder(path)?.text === mine) rmSync(path, { force: true });
  }
}

// A link appears with its content, so that no reader ever sees an empty lock.
function tryCreate(path, text) {
  const draft = `${path}.${randomUUID()}`;
  writeFileSync(draft, text);
  try {
    linkSync(draft, path);
    return true;
  } catch (error) {
    if (error.code === "EEXIST") return false;
    throw error;
  } finally {
    rmSync(draft, { force: true });
  }
}

function readHolder(path) {
  try {
    const text = readFileSync(path, "utf8");
    const { pid, startTime } = JSON.parse(text);
    return { text, pid, alive: processStartTime(pid) === startTime };
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    if (error instanceof SyntaxError) return { text: readFileSync(path, "utf8"), pid: 0, alive: false };
    throw error;
  }
}

// Two waiters may find the same dead holder: what is moved away is looked at again, and put back if it is a new one.
function breakStale(path, staleText) {
  const aside = `${path}.${randomUUID()}`;
  try {
    renameSync(path, aside);
  } catch {
    return;
  }
  try {
    if (readFileSync(aside, "utf8") !== staleText) linkSync(aside, path);
  } catch {
    // Somebody has taken the lock meanwhile: that one stands.
  } finally {
    rmSync(aside, { force: true });
  }
}
