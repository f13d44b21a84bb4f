/** What every command works with. */
import { Command } from "commander";
import { type Client, createClient, everyItem, type Page, type PageOptions } from "./api-client.ts";
import { findCredentials } from "./credentials.ts";
import { CliError, exitCodes } from "./exit-codes.ts";
import type { Terminal } from "./terminal.ts";

export interface Context {
  readonly terminal: Terminal;
  /** A client with the user's credentials. Throws a usage error when there are none. */
  client(): Promise<Client>;
}

export function createContext(terminal: Terminal): Context {
  return { terminal, client: async () => createClient(await findCredentials(terminal)) };
}

/** A command with examples under its help, and `--json`. */
export function command(name: string, summary: string, examples: readonly string[]): Command {
  return group(name, summary, examples).option("--json", "print the API's objects as they are");
}

/** A command that only holds others. */
export function group(name: string, summary: string, examples: readonly string[]): Command {
  const lines = examples.map((example) => `  $ snapferry ${example}`);
  return new Command(name).description(summary).addHelpText("after", `\n${["Examples:", ...lines].join("\n")}`);
}

export interface JsonOption {
  readonly json?: boolean;
}

/** The objects of the API as they are, or what people read. */
export function print(context: Context, options: JsonOption, answer: unknown, text: () => string): void {
  context.terminal.out(options.json ? `${JSON.stringify(answer, null, 2)}\n` : text());
}

export interface ListOptions extends JsonOption {
  readonly limit?: string;
  readonly cursor?: string;
}

/** The command that lists what its group is about. */
export function listCommand(summary: string, examples: readonly string[]): Command {
  return pagedCommand("ls", summary, examples).alias("list");
}

/** The command that lists what lives on hypervisors. */
export function listOnHypervisors<Item>(
  context: Context,
  summary: string,
  examples: readonly string[],
  list: (client: Client, query: PageOptions & { hypervisorId?: string }) => Promise<Page<Item>>,
  text: (items: readonly Item[]) => string,
): Command {
  return listCommand(summary, examples)
    .option("--hypervisor <hypervisor>", "only those on this hypervisor (name or id)")
    .action(async (options: ListOptions & { hypervisor?: string }) => {
      const client = await context.client();
      const hypervisorId = options.hypervisor && (await findHypervisor(client, options.hypervisor));
      const page = await list(client, { ...pageOptions(options), ...(hypervisorId ? { hypervisorId } : {}) });
      print(context, options, page, () => text(page.items));
      hintAtMore(context, options, page);
    });
}

/** A command with the options of every list. */
export function pagedCommand(name: string, summary: string, examples: readonly string[]): Command {
  return command(name, summary, examples)
    .option("--limit <count>", "how many at most, 1 to 100", wholeNumber)
    .option("--cursor <cursor>", "go on after an earlier page");
}

export function pageOptions({ limit, cursor }: ListOptions): PageOptions {
  return {
    ...(limit === undefined ? {} : { limit: Number(limit) }),
    ...(cursor === undefined ? {} : { cursor }),
  };
}

/** Says how to see more, where there is more. */
export function hintAtMore({ terminal }: Context, options: JsonOption, page: Page<unknown>): void {
  if (page.nextCursor !== undefined && !options.json) terminal.err(`There is more: add --cursor ${page.nextCursor}\n`);
}

function wholeNumber(text: string): string {
  if (!/^\d{1,9}$/.test(text)) throw new CliError(exitCodes.usage, `${JSON.stringify(text)} is not a whole number.`);
  return text;
}

interface Named {
  readonly id: string;
  readonly name: string;
}

/**
 * The one thing that `text` names: by its id, by its name, or by the beginning of its id. A complete id is not looked up.
 * Throws CliError when there is none, or more than one.
 */
export async function findByName<Item extends Named>(
  text: string,
  what: { readonly kind: string; readonly id: RegExp },
  list: (page: PageOptions) => Promise<Page<Item>>,
  preferred: (item: Item) => boolean = () => true,
): Promise<string> {
  if (what.id.test(text)) return text;
  const byName: Item[] = [];
  const byPrefix: Item[] = [];
  for await (const item of everyItem(list)) {
    if (item.name === text) byName.push(item);
    if (item.id.startsWith(text)) byPrefix.push(item);
  }
  const candidates = byName.length > 0 ? byName : byPrefix;
  const best = candidates.filter(preferred);
  const [found, ...others] = best.length > 0 ? best : candidates;
  if (!found) throw new CliError(exitCodes.failed, `There is no ${what.kind} ${JSON.stringify(text)}.`);
  if (others.length === 0) return found.id;
  const ids = [found, ...others].slice(0, 10).map(({ id, name }) => `  ${id}  ${name}`);
  throw new CliError(
    exitCodes.usage,
    `${JSON.stringify(text)} may be any of ${others.length + 1} ${what.kind}s; give the id:\n${ids.join("\n")}`,
  );
}

const ulid = "[0-9A-HJKMNP-TV-Z]{26}";

export function findVolume(client: Client, text: string): Promise<string> {
  const what = { kind: "volume", id: new RegExp(`^vol_${ulid}$`) };
  return findByName(text, what, client.volumes.list, (volume) => volume.status !== "missing");
}

export function findVm(client: Client, text: string): Promise<string> {
  const what = { kind: "VM", id: new RegExp(`^vm_${ulid}$`) };
  return findByName(text, what, client.vms.list, (vm) => vm.state !== "missing");
}

export function findHypervisor(client: Client, text: string): Promise<string> {
  return findByName(text, { kind: "hypervisor", id: new RegExp(`^hyp_${ulid}$`) }, client.hypervisors.list);
}

export function findStore(client: Client, text: string): Promise<string> {
  return findByName(text, { kind: "store", id: new RegExp(`^store_${ulid}$|^default$`) }, client.stores.list);
}
