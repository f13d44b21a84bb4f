/** The compiler of what runs on Lambda. The benchmark compiles the engine by it too. */
import { basename, extname } from "node:path";
import { fileURLToPath } from "node:url";
import { type BuildOptions, buildSync } from "esbuild";

const projectRoot = fileURLToPath(new URL("..", import.meta.url));
const nodeHttp = fileURLToPath(new URL("node-http.cjs", import.meta.url));

/** Classes lose their names; errors have theirs as text. CommonJS modules inside expect a `require` and a `__dirname`. */
const settings = {
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
  sourcemap: true,
  sourcesContent: false,
  logLevel: "warning",
} satisfies BuildOptions;

/** Files of one function, by their paths from the project's root. */
export interface Sources {
  /** Becomes `index.mjs`. */
  readonly file: string;
  /** Files that the code starts as threads. Each lies beside the code under its own name. */
  readonly threads?: readonly string[];
}

/**
 * Compiles to ES modules in `outdir`. What is imported only once it is needed lies in files of its own, and what several files need is
 * shared by them, so that an error of one is an instance of the other's class.
 */
export function compile(outdir: string, { file, threads = [] }: Sources): void {
  const besides = threads.map((thread): [string, string] => [basename(thread, extname(thread)), thread]);
  buildSync({
    ...settings,
    absWorkingDir: projectRoot,
    entryPoints: { index: file, ...Object.fromEntries(besides) },
    outdir,
    entryNames: "[name]",
    chunkNames: "[name]-[hash]",
    splitting: true,
  });
}
