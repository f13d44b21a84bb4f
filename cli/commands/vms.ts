import { type Command, InvalidArgumentError } from "commander";
import type { Client, Vm, VmSnapshot } from "../api-client.ts";
import {
  type Context,
  command,
  findVm,
  findVolume,
  group,
  hintAtMore,
  type JsonOption,
  type ListOptions,
  listOnHypervisors,
  pagedCommand,
  pageOptions,
  print,
} from "../context.ts";
import { ago, bytes, details, printable, table } from "../format.ts";
import { type SnapshotOptions, snapshotBody, snapshotOptions } from "../snapshot-options.ts";
import { requireSuccess, watchJob } from "../watch.ts";
import { snapshotTable, volumeNames } from "./snapshots.ts";
import { operationCommands, operationsCommand } from "./vms-operations.ts";

export function vmsCommand(context: Context): Command {
  const vms = group("vms", "Virtual machines, their snapshots and operations", [
    "vms ls",
    "vms snapshot web --quiesce preferred --watch",
    "vms operations web",
    "vms stop web",
  ])
    .addCommand(ls(context))
    .addCommand(get(context))
    .addCommand(snapshot(context))
    .addCommand(snapshots(context))
    .addCommand(operationsCommand(context));
  for (const operation of operationCommands(context)) vms.addCommand(operation);
  return vms;
}

function ls(context: Context): Command {
  const examples = ["vms ls", "vms ls --hypervisor lab --json"];
  return listOnHypervisors(
    context,
    "List virtual machines",
    examples,
    (client, query) => client.vms.list(query),
    vmTable,
  );
}

function vmTable(vms: readonly Vm[]): string {
  return table(
    ["ID", "NAME", "STATE", "AGENT", "DISKS", "BACKING UP", "DISCOVERED"],
    vms.map((vm) => [
      vm.id,
      printable(vm.name),
      vm.state,
      vm.guestAgent,
      vm.disks.map(({ target }) => printable(target)).join(", "),
      String(vm.backingUp),
      ago(vm.discoveredAt),
    ]),
  );
}

function get(context: Context): Command {
  return command("get", "Look at a virtual machine", ["vms get web", "vms get vm_01JD7 --json"])
    .alias("show")
    .argument("<vm>", "name, id, or the beginning of an id")
    .action(async (text: string, options: JsonOption) => {
      const client = await context.client();
      const vm = await client.vms.get(await findVm(client, text));
      print(context, options, vm, () => vmDetails(vm));
    });
}

function vmDetails(vm: Vm): string {
  return details([
    ["Id", vm.id],
    ["Name", printable(vm.name)],
    ["State", vm.state],
    ["Guest agent", vm.guestAgent],
    ...vm.disks.map((disk): [string, string] => ["Disk", diskText(disk)]),
    ["Backing up", vm.backingUp === 0 ? undefined : String(vm.backingUp)],
    ["Hypervisor", vm.hypervisorId],
    ["Its id there", printable(vm.externalId)],
    ["Discovered", ago(vm.discoveredAt)],
  ]);
}

function diskText({ target, root, volumeId, name, sizeBytes }: Vm["disks"][number]): string {
  const what = volumeId === undefined ? "not yours" : `${printable(name ?? "")} (${volumeId})  ${bytes(sizeBytes)}`;
  return `${printable(target)}${root ? ", root" : ""}: ${what}`;
}

function snapshot(context: Context): Command {
  return snapshotOptions(
    command("snapshot", "Snapshot the volumes of a virtual machine at one moment and back them up", [
      "vms snapshot web",
      "vms snapshot web --quiesce always --async --watch",
      "vms snapshot web --volume web-root --volume web-data",
    ])
      .argument("<vm>", "name, id, or the beginning of an id")
      .option("--volume <volume>", "only this volume (name or id); may be given several times", addOne),
  ).action(
    async (text: string, options: SnapshotOptions & JsonOption & { volume?: readonly string[]; watch?: boolean }) => {
      const client = await context.client();
      const vmId = await findVm(client, text);
      const volumes = await Promise.all((options.volume ?? []).map((name) => findVolume(client, name)));
      const answer = await client.vms.snapshot(vmId, {
        ...(await snapshotBody(client, options)),
        ...(volumes.length === 0 ? {} : { volumeIds: volumes }),
      });
      await finish(context, client, options, answer);
    },
  );
}

function addOne(text: string, others: readonly string[] = []): string[] {
  if (others.includes(text)) throw new InvalidArgumentError("It is named twice.");
  return [...others, text];
}

/** Prints the answer at once, or follows the jobs one after the other first. The first that ended badly ends the command. */
async function finish(
  context: Context,
  client: Client,
  options: JsonOption & { watch?: boolean },
  answer: VmSnapshot,
): Promise<void> {
  const jobs = options.watch
    ? await inTurn(answer.snapshots, ({ job }) => watchJob(client, context.terminal, job.id))
    : [];
  const snapshots = options.watch
    ? await Promise.all(answer.snapshots.map(({ id }) => client.snapshots.get(id)))
    : answer.snapshots;
  const names = options.json ? new Map<string, string>() : await volumeNames(client, snapshots);
  print(context, options, { ...answer, snapshots }, () => snapshotTable(snapshots, names));
  for (const job of jobs) requireSuccess(job);
}

async function inTurn<Item, Result>(items: readonly Item[], act: (item: Item) => Promise<Result>): Promise<Result[]> {
  const results: Result[] = [];
  for (const item of items) results.push(await act(item));
  return results;
}

function snapshots(context: Context): Command {
  return pagedCommand("snapshots", "List the snapshots of a virtual machine, newest first", ["vms snapshots web"])
    .argument("<vm>", "name, id, or the beginning of an id")
    .option("--state <state>", "only those in this state: BackedUp, BackingUp, Error, Destroyed, …")
    .action(async (text: string, options: ListOptions & { state?: string }) => {
      const client = await context.client();
      const { state } = options;
      const vmId = await findVm(client, text);
      const page = await client.vms.snapshots(vmId, {
        ...pageOptions(options),
        ...(state === undefined ? {} : { state }),
      });
      const names = options.json ? new Map<string, string>() : await volumeNames(client, page.items);
      print(context, options, page, () => snapshotTable(page.items, names));
      hintAtMore(context, options, page);
    });
}
