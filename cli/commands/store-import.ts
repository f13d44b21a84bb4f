/** `snapferry store import`: rows for the backups that a store of the service holds, page by page. */
import type { Command } from "commander";
import type { Client, ImportReport } from "../api-client.ts";
import { type Context, command, findStore, type JsonOption, print } from "../context.ts";
import { CliError, exitCodes } from "../exit-codes.ts";
import { printable } from "../format.ts";

interface ImportOptions extends JsonOption {
  readonly cursor?: string;
}

/** Everything that was answered so far. */
interface Imported {
  readonly imported: ImportReport["imported"];
  readonly refused: ImportReport["refused"];
  known: number;
  /** Where to go on; absent when all was looked through. */
  nextCursor?: string;
}

export function importCommand(context: Context): Command {
  return command("import", "Make the service know the backups that a store holds", [
    "store import default",
    "store import off-site --json",
  ])
    .argument("<store>", "name or id of a registered store, or default")
    .option("--cursor <cursor>", "go on where an earlier run ended")
    .action(async (text: string, options: ImportOptions) => {
      const client = await context.client();
      const id = await findStore(client, text);
      const { cursor } = options;
      const sum: Imported = {
        imported: [],
        refused: [],
        known: 0,
        ...(cursor === undefined ? {} : { nextCursor: cursor }),
      };
      let interrupted = false;
      const stopListening = context.terminal.onInterrupt(() => {
        interrupted = true;
      });
      try {
        await importPages(client, id, sum, () => interrupted);
      } catch (error) {
        if (sum.nextCursor !== cursor) show(context, options, id, sum);
        throw error;
      } finally {
        stopListening();
      }
      show(context, options, id, sum);
      if (sum.nextCursor !== undefined) throw new CliError(exitCodes.interrupted);
      if (sum.refused.length > 0)
        throw new CliError(exitCodes.failed, `${sum.refused.length} backups were not imported.`);
    });
}

/** Adds page by page to `sum`, which says where to go on whatever ends it. Each snapshot is imported whole or not at all. */
async function importPages(client: Client, id: string, sum: Imported, isInterrupted: () => boolean): Promise<void> {
  do {
    const { nextCursor: cursor } = sum;
    const page = await client.stores.import(id, { limit: 100, ...(cursor === undefined ? {} : { cursor }) });
    sum.imported.push(...page.imported);
    sum.refused.push(...page.refused);
    sum.known += page.known;
    if (page.nextCursor === undefined) delete sum.nextCursor;
    else sum.nextCursor = page.nextCursor;
  } while (sum.nextCursor !== undefined && !isInterrupted());
}

/** What was done, and how to go on where there is more. */
function show(context: Context, options: ImportOptions, id: string, sum: Imported): void {
  print(context, options, sum, () => importText(sum));
  if (sum.nextCursor !== undefined && !options.json)
    context.terminal.err(`Go on with snapferry store import ${id} --cursor ${sum.nextCursor}\n`);
}

function importText({ imported, known, refused }: Imported): string {
  const volumes = new Set(imported.map(({ volumeId }) => volumeId)).size;
  const lines = [
    `${imported.length} snapshots of ${volumes} volumes are imported; ${known} were known already.`,
    ...refused.map(({ snapshotId, domain, reason }) => printable(`${snapshotId} in ${domain}: ${reason}`)),
  ];
  return lines.map((line) => `${line}\n`).join("");
}
