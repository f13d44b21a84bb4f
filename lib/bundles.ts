/**
 * The code of the functions: each entry file with all it imports, as minified ES modules. What is imported only when it is needed (the
 * clients of SSH, libvirt and NBD; the AWS SDK's ways to come by credentials) lies in files of its own: a start reads half of the code. So
 * each function takes a run of esbuild, which parses the AWS SDK anew.
 */
import { cpSync, existsSync, readdirSync, rmSync, statSync } from "node:fs";
import { basename, extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Stack, Stage } from "aws-cdk-lib";
import * as lambda from "aws-cdk-lib/aws-lambda";
import type { Construct } from "constructs";
import { compile, type Sources } from "./compiler.ts";

const projectRoot = fileURLToPath(new URL("..", import.meta.url));

/** The files of one function. */
export interface Entry extends Sources {
  /** Whether the code asks the file system for more than Node can (clones, holes) by way of `koffi`, where that is at hand. */
  readonly nativeFileCalls?: boolean;
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
  for (const name of names) {
    compile(join(directory, name), entries[name]);
    if (entries[name].nativeFileCalls) addKoffi(join(directory, name));
  }
  return codes((name) => lambda.Code.fromAsset(join(directory, name)));
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
