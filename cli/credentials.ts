/** Which API to talk to and as whom: the environment, or what `snapferry login` has saved. */
import { chmod, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import path from "node:path";
import { CliError, exitCodes } from "./exit-codes.ts";
import type { Terminal } from "./terminal.ts";

export interface Credentials {
  readonly url: string;
  readonly token: string;
}

const howTo = "log in (snapferry login URL) or set SNAPFERRY_URL and SNAPFERRY_TOKEN";

/**
 * The environment goes before the file. A saved token is only sent to the URL that it was saved for.
 * Throws a usage error when something is missing.
 */
export async function findCredentials(terminal: Terminal): Promise<Credentials> {
  const { SNAPFERRY_URL: url, SNAPFERRY_TOKEN: token } = terminal.env;
  if (url && token) return { url, token };
  const saved = await readSaved(terminal);
  if (url) {
    if (saved && sameUrl(saved.url, url)) return { url, token: saved.token };
    throw new CliError(exitCodes.usage, `No token for ${url}: ${howTo}.`);
  }
  if (!saved) throw new CliError(exitCodes.usage, `No API and no token: ${howTo}.`);
  return token ? { url: saved.url, token } : saved;
}

/**
 * Only the user may read the file; its place holds what was there before until the new one is complete. Throws CliError when it cannot be
 * written.
 */
export async function saveCredentials(terminal: Terminal, credentials: Credentials): Promise<string> {
  const file = credentialsFile(terminal);
  const unfinished = `${file}.${process.pid}`;
  try {
    await mkdir(path.dirname(file), { recursive: true, mode: 0o700 });
    await writeFile(unfinished, `${JSON.stringify(credentials, null, 2)}\n`, { mode: 0o600 });
    await chmod(unfinished, 0o600);
    await rename(unfinished, file);
  } catch (error) {
    await rm(unfinished, { force: true }).catch(() => undefined);
    throw new CliError(exitCodes.failed, `${file} cannot be written: ${(error as Error).message}`);
  }
  return file;
}

function credentialsFile({ env }: Terminal): string {
  return path.join(env.HOME || homedir(), ".config", "snapferry", "credentials.json");
}

async function readSaved(terminal: Terminal): Promise<Credentials | undefined> {
  const file = credentialsFile(terminal);
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new CliError(exitCodes.usage, `${file} cannot be read (${(error as Error).message}): ${howTo}.`);
  }
  try {
    const { url, token } = JSON.parse(text) as Partial<Credentials>;
    if (typeof url === "string" && typeof token === "string") return { url, token };
  } catch {
    // What is no JSON is as unusable as what lacks a field.
  }
  throw new CliError(exitCodes.usage, `${file} cannot be used: log in again (snapferry login URL).`);
}

function sameUrl(left: string, right: string): boolean {
  return left.replace(/\/+$/, "") === right.replace(/\/+$/, "");
}
