/** restic of Debian: content-defined chunks, zstd, encrypted. It reads the whole volume each time. */
import type { Contender, Scene, Task } from "../contender.ts";
import { quoted, shell } from "../measure/command.ts";
import { runMeasured } from "../measure/run.ts";
import { findProgram, type Program } from "./debian.ts";
import type { Peer, Toolbox } from "./peer.ts";

const fileName = "volume.raw";

export const restic: Peer = {
  name: "restic",
  install: async ({ directory }: Toolbox): Promise<Contender> =>
    new Restic(await findProgram({ name: "restic", packageName: "restic", versionArgument: "version" }, directory)),
};

class Restic implements Contender {
  readonly name = "restic";
  readonly actions = ["full", "incremental", "restore"] as const;
  readonly #program: Program;

  constructor(program: Program) {
    this.#program = program;
  }

  async prepare(scene: Scene): Promise<void> {
    // Version 2 of its format is the one that compresses.
    await runMeasured(this.#run(scene, "$RESTIC init --repository-version 2"), `${scene.directory}/prepare.log`);
  }

  command(scene: Scene, { action, version, output }: Task) {
    if (action === "restore") {
      const folder = quoted(`${output}.d`);
      return this.#run(
        scene,
        `$RESTIC restore latest --target ${folder}; mv ${folder}/${fileName} ${quoted(output)}; rmdir ${folder}`,
      );
    }
    return this.#run(scene, `$RESTIC backup --stdin --stdin-filename ${fileName} < ${quoted(version.path)}`);
  }

  #run({ access, directory }: Scene, script: string) {
    return shell(`RESTIC="${this.#program.path} --quiet"; ${script}`, {
      directory,
      environment: {
        ...this.#program.environment,
        HOME: directory,
        AWS_ACCESS_KEY_ID: access.accessKeyId,
        AWS_SECRET_ACCESS_KEY: access.secretAccessKey,
        AWS_DEFAULT_REGION: "us-east-1",
        RESTIC_REPOSITORY: `s3:${access.endpoint}/${access.bucket}`,
        RESTIC_PASSWORD: "benchmark",
        RESTIC_CACHE_DIR: `${directory}/cache`,
      },
    });
  }
}
