import { type Command, Option } from "commander";
import type { RestoreInput } from "../../lambdas/api/request-schemas.ts";
import { ApiProblem, type Client, type Job, type JobAndSnapshot, type Snapshot } from "../api-client.ts";
import {
  type Context,
  command,
  findHypervisor,
  findVm,
  findVolume,
  group,
  hintAtMore,
  type JsonOption,
  type ListOptions,
  listCommand,
  pageOptions,
  print,
} from "../context.ts";
import { CliError, exitCodes } from "../exit-codes.ts";
import { ago, bytes, details, percentage, printable, table } from "../format.ts";
import { type SnapshotOptions, snapshotBody, snapshotOptions } from "../snapshot-options.ts";
import { requireSuccess, watchJob } from "../watch.ts";
import { downloadCommand } from "./snapshots-download.ts";

interface WatchOption {
  readonly watch?: boolean;
}

export function snapshotsCommand(context: Context): Command {
  return group("snapshots", "Snapshots of volumes and their backups", [
    "snapshots create web-root --async --watch",
    "snapshots ls",
    "snapshots restore snap_01JD7QXN8ZK4V1TQ3C5M9R2WEY --to lab --name web-root-2 --watch",
  ])
    .addCommand(create(context))
    .addCommand(ls(context))
    .addCommand(get(context))
    .addCommand(rm(context))
    .addCommand(restore(context))
    .addCommand(downloadCommand(context))
    .addCommand(backup(context));
}

function create(context: Context): Command {
  return snapshotOptions(
    command("create", "Snapshot a volume and back it up", [
      "snapshots create web-root",
      "snapshots create vol_01JD7 --async --watch",
      "snapshots create db-data --name nightly --tag env=prod --tag tier=1 --store off-site",
      "snapshots create db-data --full --verify full",
    ]).argument("<volume>", "name, id, or the beginning of an id"),
  ).action(async (text: string, options: SnapshotOptions & JsonOption & WatchOption) => {
    const client = await context.client();
    const volumeId = await findVolume(client, text);
    const answer = await client.snapshots.create(volumeId, await snapshotBody(client, options));
    await finish(context, client, options, answer, (snapshot) => `${snapshot.id} is ${snapshot.state}.`);
  });
}

function ls(context: Context): Command {
  return listCommand("List snapshots, newest first", [
    "snapshots ls",
    "snapshots ls --volume web-root --state BackedUp",
    "snapshots ls --limit 100 --json",
  ])
    .option("--volume <volume>", "only those of this volume (name or id)")
    .option("--state <state>", "only those in this state: BackedUp, BackingUp, Error, Destroyed, …")
    .action(async (options: ListOptions & { volume?: string; state?: string }) => {
      const client = await context.client();
      const volumeId = options.volume && (await findVolume(client, options.volume));
      const page = await client.snapshots.list({
        ...pageOptions(options),
        ...(volumeId ? { volumeId } : {}),
        ...(options.state === undefined ? {} : { state: options.state }),
      });
      const names = options.json ? new Map<string, string>() : await volumeNames(client, page.items);
      print(context, options, page, () => snapshotTable(page.items, names));
      hintAtMore(context, options, page);
    });
}

/** Names of the volumes, where they are still known. */
export async function volumeNames(client: Client, snapshots: readonly Snapshot[]): Promise<Map<string, string>> {
  const ids = [...new Set(snapshots.map((snapshot) => snapshot.volumeId))];
  const names = new Map<string, string>();
  await Promise.all(
    ids.map(async (id) => {
      try {
        names.set(id, (await client.volumes.get(id)).name);
      } catch (error) {
        if (!(error instanceof ApiProblem && error.status === 404)) throw error;
      }
    }),
  );
  return names;
}

export function snapshotTable(snapshots: readonly Snapshot[], names: ReadonlyMap<string, string>): string {
  return table(
    ["ID", "VOLUME", "STATE", "PRIMARY", "STORES", "LOGICAL", "STORED", "CONSISTENCY", "CREATED", ""],
    snapshots.map((snapshot) => [
      snapshot.id,
      printable(names.get(snapshot.volumeId) ?? snapshot.volumeId),
      `${snapshot.state} ${percentage(snapshot.progress)}`.trim(),
      primaryState(snapshot),
      storesWithBackup(snapshot),
      bytes(snapshot.bytes.logical),
      bytes(snapshot.bytes.stored),
      snapshot.consistency ?? "–",
      ago(snapshot.createdAt),
      errorText(snapshot),
    ]),
  );
}

function primaryState({ references }: Snapshot): string {
  return references.find(({ role }) => role === "Primary")?.state.toLowerCase() ?? "–";
}

function storesWithBackup({ references }: Snapshot): string {
  const stores = references
    .filter(({ role, state }) => role === "Image" && state === "Ready")
    .map(({ storeId }) => storeId);
  return stores.length > 0 ? stores.join(", ") : "–";
}

function errorText({ error, attempt, maxAttempts }: Snapshot): string {
  if (!error) return "";
  return attempt > 0 ? `${error.name}, attempt ${attempt} of ${maxAttempts}` : error.name;
}

function get(context: Context): Command {
  return command("get", "Look at a snapshot", ["snapshots get snap_01JD7QXN8ZK4V1TQ3C5M9R2WEY"])
    .argument("<snapshot>", "id")
    .action(async (id: string, options: JsonOption) => {
      const client = await context.client();
      const snapshot = await client.snapshots.get(id);
      const names = options.json ? new Map<string, string>() : await volumeNames(client, [snapshot]);
      print(context, options, snapshot, () => snapshotDetails(snapshot, names.get(snapshot.volumeId)));
    });
}

function snapshotDetails(snapshot: Snapshot, volumeName: string | undefined): string {
  const { bytes: sizes, error } = snapshot;
  return details([
    ["Id", snapshot.id],
    ["Name", snapshot.name && printable(snapshot.name)],
    ["Description", snapshot.description && printable(snapshot.description)],
    [
      "Tags",
      Object.entries(snapshot.tags)
        .map(([key, value]) => printable(`${key}=${value}`))
        .join(", "),
    ],
    ["Volume", volumeName === undefined ? snapshot.volumeId : `${printable(volumeName)} (${snapshot.volumeId})`],
    ["State", `${snapshot.state} ${percentage(snapshot.progress)}`.trim()],
    ["Error", error && printable(`${error.name}: ${error.message}`)],
    ["Primary kept until", snapshot.primaryKeptUntil],
    ["Job", [snapshot.job.id, snapshot.job.kind, snapshot.job.state].filter((text) => text !== undefined).join("  ")],
    ["Attempt", snapshot.attempt === 0 ? undefined : `${snapshot.attempt} of ${snapshot.maxAttempts}`],
    ["Consistency", snapshot.consistency],
    ["VM", snapshot.vmDefinition && vmText(snapshot.vmDefinition)],
    ["Logical", bytes(sizes.logical)],
    ["On primary", `${bytes(sizes.physical)}  ${primaryState(snapshot)}`],
    ["Stored", `${bytes(sizes.stored)}  ${storesWithBackup(snapshot)}`],
    ["Read by", snapshot.readers.join(", ")],
    ["Created", snapshot.createdAt],
    ["Backed up", snapshot.backedUpAt],
    ["Locked until", snapshot.lockedUntil],
    ["Last check", snapshot.lastCheck && checkText(snapshot.lastCheck)],
    ...(snapshot.lastCheck?.lost ?? []).map((lost): [string, string] => ["Lost", printable(lost)]),
    ["Wrong hint", snapshot.hintMismatch && printable(`${snapshot.hintMismatch.at}  ${snapshot.hintMismatch.message}`)],
  ]);
}

function vmText({ name, target }: NonNullable<Snapshot["vmDefinition"]>): string {
  return `${printable(name)}, disk ${printable(target)}; its definition is saved`;
}

function checkText({ at, result, checkedChunks, checkedBytes }: NonNullable<Snapshot["lastCheck"]>): string {
  return `${at}  ${result}, ${checkedChunks} chunks (${bytes(checkedBytes)}) read back`;
}

function rm(context: Context): Command {
  return command("rm", "Delete a snapshot everywhere", ["snapshots rm snap_01JD7QXN8ZK4V1TQ3C5M9R2WEY --watch"])
    .argument("<snapshot>", "id")
    .option("--watch", "follow it to the end")
    .action(async (id: string, options: JsonOption & WatchOption) => {
      const client = await context.client();
      const answer = await client.snapshots.delete(id);
      await finish(context, client, options, answer, (snapshot) => `${snapshot.id} is ${snapshot.state}.`);
    });
}

function restore(context: Context): Command {
  return command("restore", "Restore a backup to a new volume, or in place", [
    "snapshots restore snap_01JD7QXN8ZK4V1TQ3C5M9R2WEY --to lab --name web-root-2 --watch",
    "snapshots restore snap_01JD7QXN8ZK4V1TQ3C5M9R2WEY --to kvm1 --name web.qcow2 --pool fast --new-vm web-2",
    "snapshots restore snap_01JD7QXN8ZK4V1TQ3C5M9R2WEY --to kvm1 --name data.qcow2 --attach-to web-2",
    "snapshots restore snap_01JD7QXN8ZK4V1TQ3C5M9R2WEY --in-place --watch",
  ])
    .argument("<snapshot>", "id")
    .option("--to <hypervisor>", "where the volume is made (name or id)")
    .option("--name <name>", "what it is called; no volume of that name is overwritten")
    .option("--pool <pool>", "the storage pool of the KVM host; else the one that is called default")
    .option("--attach-to <vm>", "the VM that gets it as a disk (name or id)")
    .addOption(
      new Option("--new-vm <name>", "make a VM for it, as the VM was when the snapshot was taken").conflicts(
        "attachTo",
      ),
    )
    .addOption(
      new Option(
        "--in-place",
        "instead of all these: give the snapshot's volume its bytes back; the VM has to be stopped",
      ).conflicts(["to", "name", "pool", "attachTo", "newVm"]),
    )
    .addOption(
      new Option(
        "--salvage",
        "keep what is left of a damaged backup: what is lost is zeros in the volume, and told at the end",
      ).conflicts("inPlace"),
    )
    .option("--watch", "follow it to the end")
    .action(async (id: string, options: JsonOption & WatchOption & RestoreOptions) => {
      const client = await context.client();
      const answer = await client.snapshots.restore(id, {
        target: await targetOf(client, options),
        ...(options.salvage && { salvage: true }),
      });
      const words = options.watch ? "is restored" : "is being restored";
      await finish(context, client, options, answer, (_snapshot, job) => {
        const { volumeId, vmId } = job.target ?? { volumeId: answer.volume.id };
        const vm = options.watch && vmId !== undefined ? `, and is a disk of ${vmId}` : "";
        return `${printable(options.name ?? answer.volume.name)} (${volumeId}) ${words}${vm}.`;
      });
    });
}

interface RestoreOptions {
  readonly to?: string;
  readonly name?: string;
  readonly pool?: string;
  readonly attachTo?: string;
  readonly newVm?: string;
  readonly inPlace?: boolean;
  readonly salvage?: boolean;
}

/** Throws CliError where a new volume is not said to be made somewhere and called something. */
async function targetOf(client: Client, options: RestoreOptions): Promise<RestoreInput["target"]> {
  const { to, name, pool, attachTo, newVm, inPlace } = options;
  if (inPlace) return { inPlace };
  if (to === undefined || name === undefined)
    throw new CliError(exitCodes.usage, "Say --to and --name for a new volume, or --in-place alone.");
  return {
    hypervisorId: await findHypervisor(client, to),
    name,
    ...(pool === undefined ? {} : { pool }),
    ...(attachTo === undefined ? {} : { attachToVmId: await findVm(client, attachTo) }),
    ...(newVm === undefined ? {} : { newVm: { name: newVm } }),
  };
}

function backup(context: Context): Command {
  return command("backup", "Back a snapshot up again", ["snapshots backup snap_01JD7QXN8ZK4V1TQ3C5M9R2WEY --watch"])
    .argument("<snapshot>", "id")
    .option("--watch", "follow it to the end")
    .action(async (id: string, options: JsonOption & WatchOption) => {
      const client = await context.client();
      const answer = await client.snapshots.backup(id);
      await finish(context, client, options, answer, (snapshot) => `${snapshot.id} is ${snapshot.state}.`);
    });
}

/** Prints the answer at once, or follows the job first and prints how things are then. */
async function finish<Answer extends JobAndSnapshot>(
  context: Context,
  client: Client,
  options: JsonOption & WatchOption,
  answer: Answer,
  words: (snapshot: Snapshot, job: Job) => string,
): Promise<void> {
  if (!options.watch) {
    const { job } = answer;
    return print(
      context,
      options,
      answer,
      () => `${words(answer.snapshot, job)}\nFollow it with snapferry jobs watch ${job.id}\n`,
    );
  }
  const last = await watchJob(client, context.terminal, answer.job.id);
  const [job, snapshot] = await Promise.all([client.jobs.get(answer.job.id), client.snapshots.get(answer.snapshot.id)]);
  print(context, options, { ...answer, job, snapshot }, () =>
    last.state === "Succeeded" ? `${words(snapshot, job)}\n` : "",
  );
  requireSuccess(last);
}
