#!/usr/bin/env node
// Starts the command line under a Node that runs TypeScript as it is: this one, or the one that the project installs.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const oldestMajor = 24;
const entry = new URL("snapferry.ts", import.meta.url);

if (Number(process.versions.node.split(".")[0]) >= oldestMajor) await import(entry.href);
else startWith(fileURLToPath(new URL("../node_modules/node/bin/node", import.meta.url)));

function startWith(node) {
  if (!existsSync(node)) {
    console.error(
      `snapferry needs Node ${oldestMajor} or newer; this is ${process.version}. In a checkout, npm ci installs one.`,
    );
    process.exitCode = 1;
    return;
  }
  const child = spawn(node, [fileURLToPath(entry), ...process.argv.slice(2)], { stdio: "inherit" });
  // Ctrl-C reaches the child too, and it says how to go on: wait for it.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"])
    process.on(signal, () => signal === "SIGINT" || child.kill(signal));
  child.on("exit", (code, signal) => {
    process.exitCode = code ?? (signal === "SIGINT" ? 130 : 1);
  });
}
