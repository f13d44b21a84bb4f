/** Takes snapshots: puts an overlay on each wanted disk of a VM at one moment, so that what lies below stays as it is. */
import { setTimeout as pause } from "node:timers/promises";
import {
  HypervisorFailed,
  HypervisorMisconfigured,
  HypervisorUnavailable,
  OperationRefused,
  QuiesceFailed,
  VolumeNotFound,
} from "../../domain/errors.ts";
import { domainXml, snapshotCreate } from "../../protocols/libvirt/flags.ts";
import type { Domain } from "../../protocols/libvirt/procedures.ts";
import type { Quiesce, SnapshotRequest, TakenSnapshot } from "../port.ts";
import { plannedOverlay } from "./chain.ts";
import { type AttachedVolume, findVolume, ownLayers, readVms, unsupportedReason } from "./discovery.ts";
import { DomainXml } from "./domain-xml.ts";
import type { KvmHost } from "./host.ts";
import { whileHeld } from "./quiesce.ts";
import { assertUser, closedPaths } from "./rights.ts";
import { removeLeftover } from "./take-leftover.ts";
import { noteAchieved, noteLeast, readConsistency } from "./take-notes.ts";
import { snapshotXml } from "./take-xml.ts";

/** A volume that a snapshot is wanted of, as it was found. */
interface Wanted {
  readonly snapshotId: string;
  readonly overlay: string;
  readonly volume: AttachedVolume;
}

/** libvirt waits for 30 s until other jobs of the VM have ended. */
const createTimeoutMs = 60_000;

/** Most merges are of what one day changed. Longer ones are for the caller to wait for. */
const mergeWaitMs = 60_000;
const mergePollMs = 500;

/**
 * All or none for each VM, one VM after another. Snapshots that are there already are returned as they are. At most one call at a time
 * for a host.
 *
 * @throws VolumeNotFound, OperationRefused, QuiesceFailed, HypervisorMisconfigured: before anything is created
 */
export async function takeSnapshots(
  host: KvmHost,
  requests: readonly SnapshotRequest[],
  options: { readonly quiesce: Quiesce },
): Promise<TakenSnapshot[]> {
  const wanted = await find(host, requests);
  await assertRights(
    host,
    wanted.filter((one) => frozenLayer(one) === undefined),
  );
  for (const ofVm of Map.groupBy(wanted, ({ volume }) => volume.vm.domain.uuid).values()) {
    const missing = ofVm.filter((one) => frozenLayer(one) === undefined);
    if (missing.length > 0) await takeOfVm(host, missing, options.quiesce);
    if (options.quiesce === true) await assertHeld(host, ofVm);
  }
  const taken = await find(host, requests);
  const definitions = await definitionsOf(host, taken);
  return Promise.all(taken.map((one) => describe(host, one, definitions.get(one.volume.vm.domain.uuid)!)));
}

/** A try that broke off may have made them and not know whether the guest held still: they are not what was asked for. Throws QuiesceFailed. */
async function assertHeld(host: KvmHost, wanted: readonly Wanted[]): Promise<void> {
  for (const { snapshotId, volume } of wanted) {
    if ((await readConsistency(host, snapshotId)) !== "crash") continue;
    throw new QuiesceFailed(
      `The connection broke while ${snapshotId} was taken, so that it is not sure that the file systems of ${volume.vm.domain.name} were held.`,
    );
  }
}

async function find(host: KvmHost, requests: readonly SnapshotRequest[]): Promise<Wanted[]> {
  const vms = await readVms(host);
  return Promise.all(
    requests.map(async ({ externalId, snapshotId }) => {
      const [volume, ...others] = await findVolume(host, externalId, vms);
      if (!volume) throw new VolumeNotFound(`No VM on ${host.name} has the volume ${externalId} as a disk.`);
      const reason = others.length > 0 ? "several VMs have it as a disk" : unsupportedReason(volume);
      if (reason) throw new OperationRefused(`There are no snapshots of ${externalId}: ${reason}.`);
      return { snapshotId, overlay: plannedOverlay({ externalId, snapshotId }), volume };
    }),
  );
}

/** An overlay that the user cannot read or merge would be the VM's for ever. Throws HypervisorMisconfigured. */
async function assertRights(host: KvmHost, wanted: readonly Wanted[]): Promise<void> {
  if (wanted.length === 0) return;
  await assertUser(host);
  const files = wanted.flatMap(({ volume }) => ownLayers(volume).map(({ path }) => path));
  const closed = await closedPaths(host, files);
  if (closed.length === 0) return;
  throw new HypervisorMisconfigured(`No snapshot was taken: the user may not read and write ${closed.join(", ")}.`);
}

/** What lies right below the overlay; undefined while that is not in the chain. */
function frozenLayer({ overlay, volume: { chain } }: Wanted) {
  const index = chain.findIndex(({ path }) => path === overlay);
  return index < 0 ? undefined : chain[index + 1];
}

async function takeOfVm(host: KvmHost, wanted: readonly Wanted[], quiesce: Quiesce): Promise<void> {
  const [{ volume }] = wanted as [Wanted];
  const { domain, isActive } = volume.vm;
  if (isActive) await untilNotMerged(host, wanted);
  else await assertNotSaved(host, domain);
  const ids = wanted.map(({ snapshotId }) => snapshotId);
  await noteLeast(host, ids);
  const create = () => createOverlays(host, wanted);
  if (!isActive) {
    const created = await create();
    // If it was started meanwhile, the overlays may be those of a VM that ran.
    if (created && !(await isActiveNow(host, domain.uuid))) await noteAchieved(host, ids, "offline");
    return;
  }
  const held = quiesce === false ? undefined : await heldUnlessPreferred(host, domain, create, quiesce);
  if (!held) await create();
  else if (held.throughout && held.result) await noteAchieved(host, ids, "filesystem");
  else if (quiesce === true && held.result) {
    throw new QuiesceFailed(`The file systems of ${domain.name} were let go before the snapshot was complete.`);
  }
}

/** Before anything is held: libvirt takes no snapshot of a disk that a job works on. Throws HypervisorUnavailable after a while. */
async function untilNotMerged(host: KvmHost, wanted: readonly Wanted[]): Promise<void> {
  const deadline = Date.now() + mergeWaitMs;
  for (const { volume } of wanted) {
    const { domain } = volume.vm;
    const disk = volume.disk.target;
    while ((await host.call("domainGetBlockJobInfo", { domain, disk, flags: 0 })).found !== 0) {
      if (Date.now() > deadline) {
        throw new HypervisorUnavailable(
          `The disk ${disk} of ${domain.name} is being merged: a snapshot of it can be taken when that has ended.`,
        );
      }
      await pause(mergePollMs);
    }
  }
}

/** The saved state has the disks as they were: with it the VM would go on writing to what is to be frozen. Throws OperationRefused. */
async function assertNotSaved(host: KvmHost, domain: Domain): Promise<void> {
  const { result } = await host.call("domainHasManagedSave", { domain, flags: 0 });
  if (result === 0) return;
  throw new OperationRefused(
    `There are no snapshots of ${domain.name} while its memory is saved to disk (managed save): start it, or remove the saved state.`,
  );
}

/** Undefined when they cannot be held and need not be. */
function heldUnlessPreferred(
  host: KvmHost,
  domain: Domain,
  create: () => Promise<boolean>,
  quiesce: true | "preferred",
) {
  return whileHeld(host, domain, create).catch((error: unknown) => {
    if (quiesce === "preferred" && error instanceof QuiesceFailed) return undefined;
    throw error;
  });
}

async function isActiveNow(host: KvmHost, uuid: string): Promise<boolean> {
  const vm = (await readVms(host)).find(({ domain }) => domain.uuid === uuid);
  return vm?.isActive ?? false;
}

/** All or none. False when another worker, or an earlier try whose answer was lost, has made them. */
async function createOverlays(host: KvmHost, wanted: readonly Wanted[]): Promise<boolean> {
  try {
    await create(host, wanted);
    return true;
  } catch (error) {
    // An error of the connection says nothing: a repetition will find out.
    if (!(error instanceof HypervisorFailed)) throw error;
    if (await areThere(host, wanted)) return false;
    const removed = await Promise.all(wanted.map(({ overlay }) => removeLeftover(host, overlay)));
    if (!removed.includes(true)) throw error;
    await create(host, wanted);
    return true;
  }
}

async function create(host: KvmHost, wanted: readonly Wanted[]): Promise<void> {
  const [{ volume }] = wanted as [Wanted];
  const { domain, definition } = volume.vm;
  const overlays = new Map(wanted.map((one) => [one.volume.disk.target, one.overlay]));
  const targets = definition.disks.map(({ target }) => target);
  const flags = snapshotCreate.diskOnly | snapshotCreate.atomic | snapshotCreate.noMetadata;
  const args = { domain, xml: snapshotXml(targets, overlays), flags };
  await host.call("domainSnapshotCreateXml", args, { timeoutMs: createTimeoutMs });
}

async function areThere(host: KvmHost, wanted: readonly Wanted[]): Promise<boolean> {
  const requests = wanted.map(({ snapshotId, volume }) => ({ snapshotId, externalId: volume.externalId }));
  return (await find(host, requests)).every((one) => frozenLayer(one) !== undefined);
}

/** Of each VM, by UUID, what it will be started with. Without libvirt's flag for it there are no secrets in it. */
async function definitionsOf(host: KvmHost, wanted: readonly Wanted[]): Promise<ReadonlyMap<string, string>> {
  const domains = new Map(wanted.map(({ volume: { vm } }) => [vm.domain.uuid, vm.domain]));
  const read = async ([uuid, domain]: [string, Domain]): Promise<[string, string]> => {
    const { xml } = await host.call("domainGetXml", { domain, flags: domainXml.inactive });
    return [uuid, xml];
  };
  return new Map(await Promise.all([...domains].map(read)));
}

async function describe(host: KvmHost, wanted: Wanted, definition: string): Promise<TakenSnapshot> {
  const frozen = frozenLayer(wanted);
  const { snapshotId, overlay: installPath, volume } = wanted;
  if (!frozen) throw new HypervisorFailed(`${volume.vm.domain.name} does not use the snapshot's file ${installPath}.`);
  const consistency = await readConsistency(host, snapshotId);
  const { sizeBytes, allocatedBytes: physicalBytes } = frozen;
  const { target } = volume.disk;
  const { domain } = volume.vm;
  // A disk may have been plugged into the VM that runs and be none of the next.
  const isDefined = new DomainXml(definition).disk(target) !== undefined;
  const vm = isDefined && { vm: { externalId: domain.uuid, name: domain.name, target, definition } };
  return { snapshotId, installPath, sizeBytes, physicalBytes, consistency, ...vm };
}
