/**
 * `npm run test:kvm`: the protocols of KVM and its adapter against the real servers, and the whole way of a backup on a local cloud. With `-- --install` what
 * is missing is installed first, with `-- --install-only` nothing else is done. Parts of file names choose: `npm run test:kvm -- nbd ssh`.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { install, installCommand, missingPackages } from "../../local/kvm-host/packages.ts";
import { startTestCloud } from "../../local/test-cloud.ts";

/** Each file has a host of its own, and waits for half of its time. More at once make each slower, and the guests are emulated. */
const filesAtOnce = 2;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { install: { type: "boolean" }, "install-only": { type: "boolean" } },
});

const missing = missingPackages();
const installs = values.install || values["install-only"];
if (missing.length > 0 && installs && !install(missing)) fail("The packages could not be installed: see above.");
const still = missingPackages();
if (still.length > 0) {
  fail(
    `These tests need Debian's ${still.join(", ")}. Run: npm run test:kvm -- --install (as root), or ${installCommand(still).join(" ")}`,
  );
}
if (values["install-only"]) process.exit();
if (process.getuid?.() !== 0) fail("These tests start a private libvirt and need to be run as root.");

const folder = import.meta.dirname;
const files = readdirSync(folder).filter(
  (name) => name.endsWith(".test.ts") && (positionals.length === 0 || positionals.some((part) => name.includes(part))),
);
if (files.length === 0) fail(`No file of ${folder} has ${positionals.join(" or ")} in its name.`);
const [onCloud, onHost] = [files.filter(needsCloud), files.filter((name) => !needsCloud(name))];
const codes = [await tests(onHost, filesAtOnce), await testsOnCloud(onCloud)];
process.exitCode = codes.find((code) => code !== 0) ?? 0;

function needsCloud(name: string): boolean {
  return name.startsWith("end-to-end");
}

async function testsOnCloud(names: readonly string[]): Promise<number> {
  if (names.length === 0) return 0;
  const { cloud, environment } = await startTestCloud("test-kvm");
  try {
    return await tests(names, 1, environment);
  } finally {
    await cloud.stop();
  }
}

async function tests(
  names: readonly string[],
  atOnce: number,
  environment: Readonly<Record<string, string>> = {},
): Promise<number> {
  if (names.length === 0) return 0;
  const options = ["--test", `--test-concurrency=${atOnce}`, "--test-timeout=600000"];
  const child = spawn(process.execPath, [...options, ...names.map((name) => join(folder, name))], {
    stdio: "inherit",
    env: { ...process.env, ...environment },
  });
  const [code] = await once(child, "exit");
  return code ?? 1;
}

function fail(text: string): never {
  console.error(text);
  process.exit(1);
}
