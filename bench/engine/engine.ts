/** Snapferry's copy engine as a contender. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { codecThreads } from "../../lib/codec-threads.ts";
import { compile } from "../../lib/compiler.ts";
import { nodeEnvironment } from "../../lib/node-environment.ts";
import { actions, type Contender, type Scene, type Task } from "../contender.ts";
import type { EngineRequest } from "./request.ts";

export interface EngineOptions {
  /** Directory for the bundle and for profiles. */
  readonly directory: string;
  readonly shardsAtOnce: number;
  /** Whether Node writes a CPU profile of each run. */
  readonly profile: boolean;
}

export const engineName = "snapferry";

/** Where profiles lie. */
export function profileDirectory(directory: string): string {
  return join(directory, "profiles");
}

/** Bundles the engine as the functions are, so that what is measured is what is deployed. */
export function buildEngine(options: EngineOptions): Contender {
  const outdir = join(options.directory, "engine");
  compile(outdir, { file: "bench/engine/driver.ts", threads: codecThreads });
  return new Engine(join(outdir, "index.mjs"), options);
}

class Engine implements Contender {
  readonly name = engineName;
  readonly actions = actions;
  readonly #bundle: string;
  readonly #options: EngineOptions;

  constructor(bundle: string, options: EngineOptions) {
    this.#bundle = bundle;
    this.#options = options;
  }

  command(scene: Scene, task: Task) {
    const requestFile = join(scene.directory, "request.json");
    writeFileSync(requestFile, JSON.stringify(this.#request(scene, task)));
    return {
      file: process.execPath,
      arguments: [...this.#profileFlags(task), this.#bundle, requestFile],
      environment: { PATH: process.env.PATH, ...nodeEnvironment },
      directory: scene.directory,
    };
  }

  phases(scene: Scene): Record<string, number> {
    return JSON.parse(readFileSync(phasesFile(scene), "utf8"));
  }

  #request(scene: Scene, { action, backup, version, output }: Task): EngineRequest {
    return {
      action,
      access: scene.access,
      snapshotId: backup,
      jobId: `job-${action}`,
      ...(backup !== "full" && { base: "full" }),
      volume: { path: version.path, sizeBytes: scene.pair.sizeBytes, extents: version.extents },
      ...(action === "incremental-hints" && { changed: scene.pair.changed }),
      output,
      shardsAtOnce: this.#options.shardsAtOnce,
      phasesFile: phasesFile(scene),
    };
  }

  #profileFlags({ action }: Task): string[] {
    if (!this.#options.profile) return [];
    const directory = profileDirectory(this.#options.directory);
    mkdirSync(directory, { recursive: true });
    return ["--cpu-prof", `--cpu-prof-dir=${directory}`, `--cpu-prof-name=${action}-${Date.now()}.cpuprofile`];
  }
}

function phasesFile(scene: Scene): string {
  return join(scene.directory, "phases.json");
}
