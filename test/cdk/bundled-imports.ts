/** What of AWS the code of a function calls, as it is bundled for deployment: without what it never uses. */
import { fileURLToPath } from "node:url";
import { buildSync } from "esbuild";

/** The names of the SDK's clients, as `sfn` of `@aws-sdk/client-sfn`. */
export function bundledImports(file: string): string[] {
  const { outputFiles } = buildSync({
    absWorkingDir: fileURLToPath(new URL("../..", import.meta.url)),
    entryPoints: [file],
    bundle: true,
    write: false,
    platform: "node",
    format: "esm",
    packages: "external",
  });
  const names = Array.from(
    String(outputFiles[0]?.text).matchAll(/"@aws-sdk\/client-([\w-]+)"/g),
    ([, name = ""]) => name,
  );
  return [...new Set(names)].sort();
}
