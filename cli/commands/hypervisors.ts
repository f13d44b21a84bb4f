import { readFile } from "node:fs/promises";
import { type Command, InvalidArgumentError } from "commander";
import type { RegisterHypervisorInput } from "../../lambdas/api/request-schemas.ts";
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
import { CliError, exitCodes } from "../exit-codes.ts";
import { forgottenText } from "../forgotten-text.ts";
import { ago, details, printable, table } from "../format.ts";

export function hypervisorsCommand(context: Context): Command {
  return group("hypervisors", "Where volumes live", [
    "hypervisors add file /srv/volumes --name lab",
    "hypervisors add kvm ssh://snapferry@kvm1 --known-hosts ~/.ssh/known_hosts --secret snapferry/acme/kvm1",
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

interface AddOptions extends JsonOption {
  readonly name?: string;
  readonly id?: string;
  readonly tenantRule?: TenantRule[];
}

interface AddKvmOptions extends AddOptions {
  readonly secret: string;
  readonly hostKey?: string;
  readonly knownHosts?: string;
  readonly uri?: string;
}

function add(context: Context): Command {
  const examples = [
    "hypervisors add file /srv/volumes --name lab",
    "hypervisors add kvm ssh://snapferry@kvm1.example.org --known-hosts ~/.ssh/known_hosts --secret snapferry/acme/kvm1",
  ];
  return group("add", "Register a hypervisor", examples).addCommand(addFile(context)).addCommand(addKvm(context));
}

function addFile(context: Context): Command {
  const adding = command("file", "A directory whose files are the volumes", [
    "hypervisors add file /srv/volumes --name lab",
    "hypervisors add file /srv/volumes --tenant-rule 'acme-*=acme' --tenant-rule '*=others'",
  ]).argument("<directory>", "absolute path, as the service sees it");
  return withAddOptions(adding, "the directory's last part").action((directory: string, options: AddOptions) =>
    register(context, options, { kind: "file", directory }),
  );
}

function addKvm(context: Context): Command {
  const adding = command("kvm", "A host with libvirt and QEMU, over SSH", [
    "hypervisors add kvm ssh://snapferry@kvm1.example.org --known-hosts ~/.ssh/known_hosts --secret snapferry/acme/kvm1",
    "hypervisors add kvm ssh://snapferry@10.1.2.3:2222 --host-key 'ssh-ed25519 AAAA…' --secret snapferry/acme/kvm1",
  ])
    .argument("<endpoint>", "ssh://user@host or ssh://user@host:port, as the service sees it")
    .requiredOption("--secret <name>", "the secret with the user's private key; begins with snapferry/TENANT/")
    .option("--host-key <line>", "the host's public key, as in its file ssh_host_ed25519_key.pub")
    .option("--known-hosts <file>", "a file with lines of known_hosts, in place of --host-key")
    .option("--uri <uri>", "which libvirt of the host; qemu:///system if absent");
  return withAddOptions(adding, "the host's name").action(async (endpoint: string, options: AddKvmOptions) =>
    register(context, options, {
      kind: "kvm",
      endpoint,
      secretId: options.secret,
      ...(options.hostKey === undefined ? {} : { hostKey: options.hostKey }),
      ...(options.knownHosts === undefined ? {} : { knownHosts: await readText(options.knownHosts) }),
      ...(options.uri === undefined ? {} : { uri: options.uri }),
    }),
  );
}

function withAddOptions(adding: Command, nameIfAbsent: string): Command {
  return adding
    .option("--name <name>", `what it is called; ${nameIfAbsent} if absent`)
    .option("--id <id>", "the id that it had before the service lost it, so that its volumes are the same ones")
    .option("--tenant-rule <pattern=tenant>", "whose volumes of such names are; may be given several times", addRule);
}

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    throw new CliError(exitCodes.usage, `${file} cannot be read: ${(error as Error).message}`);
  }
}

async function register(context: Context, options: AddOptions, settings: RegisterHypervisorInput): Promise<void> {
  const hypervisor = await (await context.client()).hypervisors.register({
    ...settings,
    ...(options.id === undefined ? {} : { id: options.id }),
    ...(options.name === undefined ? {} : { name: options.name }),
    ...(options.tenantRule === undefined ? {} : { tenantRules: options.tenantRule }),
  });
  const { versions = {}, warnings = [] } = hypervisor.lastCheck ?? {};
  const found = Object.entries(versions).map(([software, version]) => `${printable(software)} ${printable(version)}`);
  print(context, options, hypervisor, () =>
    [
      `${hypervisor.id} (${printable(hypervisor.name)}) is registered.`,
      ...(found.length === 0 ? [] : [`It has ${found.join(", ")}.`]),
      ...warnings.map((warning) => `Note: ${printable(warning)}`),
      `Find its volumes with snapferry hypervisors discover ${hypervisor.id}\n`,
    ].join("\n"),
  );
}

function addRule(text: string, rules: readonly TenantRule[] = []): TenantRule[] {
  const split = text.lastIndexOf("=");
  if (split < 1 || split === text.length - 1) throw new InvalidArgumentError("A rule is PATTERN=TENANT.");
  return [...rules, { pattern: text.slice(0, split), tenant: text.slice(split + 1) }];
}

function discover(context: Context): Command {
  return command("discover", "Look for volumes and virtual machines", ["hypervisors discover lab"])
    .argument("<hypervisor>", "name or id")
    .action(async (text: string, options: JsonOption) => {
      const client = await context.client();
      const counts = await client.hypervisors.discover(await findHypervisor(client, text));
      const { vms } = counts;
      print(context, options, counts, () =>
        [
          `${counts.found} volumes: ${counts.added} new, ${counts.unsupported} unsupported; ${counts.missing} missing.\n`,
          ...(vms === undefined ? [] : [`${vms.found} VMs: ${vms.added} new; ${vms.missing} missing.\n`]),
        ].join(""),
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
    ["ID", "NAME", "KIND", "WHERE", "DISCOVERED"],
    hypervisors.map((one) => [one.id, printable(one.name), one.kind, whereOf(one), ago(one.discoveredAt)]),
  );
}

function whereOf({ directory, endpoint }: Hypervisor): string {
  return printable(directory ?? endpoint ?? "");
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
          ["Where", whereOf(one)],
          ...(one.hostKeys ?? []).map((key): [string, string] => ["Host key", printable(key)]),
          ["Secret", one.secretId],
          ["Libvirt", one.uri],
          ...Object.entries(one.lastCheck?.versions ?? {}).map(([software, version]): [string, string] => [
            printable(software),
            printable(version),
          ]),
          ...(one.tenantRules ?? []).map(({ pattern, tenant }): [string, string] => [
            "Rule",
            printable(`${pattern} = ${tenant}`),
          ]),
          ...(one.lastCheck?.warnings ?? []).map((warning): [string, string] => ["Note", printable(warning)]),
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
