/** A program of the host that has an image open for writing. */
import { spawnSync } from "node:child_process";
import { run, type Server, startServer } from "../../local/kvm-host/processes.ts";

/** QEMU's lock on the image is held when this returns. */
export function startImageWriter(path: string): Promise<Server> {
  const command = ["sh", "-c", 'sleep 1000 | qemu-io -f qcow2 "$1"', "sh", path];
  return startServer(command, () => spawnSync("qemu-img", ["info", path]).status !== 0);
}

/** Ends the program, and with it the lock. */
export function endImageWriter({ pid }: Server): void {
  run("pkill", "-P", `${pid}`);
}
