import { join, resolve } from "node:path";

/** Root folder of this checkout. */
export const CHECKOUT = resolve(import.meta.dirname, "..", "..");

/** The Node 24 that runs Lambda functions, scripts and the CDK. */
export const NODE_BINARY = join(CHECKOUT, "node_modules", "node", "bin", "node");

/** Folder of the Python package that LocalStack loads: Lambda functions as local processes. */
export const LAMBDA_EXECUTOR = join(CHECKOUT, "local", "lambda-executor");

/** Where installed things go: `.snapferry/cache` of the checkout, or what SNAPFERRY_CACHE says. */
export function cacheRoot(environment: NodeJS.ProcessEnv = process.env): string {
  return environment.SNAPFERRY_CACHE ? resolve(environment.SNAPFERRY_CACHE) : join(CHECKOUT, ".snapferry", "cache");
}

/**
 * Folder of all that belongs to one cloud while it runs.
 *
 * @throws TypeError when the name cannot be a folder's name
 */
export function runDirectory(name: string): string {
  if (!/^[a-z0-9][a-z0-9-]{0,39}$/.test(name)) {
    throw new TypeError(`"${name}" cannot name a local cloud: use lower case letters, digits and dashes.`);
  }
  return join(CHECKOUT, ".snapferry", "run", name);
}
