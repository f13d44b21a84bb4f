/** A compressed qcow2 file made on scratch space and uploaded: what CloudStack does with volumes on KVM. No incremental. */
import type { Contender, Scene, Task } from "../contender.ts";
import { quoted, shell } from "../measure/command.ts";
import { findProgram, type Program } from "./debian.ts";
import type { Peer, Toolbox } from "./peer.ts";
import { findRclone, rcloneEnvironment, rcloneFlags } from "./rclone.ts";

export const qemuImg: Peer = {
  name: "qemu-img",
  install: async ({ directory }: Toolbox): Promise<Contender> =>
    new QemuImg(
      await findProgram({ name: "qemu-img", packageName: "qemu-utils", versionArgument: "--version" }, directory),
      await findRclone(directory),
    ),
};

class QemuImg implements Contender {
  readonly name = "qemu-img";
  readonly actions = ["full", "restore"] as const;
  readonly #qemuImg: Program;
  readonly #rclone: Program;

  constructor(qemuImg: Program, rclone: Program) {
    this.#qemuImg = qemuImg;
    this.#rclone = rclone;
  }

  command({ access, directory }: Scene, { action, version, output }: Task) {
    const object = `store:${access.bucket}/volume.qcow2`;
    const rclone = `${this.#rclone.path} ${rcloneFlags} copyto`;
    const scratch = quoted(`${directory}/scratch.qcow2`);
    const convert = `${this.#qemuImg.path} convert -m 8 -W`;
    const script =
      action === "restore"
        ? `${rclone} ${object} ${scratch}; ${convert} -f qcow2 -O raw ${scratch} ${quoted(output)}; rm ${scratch}`
        : `${convert} -c -f raw -O qcow2 -o compression_type=zstd ${quoted(version.path)} ${scratch}; ${rclone} ${scratch} ${object}; rm ${scratch}`;
    const environment = { ...this.#rclone.environment, ...this.#qemuImg.environment, ...rcloneEnvironment(access) };
    return shell(script, { directory, environment: { ...environment, HOME: directory } });
  }
}
