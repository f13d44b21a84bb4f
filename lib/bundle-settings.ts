import { fileURLToPath } from "node:url";
import type { BuildOptions } from "esbuild";

const nodeHttp = fileURLToPath(new URL("node-http.cjs", import.meta.url));

/**
 * How code is bundled. The benchmark bundles the engine in the same way. Names of classes are kept: state machines catch errors by
 * them. CommonJS modules inside expect a `require` and a `__dirname`.
 */
export const bundleSettings = {
  outExtension: { ".js": ".mjs" },
  bundle: true,
  platform: "node",
  target: "node24",
  format: "esm",
  mainFields: ["module", "main"],
  banner: {
    js: 'import { createRequire as createRequireOfBundle } from "node:module"; const require = createRequireOfBundle(import.meta.url), __dirname = import.meta.dirname;',
  },
  alias: { http: nodeHttp, "node:http": nodeHttp },
  // ssh2 does without its native parts where it finds none.
  external: ["koffi", "*.node", "cpu-features"],
  minify: true,
  keepNames: true,
  sourcemap: true,
  sourcesContent: false,
  logLevel: "warning",
} satisfies BuildOptions;
