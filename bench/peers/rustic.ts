/** rustic: restic's format in Rust. Built with Cargo, which takes about ten minutes once. */
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { plainEnvironment } from "../../local/cloud/environment.ts";
import { run } from "../../local/cloud/process.ts";
import type { Contender, Scene, Task } from "../contender.ts";
import { BenchmarkError } from "../errors.ts";
import { quoted, shell } from "../measure/command.ts";
import { runMeasured } from "../measure/run.ts";
import type { Peer, Toolbox } from "./peer.ts";

const version = "0.11.4";
const buildTimeoutMs = 3_600_000;
const fileName = "volume.raw";

export const rustic: Peer = {
  name: "rustic",
  install: async (toolbox: Toolbox): Promise<Contender> => new Rustic(await installRustic(toolbox)),
};

async function installRustic({ directory, note }: Toolbox): Promise<string> {
  const root = join(directory, "rustic");
  const binary = join(root, "bin", "rustic");
  if (existsSync(binary)) return binary;
  note("building rustic with Cargo, about ten minutes");
  const build = ["install", "rustic-rs", "--version", version, "--locked", "--root", root];
  // The least urgent of all processes, as others may be measuring something.
  const { code, stderr } = await run("nice", ["-n", "19", "cargo", ...build], {
    env: process.env,
    timeoutMs: buildTimeoutMs,
  });
  if (code === 0 && existsSync(binary)) return binary;
  throw new BenchmarkError(`cargo ${build.join(" ")} failed: ${stderr.trim().split("\n").at(-1)}`);
}

class Rustic implements Contender {
  readonly name = "rustic";
  readonly actions = ["full", "incremental", "restore"] as const;
  readonly #binary: string;

  constructor(binary: string) {
    this.#binary = binary;
  }

  async prepare(scene: Scene): Promise<void> {
    const { access, directory } = scene;
    const options = {
      bucket: access.bucket,
      root: "/rustic",
      endpoint: access.endpoint,
      region: "us-east-1",
      access_key_id: access.accessKeyId,
      secret_access_key: access.secretAccessKey,
    };
    const lines = Object.entries(options).map(([name, value]) => `${name} = ${JSON.stringify(value)}`);
    const profile = ["[repository]", 'repository = "opendal:s3"', "[repository.options]", ...lines];
    writeFileSync(join(directory, "rustic.toml"), `${profile.join("\n")}\n`);
    await runMeasured(this.#run(scene, "$RUSTIC init"), join(directory, "prepare.log"));
  }

  command(scene: Scene, { action, version: { path }, output }: Task) {
    if (action === "restore") {
      const folder = quoted(`${output}.d`);
      return this.#run(
        scene,
        `$RUSTIC restore --sparse by-content latest ${folder}; mv ${folder}/${fileName} ${quoted(output)}; rmdir ${folder}`,
      );
    }
    return this.#run(scene, `$RUSTIC backup --force --stdin-filename ${fileName} - < ${quoted(path)}`);
  }

  #run({ directory }: Scene, script: string) {
    return shell(`RUSTIC="${this.#binary} -P ${directory}/rustic"; ${script}`, {
      directory,
      environment: {
        ...plainEnvironment(),
        HOME: directory,
        RUSTIC_PASSWORD: "benchmark",
        RUSTIC_NO_PROGRESS: "true",
        RUSTIC_LOG_LEVEL: "warn",
        RUSTIC_CACHE_DIR: `${directory}/cache`,
      },
    });
  }
}
