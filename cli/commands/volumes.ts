import type { Command } from "commander";
import type { Volume } from "../api-client.ts";
import { type Context, command, findVolume, group, type JsonOption, listOnHypervisors, print } from "../context.ts";
import { ago, bytes, details, printable, table } from "../format.ts";

export function volumesCommand(context: Context): Command {
  return group("volumes", "What can be backed up", ["volumes ls", "volumes get web-root"])
    .addCommand(ls(context))
    .addCommand(get(context));
}

function ls(context: Context): Command {
  const examples = ["volumes ls", "volumes ls --hypervisor lab --json"];
  return listOnHypervisors(
    context,
    "List volumes",
    examples,
    (client, query) => client.volumes.list(query),
    volumeTable,
  );
}

function volumeTable(volumes: readonly Volume[]): string {
  return table(
    ["ID", "NAME", "STATUS", "SIZE", "ALLOCATED", "DISCOVERED"],
    volumes.map((volume) => [
      volume.id,
      printable(volume.name),
      volume.unsupported === undefined ? volume.status : "unsupported",
      bytes(volume.sizeBytes),
      bytes(volume.allocatedBytes),
      ago(volume.discoveredAt),
    ]),
  );
}

function get(context: Context): Command {
  return command("get", "Look at a volume", ["volumes get web-root", "volumes get vol_01JD7 --json"])
    .argument("<volume>", "name, id, or the beginning of an id")
    .action(async (text: string, options: JsonOption) => {
      const client = await context.client();
      const volume = await client.volumes.get(await findVolume(client, text));
      print(context, options, volume, () =>
        details([
          ["Id", volume.id],
          ["Name", printable(volume.name)],
          ["Status", volume.status],
          ["Unsupported", volume.unsupported],
          ["Size", `${bytes(volume.sizeBytes)} (${volume.sizeBytes} bytes)`],
          ["Allocated", bytes(volume.allocatedBytes)],
          ["Backing up", volume.backingUp === 0 ? undefined : String(volume.backingUp)],
          ["Restored by", volume.restoringJobId],
          ["Hypervisor", volume.hypervisorId],
          ["Discovered", ago(volume.discoveredAt)],
        ]),
      );
    });
}
