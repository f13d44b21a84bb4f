/**
 * What a merge does next, told from what is on the host. Nothing but the host's own files and definitions is remembered, so whoever comes
 * later, after a worker's death at any point, goes on from there. Pure.
 *
 * The overlay of a snapshot is merged into the file below it (its base), whoever stood on the overlay stands on the base afterwards, and
 * the overlay is removed last. Two things make it safe to remove it:
 *
 * - A merge of a stopped VM empties the overlay. An overlay that nobody uses and that holds nothing can go.
 * - A merge of a running VM does not. Before its last step a note is left beside the overlay. An overlay that nobody uses can go if there is
 *   a note and somebody uses its base.
 */
import { ChainChanged, HypervisorFailed, type SnapferryError, SnapshotInUse } from "../../domain/errors.ts";
import { overlayOf, parseOverlayPath } from "./overlay-path.ts";

export interface MergedImage {
  readonly path: string;
  readonly format: string;
  /** Of the volume that it shows. */
  readonly sizeBytes: number;
}

export interface VmReference {
  readonly uuid: string;
  readonly name: string;
}

/** A disk whose chain has the overlay in it. Paths of the chain are from the top down. */
export interface DiskUse {
  readonly vm: VmReference;
  readonly target: string;
  /** The topmost file as libvirt has it; in the chain it may go by another name. */
  readonly file: string;
  readonly chain: readonly string[];
}

export interface RunningUse extends DiskUse {
  readonly job: DiskJob | undefined;
}

/** What libvirt does to a disk. */
export interface DiskJob {
  /** `active-commit` merges the top of the chain and has to be ended; `commit` merges a lower file and ends by itself. */
  readonly kind: "commit" | "active-commit" | "other";
  /** Which file it writes, where libvirt tells. */
  readonly into: string | undefined;
  readonly ready: boolean;
}

export interface DefinedUse extends DiskUse {
  /** Whether the VM was stopped with its memory saved, and goes on with these files. */
  readonly saved: boolean;
}

export interface MergeState {
  /** Of the overlay. */
  readonly installPath: string;
  /** Undefined when there is no such file. */
  readonly overlay:
    | {
        readonly sizeBytes: number;
        /** Whether it holds no change of its own. */
        readonly empty: boolean;
        readonly base: MergedImage | undefined;
      }
    | undefined;
  /** Whether there is a note; where the overlay is gone, whether any small file of the merge is left. */
  readonly noted: boolean;
  /** Images that stand directly on the overlay. */
  readonly children: readonly string[];
  /** Other images that stand directly on its base. */
  readonly siblings: readonly string[];
  /** Disks of running VMs. */
  readonly running: readonly RunningUse[];
  /** Disks of definitions: what a VM will use when it is started. */
  readonly defined: readonly DefinedUse[];
  /** Disks that use the base but not the overlay, in words. */
  readonly baseUsers: readonly string[];
  /** Open exports that read the overlay or its base, in words. */
  readonly exports: readonly string[];
  /** Whether a merge of the stopped VM works on it now. */
  readonly mergesStopped: boolean;
}

export type MergeStep =
  | { readonly kind: "done" | "forget-note" | "remove" | "commit-stopped" | "wait-stopped" }
  | { readonly kind: "commit-running" | "commit-active" | "wait-running" | "pivot"; readonly use: RunningUse }
  | { readonly kind: "rebase"; readonly child: string }
  | { readonly kind: "redefine"; readonly use: DefinedUse }
  | { readonly kind: "refuse"; readonly error: SnapferryError };

/** Throws PathOutsideDirectory for a path that is not that of an overlay. */
export function nextStep(state: MergeState): MergeStep {
  const { installPath, overlay } = state;
  overlayOf(installPath);
  if (!overlay) return { kind: state.noted ? "forget-note" : "done" };
  const foreign = foreignChange(state);
  if (foreign !== undefined) return refuse(new ChainChanged(foreign));
  if (state.mergesStopped) return { kind: "wait-stopped" };
  const [use, other] = state.running;
  if (other) return refuse(new ChainChanged(`${installPath} is used by ${nameOf(use!)} and by ${nameOf(other)}.`));
  return use ? whileRunning(state, use) : whileStopped(state, overlay);
}

/** What is not as the names of the files say, as a sentence. */
function foreignChange({ installPath, overlay, children }: MergeState): string | undefined {
  const { volume } = overlayOf(installPath);
  const belongs = (path: string) => path === volume || parseOverlayPath(path)?.volume === volume;
  const base = overlay?.base?.path;
  if (base === undefined) return `${installPath} stands on no other file any more.`;
  if (!belongs(base)) {
    return `${installPath} stands on ${base}, which is neither ${volume} nor a snapshot's file of it: somebody else changed the chain.`;
  }
  const child = children.find((path) => !belongs(path));
  if (child !== undefined) return `${child} stands on ${installPath}, and Snapferry did not make it.`;
  if (children.length > 1) return `${children.join(" and ")} stand both on ${installPath}.`;
}

function whileRunning(state: MergeState, use: RunningUse): MergeStep {
  const { installPath, children, siblings, baseUsers } = state;
  const base = state.overlay!.base!.path;
  const position = use.chain.indexOf(installPath);
  const above = use.chain[position - 1];
  const below = use.chain[position + 1];
  if (below !== base) {
    return refuse(
      new ChainChanged(
        `${nameOf(use)} has ${below ?? "nothing"} below ${installPath}, but the file itself says ${base}.`,
      ),
    );
  }
  if (use.job) return duringJob(installPath, base, use, use.job);
  const strange = [...children, ...siblings].filter((path) => path !== above);
  return (
    refuseWhileShared(state, strange, baseUsers) ?? { kind: position === 0 ? "commit-active" : "commit-running", use }
  );
}

function duringJob(installPath: string, base: string, use: RunningUse, job: DiskJob): MergeStep {
  if (job.kind === "commit") return { kind: "wait-running", use };
  const isOurs = job.kind === "active-commit" && use.chain[0] === installPath && job.into === base;
  if (isOurs) return { kind: job.ready ? "pivot" : "wait-running", use };
  // The merge of a newer snapshot; libvirt works on a disk for one at a time.
  if (job.kind === "active-commit" && !job.ready) return { kind: "wait-running", use };
  return refuse(new HypervisorFailed(`${nameOf(use)} is being copied or merged by somebody else.`));
}

function whileStopped(state: MergeState, overlay: NonNullable<MergeState["overlay"]>): MergeStep {
  const { children, siblings, defined, baseUsers, installPath } = state;
  const base = overlay.base!;
  const baseInUse = siblings.length > 0 || baseUsers.length > 0;
  const isUsed = children.length > 0 || defined.length > 0;
  const isMerged = overlay.empty && base.sizeBytes >= overlay.sizeBytes;
  if (!isUsed) {
    if (isMerged || ((overlay.empty || state.noted) && baseInUse)) return { kind: "remove" };
    if (baseInUse) {
      return refuse(
        new ChainChanged(
          `${installPath} holds changes, but no disk uses it any more, and others use ${base.path}: somebody else changed the chain. Once nobody needs it, the file can be deleted by hand.`,
        ),
      );
    }
    if (state.noted) {
      return refuse(
        new ChainChanged(
          `No VM uses ${installPath} or ${base.path}: which of them has the newest bytes cannot be told.`,
        ),
      );
    }
  } else if (state.noted) {
    // Some definition names the overlay again, though a VM runs on the base: nobody but its writer knows why.
    return refuseWhileShared(state, [], baseUsers) ?? { kind: "forget-note" };
  }
  const saved = defined.find((use) => use.saved);
  if (saved) {
    return refuse(
      new HypervisorFailed(
        `${saved.vm.name} was stopped with its memory saved and needs ${installPath}: start it first.`,
      ),
    );
  }
  if (!isMerged) {
    const strange = children.length > 0 && defined.some(({ chain }) => chain[0] === installPath) ? children : [];
    return refuseWhileShared(state, [...strange, ...siblings], baseUsers) ?? { kind: "commit-stopped" };
  }
  if (state.exports.length > 0) return refuse(inUse(state));
  const [child] = children;
  return child === undefined ? { kind: "redefine", use: defined[0]! } : { kind: "rebase", child };
}

/** Bytes that others read too must not change. Overlays of the same volume that no disk uses are what deletions have still to remove. */
function refuseWhileShared(
  state: MergeState,
  images: readonly string[],
  disks: readonly string[],
): MergeStep | undefined {
  const base = state.overlay!.base!.path;
  const users = [...images, ...disks];
  const { volume } = overlayOf(state.installPath);
  if (users.length > 0 && users.every((path) => parseOverlayPath(path)?.volume === volume)) {
    return refuse(
      new SnapshotInUse(`${state.installPath} is not merged yet: ${users.join(", ")} has to be deleted first.`),
    );
  }
  if (users.length > 0) {
    return refuse(
      new ChainChanged(`${state.installPath} is not merged into ${base}: that is also used by ${users.join(", ")}.`),
    );
  }
  if (state.exports.length > 0) return refuse(inUse(state));
}

function inUse({ installPath, exports }: MergeState): SnapshotInUse {
  return new SnapshotInUse(`${installPath} is not merged yet: its bytes are read by ${exports.join(", ")}.`);
}

function refuse(error: SnapferryError): MergeStep {
  return { kind: "refuse", error };
}

function nameOf({ vm, target }: DiskUse): string {
  return `${target} of ${vm.name}`;
}
