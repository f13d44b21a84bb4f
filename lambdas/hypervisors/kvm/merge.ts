/**
 * Deletes snapshots: what an overlay holds goes into the file below it, and the overlay goes. Each step is told by `merge-plan.ts` from
 * what is on the host, and may be repeated.
 */
import { dirname } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { HypervisorFailed, SnapshotInUse } from "../../domain/errors.ts";
import { blockCommit, blockJobAbort, domainXml } from "../../protocols/libvirt/flags.ts";
import { DomainXml } from "./domain-xml.ts";
import type { KvmHost } from "./host.ts";
import { commandError, libvirtCode } from "./host-errors.ts";
import { isEmptyOverlay } from "./image-emptiness.ts";
import { imageFiles } from "./image-files.ts";
import { MergeFiles } from "./merge-files.ts";
import { type DiskUse, type MergedImage, type MergeStep, nextStep, type RunningUse } from "./merge-plan.ts";
import { mergeState, type OpenExport } from "./merge-state.ts";
import { overlayOf, parseOverlayPath } from "./overlay-path.ts";
import { forgetConsistency } from "./take-notes.ts";
import { requirePresence } from "./volume-presence.ts";

export interface MergeOptions {
  /** Exports that are open on the host. */
  readonly exports: () => Promise<readonly OpenExport[]>;
  /** Of `Date.now()`: when to return although the host still works. Default: never. */
  readonly until?: number;
  /** What a merge may write in a second. Default: as much as goes. */
  readonly bytesPerSecond?: number;
}

/** Times for the same step in a row before it is called a failure; a VM that starts or stops meanwhile makes one fail. */
const maxRepetitions = 5;
/** A merge takes about six. */
const maxSteps = 40;
const firstPollMs = 50;
const longestPollMs = 2_000;
/** Between two steps of which the first failed because something had changed. */
const settleMs = 250;

/** Of a VM that was started or stopped, or left the overlay, after it was looked at. */
const passingCodes: ReadonlySet<string> = new Set([
  "OPERATION_INVALID",
  "NO_DOMAIN",
  "CONFIG_UNSUPPORTED",
  "INVALID_ARG",
]);
/** As libvirt words it when the VM's QEMU ends while it is asked something. */
const monitorLost = /(?:read from|write to|from qemu|closed the) monitor|domain is (?:not|no longer) running/i;
/** As QEMU words it. */
const lockRefused = /Failed to get (?:shared )?"[a-z ]+" lock|Is another process using the image/;

/**
 * Merges the overlay at `installPath` into the file below it and removes it. Gone is success. With `finished: false` the host works on by
 * itself; the next call goes on from there, as it does after a worker's death at any point.
 *
 * @throws SnapshotInUse while an export or another program uses the files
 * @throws ChainChanged when the files are not what the names say, or are used by others too; nothing is touched then
 * @throws PathOutsideDirectory, PrimaryStorageFull, HypervisorFailed, HypervisorUnavailable, HypervisorMisconfigured
 */
export async function mergeSnapshot(
  host: KvmHost,
  installPath: string,
  options: MergeOptions,
): Promise<{ finished: boolean }> {
  const merge = new Merge(host, new MergeFiles(installPath), options);
  const finished = await merge.run();
  if (finished) await forgetConsistency(host, overlayOf(installPath).snapshotId);
  return { finished };
}

/** Merges all snapshots of a volume, the oldest first: each byte is copied once for each snapshot that changed it. Throws as {@link mergeSnapshot}. */
export async function mergeAll(
  host: KvmHost,
  externalId: string,
  options: MergeOptions,
): Promise<{ finished: boolean }> {
  for (const installPath of await overlaysOf(host, externalId)) {
    const { finished } = await mergeSnapshot(host, installPath, options);
    if (!finished) return { finished };
  }
  return { finished: true };
}

/** The overlays of a volume, the lowest first; then those that stand on something else. */
async function overlaysOf(host: KvmHost, externalId: string): Promise<string[]> {
  const images = await imageFiles(host, dirname(externalId));
  if (!images.has(externalId)) await requirePresence(host, externalId);
  const left = [...images.values()].filter(({ path }) => parseOverlayPath(path)?.volume === externalId);
  const ordered: string[] = [];
  const levels = new Set([externalId]);
  for (let level = [externalId]; level.length > 0; ) {
    level = left.flatMap(({ path, below }) => (below && level.includes(below.path) && !levels.has(path) ? [path] : []));
    for (const path of level) levels.add(path);
    ordered.push(...level);
  }
  return [...ordered, ...left.map(({ path }) => path).filter((path) => !levels.has(path))];
}

class Merge {
  readonly #host: KvmHost;
  readonly #files: MergeFiles;
  readonly #options: MergeOptions;

  constructor(host: KvmHost, files: MergeFiles, options: MergeOptions) {
    this.#host = host;
    this.#files = files;
    this.#options = options;
  }

  /** Whether it is finished. */
  async run(): Promise<boolean> {
    let before: string | undefined;
    let repetitions = 0;
    for (let steps = 0; steps < maxSteps; steps++) {
      const { step, base } = await this.#look();
      if (step.kind === "done") return true;
      if (step.kind === "refuse") throw step.error;
      repetitions = step.kind === before ? repetitions + 1 : 0;
      before = step.kind;
      if (repetitions >= maxRepetitions) break;
      try {
        if (!(await this.#take(step, base))) return false;
      } catch (error) {
        if (repetitions + 1 >= maxRepetitions || !isPassing(error)) throw inWords(error, this.#files.overlay);
        await pause(settleMs);
      }
    }
    throw new HypervisorFailed(`${this.#files.overlay} cannot be merged: "${before}" has no effect on the host.`);
  }

  async #look(): Promise<{ step: MergeStep; base: MergedImage | undefined }> {
    for (let attempt = 0; ; attempt++) {
      try {
        const state = await mergeState(this.#host, this.#files, await this.#options.exports());
        return { step: nextStep(state), base: state.overlay?.base };
      } catch (error) {
        // A VM that stopped, or a file that another worker removed, between two looks at it.
        if (attempt >= maxRepetitions || !(error instanceof HypervisorFailed)) throw error;
        await pause(settleMs);
      }
    }
  }

  /** Whether there is something to do behind it; false: the time is up while the host works on. */
  async #take(step: MergeStep, base: MergedImage | undefined): Promise<boolean> {
    switch (step.kind) {
      case "commit-running":
      case "commit-active":
        await this.#commitRunning(step.use, base!.path, step.kind === "commit-active");
        return this.#jobEnded(step.use);
      case "wait-running":
        return this.#jobEnded(step.use);
      case "pivot":
        await this.#pivot(step.use);
        return true;
      case "commit-stopped":
        await this.#commitStopped();
        return this.#commandEnded();
      case "wait-stopped":
        return this.#commandEnded();
      case "rebase":
        await this.#rebase(step.child, base!);
        return true;
      case "redefine":
        await this.#redefine(step.use, base!);
        return true;
      case "forget-note":
        await this.#host.run(["rm", "-f", "--", ...this.#files.small]);
        return true;
      case "remove":
        await this.#remove();
        return true;
      case "done":
      case "refuse":
        return true;
    }
  }

  /** The VM's own QEMU does it, while the guest goes on. */
  async #commitRunning({ vm, target }: RunningUse, base: string, active: boolean): Promise<void> {
    if (!active) await this.#leaveNote();
    const rate = this.#options.bytesPerSecond;
    const { domain } = await this.#host.call("domainLookupByUuid", { uuid: vm.uuid });
    await this.#host.call("domainBlockCommit", {
      domain,
      disk: target,
      base,
      top: this.#files.overlay,
      bandwidth: rate ?? 0,
      flags: (active ? blockCommit.active : 0) | (rate === undefined ? 0 : blockCommit.bandwidthBytes),
    });
  }

  /** Lets the VM go on with the base, which has all bytes by now. */
  async #pivot({ vm, target }: RunningUse): Promise<void> {
    await this.#leaveNote();
    const { domain } = await this.#host.call("domainLookupByUuid", { uuid: vm.uuid });
    await this.#host.call("domainBlockJobAbort", { domain, disk: target, flags: blockJobAbort.pivot });
  }

  async #leaveNote(): Promise<void> {
    await this.#host.run(["touch", "--", this.#files.note]);
    await this.#host.run(["sync", "--", this.#files.note]);
  }

  /** Waits for libvirt's job to end, or to be ready to be ended. */
  #jobEnded({ vm, target }: RunningUse): Promise<boolean> {
    return this.#poll(async () => {
      const { domain } = await this.#host.call("domainLookupByUuid", { uuid: vm.uuid });
      const { found } = await this.#host.call("domainGetBlockJobInfo", { domain, disk: target, flags: 0 });
      if (found === 0) return true;
      const { xml } = await this.#host.call("domainGetXml", { domain, flags: 0 });
      return new DomainXml(xml).disk(target)?.mirror?.ready === true;
    });
  }

  async #commitStopped(): Promise<void> {
    const rate = this.#options.bytesPerSecond;
    const limit = rate === undefined ? [] : ["-r", `${rate}`];
    await this.#files
      .command(this.#host)
      .start(["qemu-img", "commit", "-q", ...limit, "-f", "qcow2", this.#files.overlay]);
  }

  /** What it wrote is why it failed; one that was ended so that the VM can start wrote nothing. */
  async #commandEnded(): Promise<boolean> {
    const command = this.#files.command(this.#host);
    if (!(await this.#poll(async () => !(await command.isRunning())))) return false;
    const stderr = await command.output();
    if (stderr !== "") throw commandError("qemu-img commit", { code: 1, signal: undefined, stdout: "", stderr });
    return true;
  }

  /** Writes into the child what it stands on, as the base shows the same bytes now. */
  async #rebase(child: string, { path, format }: MergedImage): Promise<void> {
    await this.#host.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", format, "-b", path, child]);
  }

  /**
   * Lets the VM use the base after its next start; or, where the overlay lies deeper, look anew at what lies below its disk. libvirt does
   * this only while the VM does not run. For a VM that ran in between, so that the overlay is not empty any more, it is taken back.
   */
  async #redefine({ vm, target, file, chain }: DiskUse, base: MergedImage): Promise<void> {
    const { domain } = await this.#host.call("domainLookupByUuid", { uuid: vm.uuid });
    const flags = domainXml.inactive | domainXml.secure;
    const definition = new DomainXml((await this.#host.call("domainGetXml", { domain, flags })).xml);
    // A snapshot that was taken meanwhile has put a file of its own on top: that is to be looked at first.
    if (definition.disk(target)?.file !== file) return;
    const before = definition.diskXml(target);
    if (chain[0] === this.#files.overlay) definition.setDiskFile(target, base.path, base.format);
    else definition.forgetBacking(target);
    await this.#host.call("domainUpdateDevice", { domain, xml: definition.diskXml(target), flags: 0 });
    if (!(await isEmptyOverlay(this.#host, this.#files.overlay))) {
      await this.#host.call("domainUpdateDevice", { domain, xml: before, flags: 0 });
    }
  }

  async #remove(): Promise<void> {
    // In this order: the note goes after what it is about.
    await this.#host.run(["rm", "-f", "--", this.#files.overlay, ...this.#files.small]);
  }

  /** Polls until `ended`, or until the time is up. */
  async #poll(ended: () => Promise<boolean>): Promise<boolean> {
    for (let wait = firstPollMs; !(await ended()); wait = Math.min(2 * wait, longestPollMs)) {
      const left = (this.#options.until ?? Number.POSITIVE_INFINITY) - Date.now();
      if (left <= 0) return false;
      await pause(Math.min(wait, left));
    }
    return true;
  }
}

/** Whether another look at the host may tell another way: something started, stopped or locked a file in between. */
function isPassing(error: unknown): boolean {
  const code = libvirtCode(error);
  if (code !== undefined && passingCodes.has(code)) return true;
  return error instanceof Error && (lockRefused.test(error.message) || monitorLost.test(error.message));
}

function inWords(error: unknown, overlay: string): unknown {
  if (!(error instanceof Error && lockRefused.test(error.message))) return error;
  return new SnapshotInUse(`${overlay} is not merged yet: another program of the host uses its files.`, {
    cause: error,
  });
}
