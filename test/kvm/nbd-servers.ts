/** Real NBD servers on unix sockets. */
import { once } from "node:events";
import { connect } from "node:net";
import type { Duplex } from "node:stream";
import { accepts, type Server, startServer } from "../../local/kvm-host/processes.ts";

/** `options` come before the file, as in `["--read-only", "--format=qcow2"]`. Serves until it is stopped. */
export function startQemuNbd(socket: string, file: string, options: readonly string[]): Promise<Server> {
  return startServer(["qemu-nbd", "--persistent", `--socket=${socket}`, ...options, file], accepts({ path: socket }));
}

/** `args` are filters, plugin and its settings, as in `["--filter=delay", "memory", "1M"]`. */
export function startNbdkit(socket: string, args: readonly string[]): Promise<Server> {
  return startServer(
    ["nbdkit", "--foreground", "--exit-with-parent", `--unix=${socket}`, ...args],
    accepts({ path: socket }),
  );
}

export async function dialUnix(path: string): Promise<Duplex> {
  const socket = connect(path);
  await once(socket, "connect");
  return socket;
}
