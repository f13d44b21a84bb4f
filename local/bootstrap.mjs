// Runs a TypeScript script of this checkout on the Node it is written for: node local/bootstrap.mjs SCRIPT.ts [arguments]
// A first argument with a dash goes to Node, too: node local/bootstrap.mjs --test 'lib/**/*.test.ts'
// Plain JavaScript without dependencies, so that Node 20 runs it in a fresh clone.
import { spawn } from "node:child_process";
import { constants } from "node:os";
import { delimiter, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { withFileLock } from "./file-lock.mjs";
import { environmentForNpm, isInstalled, markInstalled } from "./node-modules.mjs";

const OLDEST_NODE = 20;
const SHOWN_LINES = 15;
const checkout = dirname(dirname(fileURLToPath(import.meta.url)));

const major = Number(process.versions.node.split(".")[0]);
if (major < OLDEST_NODE) {
  fail(
    `Snapferry needs Node ${OLDEST_NODE} or newer and this is ${process.versions.node}; install one, e.g. nvm install 24.`,
  );
}
const [script, ...scriptArguments] = process.argv.slice(2);
if (!script) fail("Usage: node local/bootstrap.mjs SCRIPT.ts [arguments]", 2);

await ensureNodeModules();
runScript();

async function ensureNodeModules() {
  if (isInstalled(checkout)) return;
  const onWait = (pid) => note(`Waiting for process ${pid}, which is installing node modules …`);
  await withFileLock(
    join(checkout, ".snapferry", "node-modules.lock"),
    async () => {
      if (isInstalled(checkout)) return;
      await installNodeModules();
      markInstalled(checkout);
    },
    onWait,
  );
}

async function installNodeModules() {
  const started = Date.now();
  // stdout belongs to the script: `eval "$(npm run -s local -- env)"` must work in a fresh clone too.
  if (process.stderr.isTTY) process.stderr.write("  … node modules");
  const fromNpm = /npm-cli\.js$/.test(process.env.npm_execpath ?? "");
  const command = fromNpm ? [process.execPath, process.env.npm_execpath] : ["npm"];
  const npm = spawn(command[0], [...command.slice(1), "ci", "--include=dev", "--no-audit", "--no-fund"], {
    cwd: checkout,
    env: environmentForNpm(process.env),
    stdio: ["ignore", "pipe", "pipe"],
  });
  const log = [];
  npm.stdout.on("data", (chunk) => log.push(chunk));
  npm.stderr.on("data", (chunk) => log.push(chunk));
  const code = await new Promise((done) => {
    npm.on("error", (error) => {
      log.push(Buffer.from(error.message));
      done(1);
    });
    npm.on("close", done);
  });
  const clear = process.stderr.isTTY ? "\r\x1b[K" : "";
  if (code !== 0) {
    const lines = Buffer.concat(log).toString().trimEnd().split("\n");
    const errors = lines.filter((line) => line.startsWith("npm error"));
    const shown = errors.length > 0 ? errors.slice(0, SHOWN_LINES) : lines.slice(-SHOWN_LINES);
    fail(`${clear}${shown.join("\n")}\n\nnpm ci failed (see above); mend it and run: npm ci`);
  }
  note(`${clear}  ✔ node modules  ${((Date.now() - started) / 1000).toFixed(0)} s`);
}

function runScript() {
  const binaries = join(checkout, "node_modules", ".bin");
  const child = spawn(
    join(checkout, "node_modules", "node", "bin", "node"),
    [script.startsWith("-") ? script : resolve(script), ...scriptArguments],
    {
      stdio: "inherit",
      env: {
        ...process.env,
        PATH: `${binaries}${delimiter}${process.env.PATH ?? ""}`,
        // A script that owns a cloud ends it when this process is gone, even by SIGKILL.
        SNAPFERRY_BOOTSTRAP_PID: String(process.pid),
      },
    },
  );
  child.on("error", (error) => fail(`Cannot start Node 24 of this checkout (${error.message}); run: npm ci`));
  for (const signal of ["SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));
  // A terminal sends Ctrl-C to the whole group, so the child has it already; a second one would mean "now at once".
  process.on("SIGINT", () => process.stdin.isTTY || child.kill("SIGINT"));
  child.on("exit", (code, signal) => {
    process.exitCode = signal ? 128 + constants.signals[signal] : (code ?? 1);
  });
}

function note(text) {
  process.stderr.write(`${text}\n`);
}

function fail(text, code = 1) {
  note(text);
  process.exit(code);
}
