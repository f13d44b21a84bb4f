import { type Command, InvalidArgumentError } from "commander";
import type { Hypervisor } from "../api-client.ts";
import {
  type Context,
  command,
  findHypervisor,
  group,
  hintAtMore,
  type JsonOption,
  type ListOptions,
  listCommand,
  pageOptions,
  print,
} from "../context.ts";
import { forgottenText } from "../forgotten-text.ts";
import { ago, details, printable, table } from "../format.ts";

export function hypervisorsCommand(context: Context): Command {
  return group("hypervisors", "Where volumes live", [
    "hypervisors add file /srv/volumes --name lab",
    "hypervisors discover lab",
  ])
    .addCommand(add(context))
    .addCommand(discover(context))
    .addCommand(ls(context))
    .addCommand(get(context))
    .addCommand(rm(context));
}

interface TenantRule {
  readonly pattern: string;
  readonly tenant: string;
}

function add(context: Context): Command {
  const file = command("file", "A directory whose files are the volumes", [
    "hypervisors add file /srv/volumes --name lab",
    "hypervisors add file /srv/volumes --tenant-rule 'acme-*=acme' --tenant-rule '*=others'",
  ])
    .argument("<directory>", "absolute path, as the service sees it")
    .option("--name <name>", "what it is called; the directory's last part if absent")
    .option("--id <id>", "the id that it had before the service lost it, so that its volumes are the same ones")
    .option("--tenant-rule <pattern=tenant>", "whose volumes of such names are; may be given several times", addRule)
    .action(
      async (directory: string, options: JsonOption & { name?: string; id?: string; tenantRule?: TenantRule[] }) => {
        const hypervisor = await (await context.client()).hypervisors.register({
          kind: "file",
          directory,
          ...(options.id === undefined ? {} : { id: options.id }),
          ...(options.name === undefined ? {} : { name: options.name }),
          ...(options.tenantRule === undefined ? {} : { tenantRules: options.tenantRule }),
        });
        print(
          context,
          options,
          hypervisor,
          () =>
            `${hypervisor.id} (${printable(hypervisor.name)}) is registered.\nFind its volumes with snapferry hypervisors discover ${hypervisor.id}\n`,
        );
      },
    );
  return group("add", "Register a hypervisor", ["hypervisors add file /srv/volumes --name lab"]).addCommand(file);
}

function addRule(text: string, rules: readonly TenantRule[] = []): TenantRule[] {
  const split = text.lastIndexOf("=");
  if (split < 1 || split === text.length - 1) throw new InvalidArgumentError("A rule is PATTERN=TENANT.");
  return [...rules, { pattern: text.slice(0, split), tenant: text.slice(split + 1) }];
}

function discover(context: Context): Command {
  return command("discover", "Look for volumes", ["hypervisors discover lab"])
    .argument("<hypervisor>", "name or id")
    .action(async (text: string, options: JsonOption) => {
      const client = await context.client();
      const counts = await client.hypervisors.discover(await findHypervisor(client, text));
      print(
        context,
        options,
        counts,
        () =>
          `${counts.found} volumes: ${counts.added} new, ${counts.unsupported} unsupported; ${counts.missing} missing.\n`,
      );
    });
}

function ls(context: Context): Command {
  return listCommand("List hypervisors", ["hypervisors ls"]).action(async (options: ListOptions) => {
    const page = await (await context.client()).hypervisors.list(pageOptions(options));
    print(context, options, page, () => hypervisorTable(page.items));
    hintAtMore(context, options, page);
  });
}

function hypervisorTable(hypervisors: readonly Hypervisor[]): string {
  return table(
    ["ID", "NAME", "KIND", "DIRECTORY", "DISCOVERED"],
    hypervisors.map((one) => [one.id, printable(one.name), one.kind, printable(one.directory), ago(one.discoveredAt)]),
  );
}

function get(context: Context): Command {
  return command("get", "Look at a hypervisor", ["hypervisors get lab"])
    .argument("<hypervisor>", "name or id")
    .action(async (text: string, options: JsonOption) => {
      const client = await context.client();
      const one = await client.hypervisors.get(await findHypervisor(client, text));
      print(context, options, one, () =>
        details([
          ["Id", one.id],
          ["Name", printable(one.name)],
          ["Kind", one.kind],
          ["Directory", printable(one.directory)],
          ...(one.tenantRules ?? []).map(({ pattern, tenant }): [string, string] => [
            "Rule",
            printable(`${pattern} = ${tenant}`),
          ]),
          ["Created", one.createdAt],
          ["Discovered", one.discoveredAt],
        ]),
      );
    });
}

function rm(context: Context): Command {
  return command("rm", "Forget a hypervisor", ["hypervisors rm lab", "hypervisors rm lab --force"])
    .argument("<hypervisor>", "name or id")
    .option("--force", "also while it has snapshots; what they have there is left behind")
    .action(async (text: string, options: JsonOption & { force?: boolean }) => {
      const client = await context.client();
      const id = await findHypervisor(client, text);
      const forgotten = await client.hypervisors.delete(id, options.force ? { force: true } : {});
      print(context, options, forgotten, () => forgottenText(id, forgotten));
    });
}
