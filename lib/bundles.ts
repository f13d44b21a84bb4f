/**
 * The code of the functions: each entry file in one minified ES module with all it imports. One run of esbuild bundles all of them,
 * which parses the AWS SDK once.
 */
import { cpSync, existsSync, readdirSync, rmSync, statSync } from "node:fs";
import { basename, extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Stack, Stage } from "aws-cdk-lib";
import * as lambda from "aws-cdk-lib/aws-lambda";
import type { Construct } from "constructs";
import { buildSync } from "esbuild";
import { bundleSettings } from "./bundle-settings.ts";

const projectRoot = fileURLToPath(new URL("..", import.meta.url));

/** The file of one function. */
export interface Entry {
  /** Path from the project's root. */
  readonly file: string;
  /** Whether the code asks the file system for more than Node can (clones, holes) by way of `koffi`, where that is at hand. */
  readonly nativeFileCalls?: boolean;
  /** Files that the code starts as threads or loads once it needs them, from the project's root. Each lies beside the code under its own name. */
  readonly loadedLater?: readonly string[];
}

/**
 * Bundles `entries` beside the synthesised templates and returns the code of each. The CDK wants no code for stacks that it does
 * not deploy (`cdk destroy`, `cdk list`): those get a placeholder.
 */
export function bundle<Name extends string>(
  scope: Construct,
  entries: Readonly<Record<Name, Entry>>,
): Readonly<Record<Name, lambda.Code>> {
  const names = Object.keys(entries) as Name[];
  const codes = (code: (name: Name) => lambda.Code) =>
    Object.fromEntries(names.map((name) => [name, code(name)])) as Record<Name, lambda.Code>;
  if (!Stack.of(scope).bundlingRequired) return codes(() => lambda.Code.fromInline("// bundling was switched off"));

  const directory = join(Stage.of(scope)?.outdir ?? projectRoot, "bundles");
  rmSync(directory, { recursive: true, force: true });
  compile(directory, Object.fromEntries(names.flatMap((name) => outputs(name, entries[name]))));
  for (const name of names) if (entries[name].nativeFileCalls) addKoffi(join(directory, name));
  return codes((name) => lambda.Code.fromAsset(join(directory, name)));
}

/** What is compiled for one function: where to, without the extension, and from which file. */
function outputs(name: string, { file, loadedLater = [] }: Entry): [string, string][] {
  return [
    [`${name}/index`, file],
    ...loadedLater.map((later): [string, string] => [`${name}/${basename(later, extname(later))}`, later]),
  ];
}

function compile(outdir: string, entryPoints: Record<string, string>): void {
  buildSync({ ...bundleSettings, absWorkingDir: projectRoot, entryPoints, outdir, entryNames: "[dir]/[name]" });
}

const loadable: ReadonlySet<string> = new Set([".js", ".cjs", ".json", ".node"]);
const notOnLambda = /^(doc|lib|vendor|musl_.*)$/;

/**
 * What `koffi` loads, without its sources. npm installs the native part for the machine that deploys; where that is not the
 * functions' own kind, they find none and do without.
 */
function addKoffi(directory: string): void {
  const modules = join(projectRoot, "node_modules");
  const prebuilt = join(modules, "@koromix");
  const natives = existsSync(prebuilt) ? readdirSync(prebuilt).filter((name) => name.startsWith("koffi-linux-")) : [];
  for (const name of ["koffi", ...natives.map((native) => join("@koromix", native))])
    cpSync(join(modules, name), join(directory, "node_modules", name), {
      recursive: true,
      filter: (source) =>
        statSync(source).isDirectory() ? !notOnLambda.test(basename(source)) : loadable.has(extname(source)),
    });
}
