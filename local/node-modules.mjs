// Whether node_modules is what package-lock.json says, without asking npm (which takes seconds).
import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

// What an outer `npm run` or `npx` hands down that would change what `npm ci` installs, or where.
const MISLEADING_NPM_SETTINGS =
  /^npm_(lifecycle_|package_|command$|config_(global|location|prefix|local_prefix|dry_run|ignore_scripts|omit|include|only|production|package_lock|package_lock_only|json|workspace|workspaces|include_workspace_root|loglevel|silent)$)/i;

const hashFile = (checkout) => join(checkout, "node_modules", ".snapferry-lock-hash");
const nodeBinary = (checkout) => join(checkout, "node_modules", "node", "bin", "node");

/**
 * @param {string} checkout
 * @returns {boolean} true when node_modules holds exactly what the lock file names
 */
export function isInstalled(checkout) {
  if (!existsSync(nodeBinary(checkout))) return false;
  if (readText(hashFile(checkout)) === lockHash(checkout)) return true;
  if (!matchesLockFile(checkout)) return false;
  markInstalled(checkout);
  return true;
}

/**
 * Records that node_modules belongs to the present package-lock.json.
 * @param {string} checkout
 */
export function markInstalled(checkout) {
  writeFileSync(hashFile(checkout), lockHash(checkout));
}

/**
 * The environment for `npm ci`, free of what an outer npm command set for itself.
 * @param {NodeJS.ProcessEnv} environment
 * @returns {NodeJS.ProcessEnv}
 */
export function environmentForNpm(environment) {
  return Object.fromEntries(Object.entries(environment).filter(([name]) => !MISLEADING_NPM_SETTINGS.test(name)));
}

function lockHash(checkout) {
  return createHash("sha256")
    .update(readFileSync(join(checkout, "package-lock.json")))
    .digest("hex");
}

// Somebody may have run `npm ci` or `npm install` by hand: npm's own record of what is there tells.
function matchesLockFile(checkout) {
  const installed = readText(join(checkout, "node_modules", ".package-lock.json"));
  if (!installed) return false;
  const there = JSON.parse(installed).packages;
  const wanted = JSON.parse(readFileSync(join(checkout, "package-lock.json"), "utf8")).packages;
  return Object.entries(wanted).every(
    ([path, entry]) => path === "" || there[path]?.version === entry.version || (entry.optional && !there[path]),
  );
}

function readText(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}
