/** A program of the host that has an image open for writing. */
import { type Server, startServer } from "../../local/kvm-host/processes.ts";

/** QEMU's lock on the image is held when this returns: the program has told the image's length. Goes with `stop`. */
export function startImageWriter(path: string): Promise<Server> {
  const commands = ["-c", "length", "-c", "sleep 1000000"];
  return startServer(["stdbuf", "-oL", "qemu-io", "-f", "qcow2", ...commands, path], (output) =>
    /^\d.* MiB$/m.test(output),
  );
}
