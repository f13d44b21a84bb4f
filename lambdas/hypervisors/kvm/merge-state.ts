/** Finds out what {@link nextStep} needs to know of a host. */
import { HypervisorFailed } from "../../domain/errors.ts";
import { blockJobType } from "../../protocols/libvirt/flags.ts";
import type { Domain } from "../../protocols/libvirt/procedures.ts";
import type { DomainDisk } from "./domain-xml.ts";
import type { KvmHost } from "./host.ts";
import { chainOf, type FoundDisk, type HostImages, readHostImages } from "./host-images.ts";
import { type ImageFormat, imageFormats } from "./image-chain.ts";
import { isEmptyOverlay } from "./image-emptiness.ts";
import type { ImageFile } from "./image-files.ts";
import type { MergeFiles } from "./merge-files.ts";
import type { DefinedUse, DiskJob, DiskUse, MergedImage, MergeState, RunningUse } from "./merge-plan.ts";
import { overlayOf } from "./overlay-path.ts";
import { requirePresence } from "./volume-presence.ts";

/** A snapshot whose frozen bytes somebody reads. */
export interface OpenExport {
  readonly snapshotId: string;
  readonly installPath: string;
}

const nothing = {
  overlay: undefined,
  children: [],
  siblings: [],
  running: [],
  defined: [],
  baseUsers: [],
  exports: [],
  mergesStopped: false,
} as const;

/** Looks at all VMs of the host, at their disks, and at all images beside the overlay. Throws HypervisorUnavailable when that may only be away. */
export async function mergeState(
  host: KvmHost,
  files: MergeFiles,
  exports: readonly OpenExport[],
): Promise<MergeState> {
  const there = await files.look(host);
  if (!there.overlay) await requirePresence(host, overlayOf(files.overlay).volume);
  if (!there.overlay) return { ...nothing, installPath: files.overlay, noted: there.left };
  const { images, is, standOn, using } = await readHostImages(host, files.overlay);
  const image = images.find(({ path }) => is(path, files.overlay));
  const base = image?.below && (await describeBase(host, image.below));
  const users = using(files.overlay);
  // What a VM that runs on the overlay will start with does not matter: it will run on the base by then.
  const runOnOverlay = new Set(users.filter(({ running }) => running).map(diskName));
  const userNames = new Set(users.map(diskName));
  const baseUsers = using(base?.path).filter((disk) =>
    disk.running ? !runOnOverlay.has(diskName(disk)) : !userNames.has(diskName(disk)),
  );
  const isWritten = there.merges || users.some(({ running }) => running);
  /** Overlay and base are called the same everywhere. */
  const named = (path: string) =>
    is(path, files.overlay) ? files.overlay : base && is(path, base.path) ? base.path : path;

  return {
    installPath: files.overlay,
    overlay: image && {
      sizeBytes: image.sizeBytes,
      // While it is written nobody needs to know, and the lock of a merge would not let it be read.
      empty: !isWritten && (await isEmptyOverlay(host, files.overlay)),
      base,
    },
    noted: there.noted,
    children: standOn(files.overlay),
    siblings: base ? standOn(base.path).filter((path) => !is(path, files.overlay)) : [],
    running: await Promise.all(users.filter(({ running }) => running).map((use) => runningUse(host, use, named))),
    defined: await Promise.all(users.filter(({ running }) => !running).map((use) => definedUse(host, use, named))),
    baseUsers: [...new Set(baseUsers.map(diskName))],
    exports: exports.filter((one) => reads(one, { images, is }, [files.overlay, base?.path])).map(describeExport),
    mergesStopped: there.merges,
  };
}

function diskName({ domain, disk }: FoundDisk): string {
  return `${disk.target} of ${domain.name}`;
}

async function describeBase(
  host: KvmHost,
  { path, format }: NonNullable<ImageFile["below"]>,
): Promise<MergedImage | undefined> {
  const known = imageFormats.find((one) => one === format);
  if (!known) {
    throw new HypervisorFailed(
      `What lies below a snapshot, ${path}, is of the format ${format ?? "that nobody knows"}.`,
    );
  }
  const [layer] = (await host.imageChain(path, known satisfies ImageFormat)) ?? [];
  return layer && { path, format: known, sizeBytes: layer.sizeBytes };
}

async function runningUse(
  host: KvmHost,
  { domain, disk }: FoundDisk,
  named: (path: string) => string,
): Promise<RunningUse> {
  const { found, type } = await host.call("domainGetBlockJobInfo", { domain, disk: disk.target, flags: 0 });
  return { ...useOf(domain, disk, named), job: found === 0 ? undefined : jobOf(type, disk, named) };
}

function jobOf(type: number, { mirror }: DomainDisk, named: (path: string) => string): DiskJob {
  const kind = type === blockJobType.commit ? "commit" : type === blockJobType.activeCommit ? "active-commit" : "other";
  return { kind, into: mirror?.file && named(mirror.file), ready: mirror?.ready ?? false };
}

async function definedUse(
  host: KvmHost,
  { domain, disk }: FoundDisk,
  named: (path: string) => string,
): Promise<DefinedUse> {
  const { result } = await host.call("domainHasManagedSave", { domain, flags: 0 });
  return { ...useOf(domain, disk, named), saved: result !== 0 };
}

function useOf({ uuid, name }: Domain, disk: DomainDisk, named: (path: string) => string): DiskUse {
  return { vm: { uuid, name }, target: disk.target, file: disk.file!, chain: chainOf(disk).map(named) };
}

/** Whether an export reads one of these files. */
function reads(
  { installPath }: OpenExport,
  { images, is }: Pick<HostImages, "images" | "is">,
  files: readonly (string | undefined)[],
): boolean {
  const seen = new Set<ImageFile>();
  const find = (path: string) => images.find((image) => is(image.path, path));
  for (let image = find(installPath); image?.below && !seen.has(image); image = find(image.below.path)) {
    const { path } = image.below;
    if (files.some((file) => is(file, path))) return true;
    seen.add(image);
  }
  return false;
}

function describeExport({ snapshotId }: OpenExport): string {
  return `the export of ${snapshotId}`;
}
