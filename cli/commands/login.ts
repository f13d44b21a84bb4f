/** `snapferry login`: checks a URL and a token, and keeps them. */
import { createInterface } from "node:readline/promises";
import { Writable } from "node:stream";
import type { Command } from "commander";
import { createClient } from "../api-client.ts";
import { type Context, command, type JsonOption, print } from "../context.ts";
import { saveCredentials } from "../credentials.ts";
import { CliError, exitCodes } from "../exit-codes.ts";

export function loginCommand(context: Context): Command {
  return command("login", "Save the API's URL and your token, after checking them", [
    "login https://abc.execute-api.eu-west-1.amazonaws.com",
    "login http://127.0.0.1:4566/_aws/execute-api/abc --token eyJ…",
    "login https://snapferry.example.com < token.txt",
  ])
    .argument("[url]", "where the API is; SNAPFERRY_URL if absent")
    .option("--token <token>", "the token; SNAPFERRY_TOKEN, or what stdin has, if absent")
    .action(async (given: string | undefined, options: JsonOption & { token?: string }) => {
      const { terminal } = context;
      const url = given || terminal.env.SNAPFERRY_URL;
      if (!url || !isHttp(url)) throw new CliError(exitCodes.usage, "Give the API's URL: snapferry login https://…");
      const token = (options.token || terminal.env.SNAPFERRY_TOKEN || (await readToken(context))).trim();
      if (token === "") throw new CliError(exitCodes.usage, "Give a token: --token, SNAPFERRY_TOKEN or on stdin.");
      const client = createClient({ url, token });
      const { version } = await client.health();
      await client.jobs.list({ limit: 1 });
      const file = await saveCredentials(terminal, { url, token });
      print(
        context,
        options,
        { url, version, file },
        () => `Logged in to ${url} (Snapferry ${version}); saved in ${file}.\n`,
      );
    });
}

function isHttp(url: string): boolean {
  return URL.canParse(url) && /^https?:$/.test(new URL(url).protocol);
}

async function readToken({ terminal }: Context): Promise<string> {
  const input = await terminal.readInput();
  if (input !== undefined) return input;
  terminal.err("Token: ");
  const silent = new Writable({ write: (_chunk, _encoding, done) => done() });
  const prompt = createInterface({ input: process.stdin, output: silent, terminal: true });
  try {
    return await prompt.question("");
  } finally {
    prompt.close();
    terminal.err("\n");
  }
}
