/** The command line's entry. */

import { runCli } from "../cli/program.ts";
import { processTerminal } from "../cli/terminal.ts";
import packageJson from "../package.json" with { type: "json" };

// A reader that goes away (`snapferry snapshots ls | head`) is no failure.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
});

process.exitCode = await runCli(process.argv.slice(2), processTerminal(), packageJson.version);
