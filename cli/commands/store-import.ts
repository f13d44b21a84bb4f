/** `snapferry store import`: rows for the backups that a store of the service holds, page by page. */
import type { Command } from "commander";
import type { ImportReport } from "../api-client.ts";
import { type Context, command, findStore, type JsonOption } from "../context.ts";
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
      const sum: Imported = { imported: [], refused: [], known: 0 };
      let interrupted = false;
      const stopListening = context.terminal.onInterrupt(() => {
        interrupted = true;
      });
      try {
        for (let cursor = options.cursor, more = true; more; ) {
          const page = await client.stores.import(id, { limit: 100, ...(cursor === undefined ? {} : { cursor }) });
          sum.imported.push(...page.imported);
          sum.refused.push(...page.refused);
          sum.known += page.known;
          cursor = page.nextCursor;
          more = cursor !== undefined;
          if (more && interrupted) throw stopped(id, cursor);
        }
      } finally {
        stopListening();
      }
      context.terminal.out(options.json ? `${JSON.stringify(sum, null, 2)}\n` : importText(sum));
      if (sum.refused.length > 0)
        throw new CliError(exitCodes.failed, `${sum.refused.length} backups were not imported.`);
    });
}

/** Each snapshot is imported whole or not at all. */
function stopped(id: string, cursor: string | undefined): CliError {
  return new CliError(exitCodes.interrupted, `Go on with snapferry store import ${id} --cursor ${cursor}`);
}

function importText({ imported, known, refused }: Imported): string {
  const volumes = new Set(imported.map(({ volumeId }) => volumeId)).size;
  const lines = [
    `${imported.length} snapshots of ${volumes} volumes are imported; ${known} were known already.`,
    ...refused.map(({ snapshotId, domain, reason }) => printable(`${snapshotId} in ${domain}: ${reason}`)),
  ];
  return lines.map((line) => `${line}\n`).join("");
}
