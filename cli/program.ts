/** The command line: which commands there are, and what becomes of their errors. */
import { type Command, CommanderError } from "commander";
import { ApiProblem, ApiUnreachable } from "./api-client.ts";
import { hypervisorsCommand } from "./commands/hypervisors.ts";
import { jobsCommand } from "./commands/jobs.ts";
import { loginCommand } from "./commands/login.ts";
import { snapshotsCommand } from "./commands/snapshots.ts";
import { storeCommand } from "./commands/store.ts";
import { storesCommand } from "./commands/stores.ts";
import { vmsCommand } from "./commands/vms.ts";
import { volumesCommand } from "./commands/volumes.ts";
import { createContext, group } from "./context.ts";
import { CliError, type ExitCode, exitCodeOf, exitCodes } from "./exit-codes.ts";
import { problemText } from "./problem-text.ts";
import type { Terminal } from "./terminal.ts";

/** Runs one command; the arguments begin after the program's name. Resolves to the exit code and never rejects. */
export async function runCli(args: readonly string[], terminal: Terminal, version: string): Promise<ExitCode> {
  const program = createProgram(terminal, version);
  try {
    await program.parseAsync([...args], { from: "user" });
    return exitCodes.done;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.done : exitCodes.usage;
    terminal.err(errorText(error, args.includes("--json")));
    return exitCodeOf(error);
  }
}

function createProgram(terminal: Terminal, version: string): Command {
  const context = createContext(terminal);
  const program = group("snapferry", "Backup of VM volumes: snapshot in a moment, back up in its own time", [
    "login https://snapferry.example.com",
    "volumes ls",
    "snapshots create web-root --async --watch",
    "snapshots ls",
  ])
    .version(version, "-V, --version", "print the version")
    .addHelpText(
      "after",
      `
SNAPFERRY_URL and SNAPFERRY_TOKEN go before what login has saved.
Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 not reachable, 4 not allowed, 5 a backup is damaged,
6 a salvage has kept what there was, 130 interrupted.`,
    )
    .addCommand(loginCommand(context))
    .addCommand(volumesCommand(context))
    .addCommand(vmsCommand(context))
    .addCommand(snapshotsCommand(context))
    .addCommand(jobsCommand(context))
    .addCommand(hypervisorsCommand(context))
    .addCommand(storesCommand(context))
    .addCommand(storeCommand(context));
  prepare(program, terminal);
  return program;
}

/** Nothing may end the process or write past the terminal, whichever command it is. */
function prepare(command: Command, terminal: Terminal): void {
  command
    .exitOverride()
    .configureOutput({ writeOut: (text) => terminal.out(text), writeErr: (text) => terminal.err(text) })
    .showHelpAfterError("(add --help for usage and examples)");
  for (const child of command.commands) prepare(child, terminal);
}

/** With `--json` a problem is the API's object, too. */
function errorText(error: unknown, json: boolean): string {
  if (error instanceof ApiProblem) return json ? `${JSON.stringify(error.problem, null, 2)}\n` : problemText(error);
  if (error instanceof CliError || error instanceof ApiUnreachable)
    return error.message === "" ? "" : `${error.message}\n`;
  return `${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`;
}
