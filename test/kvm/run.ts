/** `npm run test:kvm`: the protocols of KVM against the real servers. With `-- --install` what is missing is installed first. */
import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { install, installCommand, missingPackages } from "./packages.ts";

const { values, positionals } = parseArgs({ allowPositionals: true, options: { install: { type: "boolean" } } });

const missing = missingPackages();
if (missing.length > 0 && values.install && !install(missing)) fail("The packages could not be installed: see above.");
const still = missingPackages();
if (still.length > 0) {
  fail(
    `These tests need Debian's ${still.join(", ")}. Run: npm run test:kvm -- --install (as root), or ${installCommand(still).join(" ")}`,
  );
}
if (process.getuid?.() !== 0) fail("These tests start a private libvirt and need to be run as root.");

const folder = import.meta.dirname;
const files = readdirSync(folder).filter(
  (name) => name.endsWith(".test.ts") && (positionals.length === 0 || positionals.some((part) => name.includes(part))),
);
if (files.length === 0) fail(`No file of ${folder} has ${positionals.join(" or ")} in its name.`);
const options = ["--test", "--test-concurrency=1", "--test-timeout=300000"];
const tests = spawn(process.execPath, [...options, ...files.map((name) => join(folder, name))], { stdio: "inherit" });
tests.on("exit", (code) => {
  process.exitCode = code ?? 1;
});

function fail(text: string): never {
  console.error(text);
  process.exit(1);
}
