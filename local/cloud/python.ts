import { existsSync, readdirSync, realpathSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { LocalCloudError } from "./errors.ts";
import { run } from "./process.ts";

/** Versions that LocalStack 4.14 runs on and that the lock file holds wheels for, best first. */
export const SUPPORTED_PYTHONS = ["3.13", "3.12"] as const;

/** An interpreter that can carry the local cloud. */
export interface Python {
  /** Absolute path of the interpreter. */
  path: string;
  /** E.g. `3.13.0`. */
  version: string;
}

interface Probe extends Python {
  /** Modules of the standard library that this build lacks. */
  missing: string[];
}

const NEEDED_MODULES = ["ssl", "ctypes", "zlib", "sqlite3", "venv", "ensurepip"];
const PROBE = `
import importlib.util as u, json, sys
missing = []
for name in ${JSON.stringify(NEEDED_MODULES)}:
    try:
        __import__(name)
    except ImportError:
        missing.append(name)
print(json.dumps({"path": sys.executable, "version": "%d.%d.%d" % sys.version_info[:3], "missing": missing}))
`;
// A cold interpreter on a busy machine takes a second or two.
const PROBE_TIMEOUT_MS = 20_000;
const UV_INSTALL_TIMEOUT_MS = 180_000;

/**
 * Finds a usable interpreter: what SNAPFERRY_PYTHON names, else on PATH, else under pyenv (also when HOME is not the one
 * that pyenv was installed for, where its shims are on PATH but do not work), else what uv finds or installs.
 *
 * @throws LocalCloudError one sentence with the command that mends it
 */
export async function findPython(environment: NodeJS.ProcessEnv = process.env): Promise<Python> {
  const seen: Probe[] = [];
  for (const candidate of candidates(environment)) {
    const probe = await examine(candidate, environment);
    if (!probe) continue;
    if (isUsable(probe)) return { path: probe.path, version: probe.version };
    seen.push(probe);
  }
  const fromUv = environment.SNAPFERRY_PYTHON ? undefined : await askUv(environment);
  if (fromUv) return fromUv;
  throw new LocalCloudError(advice(seen, environment));
}

function isUsable(probe: Probe): boolean {
  return isSupported(probe.version) && probe.missing.length === 0;
}

function isSupported(version: string): boolean {
  return SUPPORTED_PYTHONS.some((supported) => version.startsWith(`${supported}.`));
}

function* candidates(environment: NodeJS.ProcessEnv): Generator<string> {
  if (environment.SNAPFERRY_PYTHON) {
    yield environment.SNAPFERRY_PYTHON;
    return;
  }
  const folders = searchPath(environment);
  for (const name of [...SUPPORTED_PYTHONS.map((version) => `python${version}`), "python3", "python"]) {
    for (const folder of folders) {
      const path = join(folder, name);
      if (existsSync(path)) yield path;
    }
  }
  yield* pyenvInterpreters(environment, folders);
}

function searchPath(environment: NodeJS.ProcessEnv): string[] {
  return [...new Set((environment.PATH ?? "").split(delimiter).filter(Boolean))];
}

function* pyenvInterpreters(environment: NodeJS.ProcessEnv, folders: string[]): Generator<string> {
  const roots = [
    environment.PYENV_ROOT,
    ...folders
      .filter((folder) => existsSync(join(folder, "pyenv")))
      .map((folder) => dirname(dirname(realpathSync(join(folder, "pyenv"))))),
    ...folders.filter((folder) => folder.endsWith("/shims")).map((folder) => dirname(folder)),
    environment.HOME && join(environment.HOME, ".pyenv"),
  ];
  for (const root of new Set(roots)) {
    const versions = root && join(root, "versions");
    if (!versions || !existsSync(versions)) continue;
    const supported = readdirSync(versions).filter(isSupported).sort(byVersion).reverse();
    for (const version of supported) yield join(versions, version, "bin", "python");
  }
}

function byVersion(left: string, right: string): number {
  return left.localeCompare(right, "en", { numeric: true });
}

async function examine(path: string, environment: NodeJS.ProcessEnv): Promise<Probe | undefined> {
  // -I: neither PYTHONPATH nor the current folder may speak for the interpreter.
  const result = await run(path, ["-I", "-c", PROBE], { env: withoutPython(environment), timeoutMs: PROBE_TIMEOUT_MS });
  try {
    return result.code === 0 ? (JSON.parse(result.stdout) as Probe) : undefined;
  } catch {
    return undefined;
  }
}

function withoutPython(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(environment).filter(([name]) => !/^(PYTHON|VIRTUAL_ENV$|CONDA_)/.test(name)),
  );
}

async function askUv(environment: NodeJS.ProcessEnv): Promise<Python | undefined> {
  const uv = searchPath(environment)
    .map((folder) => join(folder, "uv"))
    .find(existsSync);
  if (!uv) return undefined;
  const [version] = SUPPORTED_PYTHONS;
  for (const args of [[], ["install", version]]) {
    if (args.length > 0) await run(uv, ["python", ...args], { env: environment, timeoutMs: UV_INSTALL_TIMEOUT_MS });
    for (const wanted of SUPPORTED_PYTHONS) {
      const found = await run(uv, ["python", "find", "--no-project", "--no-python-downloads", wanted], {
        env: environment,
        timeoutMs: PROBE_TIMEOUT_MS,
      });
      const probe = found.code === 0 ? await examine(found.stdout.trim(), environment) : undefined;
      if (probe && isUsable(probe)) return { path: probe.path, version: probe.version };
    }
  }
  return undefined;
}

function advice(seen: Probe[], environment: NodeJS.ProcessEnv): string {
  const needed = `Python ${[...SUPPORTED_PYTHONS].sort().join(" or ")}`;
  const has = (command: string) => searchPath(environment).some((folder) => existsSync(join(folder, command)));
  const [version] = SUPPORTED_PYTHONS;

  if (environment.SNAPFERRY_PYTHON) {
    const found = seen[0] ? `is ${describe(seen[0])}` : "does not run";
    return `The local cloud needs ${needed} and SNAPFERRY_PYTHON (${environment.SNAPFERRY_PYTHON}) ${found}; name another: export SNAPFERRY_PYTHON=/path/to/python${version}`;
  }
  const incomplete = seen.find((probe) => isSupported(probe.version));
  if (incomplete) {
    const short = incomplete.version.split(".").slice(0, 2).join(".");
    return `The local cloud needs ${needed} with its whole standard library and ${incomplete.path} is ${describe(incomplete)}; complete it: sudo apt-get install python${short}-venv`;
  }
  const best = seen.toSorted((left, right) => byVersion(left.version, right.version)).at(-1);
  const found = best ? `found ${best.version} at ${best.path}` : "found none";
  const command = has("pyenv")
    ? `pyenv install ${version}`
    : has("uv")
      ? `uv python install ${version}`
      : has("apt-get")
        ? `sudo apt-get install python${version} python${version}-venv`
        : has("brew")
          ? `brew install python@${version}`
          : `export SNAPFERRY_PYTHON=/path/to/python${version}`;
  return `The local cloud needs ${needed} (${found}); install it: ${command}`;
}

function describe(probe: Probe): string {
  return probe.missing.length > 0 ? `${probe.version} without ${probe.missing.join(", ")}` : probe.version;
}
