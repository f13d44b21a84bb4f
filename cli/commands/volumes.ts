import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import type { Client, Volume } from "../api-client.ts";
import { type Context, command, findVolume, group, type JsonOption, listOnHypervisors, print } from "../context.ts";
import { CliError, exitCodes } from "../exit-codes.ts";
import { ago, bytes, details, printable, table } from "../format.ts";

export function volumesCommand(context: Context): Command {
  return group("volumes", "What can be backed up", ["volumes ls", "volumes get web-root"])
    .addCommand(ls(context))
    .addCommand(get(context))
    .addCommand(unprotect(context))
    .addCommand(protect(context));
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
          ["Protection", volume.protection],
          ["Not ended yet", volume.protectionError && printable(volume.protectionError.message)],
          ["Backing up", volume.backingUp === 0 ? undefined : String(volume.backingUp)],
          ["Restored by", volume.restoringJobId],
          ["Hypervisor", volume.hypervisorId],
          ["Discovered", ago(volume.discoveredAt)],
        ]),
      );
    });
}

function unprotect(context: Context): Command {
  return command("unprotect", "Take no more snapshots, and leave nothing on the hypervisor; backups stay", [
    "volumes unprotect web-root",
    "volumes unprotect web-root --wait",
  ])
    .argument("<volume>", "name, id, or the beginning of an id")
    .option("--wait", "until nothing is left on the hypervisor")
    .action(async (text: string, options: JsonOption & { wait?: boolean }) => {
      const client = await context.client();
      const begun = await client.volumes.unprotect(await findVolume(client, text));
      const volume = options.wait ? await protectionEnded(context, client, begun) : begun;
      print(context, options, volume, () =>
        volume.protection === "ended"
          ? `${volume.id} is unprotected: nothing of it is left on its hypervisor.\n`
          : `${volume.id} is unprotected. What is left of it on its hypervisor goes within some minutes: snapferry volumes get ${volume.id}\n`,
      );
    });
}

/** Rounds of garbage collection, which end protection, begin every 5 minutes. */
const pollMilliseconds = 2_000;

/** Waits for as long as it takes. Throws CliError when somebody protects the volume again, or Ctrl-C ends the waiting. */
async function protectionEnded({ terminal }: Context, client: Client, begun: Volume): Promise<Volume> {
  const interruption = Promise.withResolvers<"interrupted">();
  const stopListening = terminal.onInterrupt(() => interruption.resolve("interrupted"));
  try {
    let told: string | undefined;
    for (let volume = begun; ; volume = await client.volumes.get(volume.id)) {
      if (volume.protection === "ended") return volume;
      if (volume.protection === "protected")
        throw new CliError(exitCodes.failed, `${volume.id} was protected again meanwhile.`);
      const reason = volume.protectionError?.message;
      if (reason !== undefined && reason !== told) terminal.err(`It has to wait: ${printable(reason)}\n`);
      told = reason;
      if ((await Promise.race([sleep(pollMilliseconds), interruption.promise])) === "interrupted")
        throw new CliError(exitCodes.interrupted, `It goes on. Look at it with snapferry volumes get ${volume.id}.`);
    }
  } finally {
    stopListening();
  }
}

function protect(context: Context): Command {
  return command("protect", "Take snapshots of a volume again", ["volumes protect web-root"])
    .argument("<volume>", "name, id, or the beginning of an id")
    .action(async (text: string, options: JsonOption) => {
      const client = await context.client();
      const volume = await client.volumes.protect(await findVolume(client, text));
      print(context, options, volume, () => `${volume.id} is protected: snapshots of it can be taken.\n`);
    });
}
