/** What the code of functions does, as it is bundled for deployment: without what it never uses. */
import { fileURLToPath } from "node:url";
import { buildSync } from "esbuild";

/** The file with all of the project that it imports, names as they are written. */
export function bundledCode(file: string): string {
  const { outputFiles } = buildSync({
    absWorkingDir: fileURLToPath(new URL("../..", import.meta.url)),
    entryPoints: [file],
    bundle: true,
    write: false,
    platform: "node",
    format: "esm",
    packages: "external",
  });
  return String(outputFiles[0]?.text);
}

/** The names of the SDK's clients in it, as `sfn` of `@aws-sdk/client-sfn`. */
export function clientsIn(code: string): string[] {
  return Array.from(code.matchAll(/"@aws-sdk\/client-([\w-]+)"/g), ([, name = ""]) => name);
}
