/**
 * Holds a VM's file systems for a moment, and lets them go on every path: when the work is done or fails, when it takes too long, and when
 * the worker dies. For the last a note lies on the host before anything is held, with a process that lets go if the note is still there
 * after the longest time; {@link thawForgotten} does it where that could not.
 */
import { setTimeout as pause } from "node:timers/promises";
import { HypervisorFailed, QuiesceFailed } from "../../domain/errors.ts";
import { domainState } from "../../protocols/libvirt/flags.ts";
import type { Domain } from "../../protocols/libvirt/procedures.ts";
import type { KvmHost } from "./host.ts";
import { libvirtCode } from "./host-errors.ts";
import { askAgent } from "./quiesce-agent.ts";

/** From the command that holds to the one that lets go: what databases and Windows' shadow copies bear. */
const longestHoldMs = 10_000;
/** Of it the guest may take this long to write out what it has in memory. */
const freezeSeconds = 8;
const statusSeconds = 3;
const thawSeconds = 5;
const thawAttempts = 3;
/** Ten minutes at least; by then reconciliation has done it. */
const watchTries = 300;
/** The host lets go what a worker held after the longest time, and looks every 2 s whether it has to. */
const otherHoldMs = longestHoldMs + 5_000;
const otherHoldPollMs = 250;
/** A note that is older belongs to a worker that died. */
const forgottenAfterSeconds = 20;

export interface Held<T> {
  readonly result: T;
  /** Whether the file systems were held from the beginning of the work to its end. */
  readonly throughout: boolean;
}

/**
 * Throws QuiesceFailed before `work` begins when the guest cannot hold its file systems, what `work` throws, and HypervisorFailed when only the
 * guest does not let go. Whatever it throws, what is not let go then has its note.
 */
export async function whileHeld<T>(host: KvmHost, domain: Domain, work: () => Promise<T>): Promise<Held<T>> {
  await untilThawed(host, domain);
  const note = await leaveNote(host, domain);
  // From here on every path lets go.
  const deadline = Date.now() + longestHoldMs;
  let lettingGo: Promise<number> | undefined;
  const letGo = (): Promise<number> => {
    lettingGo ??= thaw(host, domain);
    return lettingGo;
  };
  const forget = () => host.run(["rm", "-f", note]);
  try {
    await freeze(host, domain);
    const timer = setTimeout(() => letGo().catch(() => {}), deadline - Date.now());
    const result = await work().finally(() => clearTimeout(timer));
    const inTime = lettingGo === undefined;
    // Who finds nothing to let go was too late: somebody else has done it.
    const throughout = (await letGo()) > 0 && inTime;
    await forget();
    return { result, throughout };
  } catch (error) {
    // The note stays if the guest does not let go, for the host itself: why it came to that is what the caller has to know.
    await letGo()
      .then(forget)
      .catch(() => {});
    throw error;
  }
}

/** Lets go what workers left held that died; returns the UUIDs of those VMs. A VM that does not answer keeps none of the others from it. */
export async function thawForgotten(host: KvmHost): Promise<string[]> {
  const folder = await notesFolder(host);
  const text =
    'cd "$1"; for f in *; do [ -e "$f" ] && [ $(($(date +%s) - $(stat -c %Y "$f"))) -gt "$2" ] && echo "$f"; done; true';
  const listed = await host.script("list-notes", text, [folder, `${forgottenAfterSeconds}`]);
  const notes = listed.split("\n").filter((line) => line !== "");
  const outcomes = await Promise.allSettled(notes.map((note) => thawNoted(host, folder, note)));
  for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
  return outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? outcome.value : []));
}

/** The note goes once its VM holds nothing any more. */
async function thawNoted(host: KvmHost, folder: string, note: string): Promise<string[]> {
  const [uuid = ""] = note.split(".");
  const wasHeld = await thawIfFrozen(host, uuid);
  await host.run(["rm", "-f", `${folder}/${note}`]);
  return wasHeld ? [uuid] : [];
}

/** False for a VM that has ended or is not frozen. */
async function thawIfFrozen(host: KvmHost, uuid: string): Promise<boolean> {
  try {
    const { domain } = await host.call("domainLookupByUuid", { uuid });
    if ((await askAgent(host, domain, "guest-fsfreeze-status", statusSeconds)) !== "frozen") return false;
    return (await thaw(host, domain)) > 0;
  } catch (error) {
    if (await hasEnded(host, uuid, error)) return false;
    throw error;
  }
}

/**
 * Whether an agent did not answer because its VM holds nothing any more. To libvirt no VM runs that is not running at the moment: one that was
 * paused, by somebody or by QEMU when there was no room left, goes on later, and as frozen as it was.
 */
async function hasEnded(host: KvmHost, uuid: string, error: unknown): Promise<boolean> {
  const code = libvirtCode(error);
  if (code === "NO_DOMAIN") return true;
  if (code !== "OPERATION_INVALID") return false;
  try {
    const { domain } = await host.call("domainLookupByUuid", { uuid });
    const { state } = await host.call("domainGetState", { domain, flags: 0 });
    return state === domainState.shutoff || state === domainState.crashed;
  } catch (failure) {
    if (libvirtCode(failure) === "NO_DOMAIN") return true;
    throw failure;
  }
}

/**
 * Waits for what another worker of ours holds, or held when its connection broke: the host lets that go. Throws QuiesceFailed for an agent
 * that does not answer, and for file systems that somebody else holds.
 */
async function untilThawed(host: KvmHost, domain: Domain): Promise<void> {
  const ask = () => asking(domain, () => askAgent(host, domain, "guest-fsfreeze-status", statusSeconds));
  for (const deadline = Date.now() + otherHoldMs; (await ask()) !== "thawed"; await pause(otherHoldPollMs)) {
    if (Date.now() < deadline && (await isNoted(host, domain))) continue;
    // Unless it was let go between the question and the look at the notes.
    const status = await ask();
    if (status !== "thawed")
      throw new QuiesceFailed(`The file systems of ${domain.name} are held already (${status}).`);
  }
}

async function freeze(host: KvmHost, domain: Domain): Promise<void> {
  const count = await asking(domain, () => askAgent(host, domain, "guest-fsfreeze-freeze", freezeSeconds));
  if (typeof count !== "number" || count === 0) {
    throw new QuiesceFailed(`The guest agent of ${domain.name} has no file system to hold.`);
  }
}

/** How many file systems were let go: none if they were not held. */
async function thaw(host: KvmHost, domain: Domain): Promise<number> {
  for (let attempt = 1; ; attempt++) {
    try {
      return Number(await askAgent(host, domain, "guest-fsfreeze-thaw", thawSeconds)) || 0;
    } catch (error) {
      if (await hasEnded(host, domain.uuid, error)) return 0;
      if (attempt < thawAttempts) continue;
      const words = error instanceof Error ? error.message : String(error);
      throw new HypervisorFailed(`The file systems of ${domain.name} were held and are not let go yet: ${words}`, {
        cause: error,
      });
    }
  }
}

/** An agent that does not do what it is asked for is the guest's business, a host that is out of reach is not. */
async function asking<T>(domain: Domain, ask: () => Promise<T>): Promise<T> {
  try {
    return await ask();
  } catch (error) {
    if (libvirtCode(error) === undefined) throw error;
    throw new QuiesceFailed(`The file systems of ${domain.name} cannot be held: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

async function isNoted(host: KvmHost, domain: Domain): Promise<boolean> {
  const text = 'for note in "$1".*; do [ ! -e "$note" ] || echo noted; done';
  return (await host.script("has-note", text, [`${await notesFolder(host)}/${domain.uuid}`])) !== "";
}

async function notesFolder(host: KvmHost): Promise<string> {
  const folder = `${await host.ownFolder()}/held`;
  await host.run(["mkdir", "-p", folder]);
  return folder;
}

/**
 * Writes the note and starts the process that looks at it after the longest time, and lets go for as long as it is there. Without virsh on
 * the host that process can do nothing, and the note is for {@link thawForgotten}.
 */
async function leaveNote(host: KvmHost, domain: Domain): Promise<string> {
  const note = `${await notesFolder(host)}/${domain.uuid}.${crypto.randomUUID()}`;
  const thawCommand = JSON.stringify({ execute: "guest-fsfreeze-thaw" });
  const thawing = ["virsh", "-q", "-c", host.uri, "qemu-agent-command", domain.uuid, thawCommand];
  const argv = [note, watch, `${longestHoldMs / 1000}`, `${watchTries}`, ...thawing];
  await host.script("leave-note", ': > "$1"; setsid -f sh -c "$2" watch "$@" </dev/null >/dev/null 2>&1', argv);
  return note;
}

/** `$1` the note, `$3` seconds to wait, `$4` times to try, then the command that lets go. */
const watch = `
note=$1; tries=$4
sleep "$3"
shift 4
while [ -e "$note" ] && [ "$tries" -gt 0 ]; do
  "$@" && rm -f "$note"
  tries=$((tries - 1))
  sleep 2
done
`;
