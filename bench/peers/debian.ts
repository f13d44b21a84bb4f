/** Programs of Debian packages, unpacked below a directory of ours: nothing is installed on the machine and nobody needs to be root. */
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { plainEnvironment } from "../../local/cloud/environment.ts";
import { type CommandResult, run } from "../../local/cloud/process.ts";
import { BenchmarkError } from "../errors.ts";

/** A program and what its environment must have. */
export interface Program {
  readonly path: string;
  readonly environment: NodeJS.ProcessEnv;
}

/** Where libraries lie that a package brings, on the one platform that the local tools run on. */
const libraryFolders = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

export interface Wanted {
  readonly name: string;
  /** The Debian package that has it. */
  readonly packageName: string;
  /** Argument with which it tells its version: whether it starts at all. */
  readonly versionArgument: string;
}

/**
 * The machine's own program of that name, or that of the Debian package, unpacked below `directory`.
 * Throws BenchmarkError when there is neither, or it does not start.
 */
export async function findProgram(wanted: Wanted, directory: string): Promise<Program> {
  const program = await locate(wanted, directory);
  const { code, stderr } = await run(program.path, [wanted.versionArgument], { env: program.environment });
  if (code === 0) return program;
  throw new BenchmarkError(`${program.path} does not start: ${stderr.trim().split("\n").at(-1)}`);
}

async function locate({ name, packageName }: Wanted, directory: string): Promise<Program> {
  const environment = { ...plainEnvironment(), LC_ALL: "C.UTF-8" };
  const own = (process.env.PATH ?? "")
    .split(":")
    .map((folder) => join(folder, name))
    .find(existsSync);
  if (own !== undefined) return { path: own, environment };
  const root = join(directory, packageName);
  const path = join(root, "usr/bin", name);
  if (!existsSync(path)) await unpackPackage(packageName, directory, root);
  const libraries = libraryFolders.map((folder) => join(root, folder)).join(":");
  const program = { path, environment: { ...environment, LD_LIBRARY_PATH: libraries } };
  if (existsSync(path)) return program;
  throw new BenchmarkError(`the Debian package ${packageName} has no ${name}`);
}

async function unpackPackage(packageName: string, directory: string, root: string): Promise<void> {
  const downloads = join(directory, `${packageName}.download`);
  mkdirSync(downloads, { recursive: true });
  mkdirSync(root, { recursive: true });
  const packages = [packageName, ...(await missingLibraries(packageName))];
  await succeed(await execute("apt-get", ["download", ...packages], downloads), `apt-get download ${packageName}`);
  for (const file of readdirSync(downloads).filter((each) => each.endsWith(".deb"))) {
    await succeed(await execute("dpkg", ["-x", join(downloads, file), root], downloads), `dpkg -x ${file}`);
  }
}

/** Packages that it depends on directly and that the machine does not have. */
async function missingLibraries(packageName: string): Promise<string[]> {
  const { stdout } = await execute("apt-cache", ["depends", "--important", packageName], "/");
  const names = [...stdout.matchAll(/^\s*(?:Pre)?Depends: (\S+)$/gm)].map(([, name = ""]) => name);
  const missing: string[] = [];
  for (const name of names) {
    const { code } = await execute("dpkg-query", ["-W", name], "/");
    if (code !== 0) missing.push(name);
  }
  return missing;
}

function execute(command: string, arguments_: readonly string[], cwd: string): Promise<CommandResult> {
  return run(command, arguments_, { cwd, env: { ...process.env, LC_ALL: "C" } });
}

async function succeed(result: CommandResult, what: string): Promise<void> {
  if (result.code === 0) return;
  throw new BenchmarkError(`${what} failed: ${result.stderr.trim().split("\n").at(-1)}`);
}
