/** What is done to virtual machines: one command for each operation of the API. */
import type { Command } from "commander";
import type { OperateVmInput } from "../../lambdas/api/request-schemas.ts";
import type { Client, Vm, VmOperations } from "../api-client.ts";
import { type Context, command, findVm, findVolume, type JsonOption, print } from "../context.ts";
import { CliError, exitCodes } from "../exit-codes.ts";
import { bytesWanted, parseBytes, printable, table } from "../format.ts";

type Operation = OperateVmInput["operation"];

/** What an operation is told beside the VM: its name on the command line, what it means, and the field that it becomes. */
interface Parameter {
  readonly name: string;
  readonly description: string;
  readonly example: string;
  field(client: Client, text: string): Promise<Partial<OperateVmInput>> | Partial<OperateVmInput>;
}

const volume: Parameter = {
  name: "volume",
  description: "name, id, or the beginning of an id",
  example: "web-data",
  field: async (client, text) => ({ volumeId: await findVolume(client, text) }),
};

const operations: Readonly<Record<Operation, { readonly summary: string; readonly parameter?: Parameter }>> = {
  start: { summary: "Start it" },
  stop: { summary: "Ask the guest to shut down" },
  reboot: { summary: "Ask the guest to reboot" },
  destroy: { summary: "End it at once, as when the power fails" },
  "attach-iso": {
    summary: "Put an ISO image into its drive",
    parameter: {
      name: "path",
      description: "the file on the hypervisor",
      example: "/srv/iso/debian.iso",
      field: (_client, path) => ({ path }),
    },
  },
  "detach-iso": { summary: "Take the ISO image out of its drive" },
  "attach-disk": { summary: "Give it a volume as a disk", parameter: volume },
  "detach-disk": { summary: "Take a disk from it", parameter: volume },
  "change-cpu": {
    summary: "Change how many processors it has",
    parameter: {
      name: "count",
      description: "how many",
      example: "4",
      field: (_client, text) => ({ cpus: wholeNumber(text) }),
    },
  },
  "change-memory": {
    summary: "Change how much memory it has",
    parameter: {
      name: "size",
      description: "how much, such as 512MiB",
      example: "4GiB",
      field: (_client, text) => ({ memoryBytes: size(text) }),
    },
  },
  reinstall: {
    summary: "Replace its root disk by an image",
    parameter: {
      name: "image",
      description: "the file on the hypervisor",
      example: "/srv/images/debian.qcow2",
      field: (_client, imagePath) => ({ imagePath }),
    },
  },
};

function size(text: string): number {
  const size = parseBytes(text);
  if (size === undefined) throw new CliError(exitCodes.usage, `${JSON.stringify(text)} is not ${bytesWanted}.`);
  return size;
}

function wholeNumber(text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new CliError(exitCodes.usage, `${JSON.stringify(text)} is not a whole number.`);
  return Number(text);
}

export function operationCommands(context: Context): Command[] {
  return Object.entries(operations).map(([name, { summary, parameter }]) => {
    const example = `vms ${name} web${parameter ? ` ${parameter.example}` : ""}`;
    const operation = command(name, summary, [example]).argument("<vm>", "name, id, or the beginning of an id");
    if (parameter) operation.argument(`<${parameter.name}>`, parameter.description);
    return operation.action(async (text: string, ...more: unknown[]) => {
      const given = parameter === undefined ? "" : String(more[0]);
      const options = (parameter === undefined ? more[0] : more[1]) as JsonOption;
      const client = await context.client();
      const vmId = await findVm(client, text);
      const field = (await parameter?.field(client, given)) ?? {};
      const vm = await client.vms.operate(vmId, { operation: name as Operation, ...field });
      print(context, options, vm, () => doneText(name, vm));
    });
  });
}

function doneText(operation: string, { name, state }: Vm): string {
  if (operation === "stop" && state === "stopping")
    return `${printable(name)} was asked to stop and has not yet. "vms stop" again waits on, "vms destroy" ends it at once.\n`;
  return `${operation} of ${printable(name)} is done. It is ${state}.\n`;
}

export function operationsCommand(context: Context): Command {
  return command("operations", "What may be done to a virtual machine now", ["vms operations web"])
    .argument("<vm>", "name, id, or the beginning of an id")
    .action(async (text: string, options: JsonOption) => {
      const client = await context.client();
      const answer = await client.vms.operations(await findVm(client, text));
      print(context, options, answer, () => operationTable(answer));
    });
}

function operationTable({ operations }: VmOperations): string {
  return table(
    ["OPERATION", "ON", "ALLOWED", ""],
    operations.map(({ operation, volumeId, allowed, reason }) => [
      operation,
      volumeId ?? "",
      allowed ? "yes" : "no",
      printable(reason ?? ""),
    ]),
  );
}
