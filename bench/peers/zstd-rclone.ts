/** The plain pipe: zstd on all cores, and a multipart upload. No incremental, no check of what was read. */
import { availableParallelism } from "node:os";
import type { Contender, Scene, Task } from "../contender.ts";
import { quoted, shell } from "../measure/command.ts";
import { findProgram, type Program } from "./debian.ts";
import type { Peer, Toolbox } from "./peer.ts";
import { findRclone, rcloneEnvironment, rcloneFlags } from "./rclone.ts";

export const zstdRclone: Peer = {
  name: "zstd-rclone",
  install: async ({ directory }: Toolbox): Promise<Contender> =>
    new ZstdRclone(
      await findProgram({ name: "zstd", packageName: "zstd", versionArgument: "--version" }, directory),
      await findRclone(directory),
    ),
};

class ZstdRclone implements Contender {
  readonly name = "zstd-rclone";
  readonly actions = ["full", "restore"] as const;
  readonly #zstd: Program;
  readonly #rclone: Program;

  constructor(zstd: Program, rclone: Program) {
    this.#zstd = zstd;
    this.#rclone = rclone;
  }

  command({ access, directory }: Scene, { action, version, output }: Task) {
    const object = `store:${access.bucket}/volume.zst`;
    const rclone = `${this.#rclone.path} ${rcloneFlags}`;
    const zstd = `${this.#zstd.path} -q`;
    const script =
      action === "restore"
        ? `${rclone} cat ${object} | ${zstd} -d --sparse -f -o ${quoted(output)}`
        : `${zstd} -3 -T${availableParallelism()} -c ${quoted(version.path)} | ${rclone} rcat ${object}`;
    const environment = { ...this.#rclone.environment, ...rcloneEnvironment(access), HOME: directory };
    return shell(script, { directory, environment });
  }
}
