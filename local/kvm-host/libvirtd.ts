/**
 * A private libvirtd with mounts and processes of its own: it sees nothing of the machine's libvirt, its folders below /etc, /run and /var
 * are empty at first, and when it ends its VMs end with it.
 */

import { writeFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import { accepts, type Server, startServer, type WorkFolder } from "./processes.ts";

export interface Libvirtd extends Server {
  /** The socket for reading and writing; nobody has to log in. */
  readonly socket: string;
}

const goneMs = 10;

/** Folders of libvirt that are its own here. */
const privateFolders = ["/etc/libvirt", "/run/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt"];

/** Everything as root and without confinement: the VMs are ours. */
const qemuSettings = [
  'user = "root"',
  'group = "root"',
  "dynamic_ownership = 0",
  'security_driver = "none"',
  "cgroup_controllers = []",
  "namespaces = []",
  'stdio_handler = "file"',
];

/** `pingSeconds`: how long a client may be silent before it is asked; it is hung up on after five questions. Default 5, as libvirtd's own. */
export async function startLibvirtd(folder: WorkFolder, pingSeconds = 5): Promise<Libvirtd> {
  const socket = folder.file("libvirt-sock");
  const config = folder.file("libvirtd.conf");
  const settings = [
    "listen_tls = 0",
    "listen_tcp = 0",
    `unix_sock_dir = "${folder.path}"`,
    'auth_unix_rw = "none"',
    'auth_unix_ro = "none"',
    `log_outputs = "2:file:${folder.file("libvirtd.log")}"`,
    'host_uuid = "11111111-2222-3333-4444-555555555555"',
    `keepalive_interval = ${pingSeconds}`,
  ];
  writeFileSync(config, `${settings.join("\n")}\n`);
  writeFileSync(folder.file("qemu.conf"), `${qemuSettings.join("\n")}\n`);
  const mounts = privateFolders.map((path) => `mkdir -p ${path} && mount -t tmpfs none ${path}`);
  const daemon = `/usr/sbin/libvirtd --config ${config} --pid-file ${folder.file("libvirtd.pid")}`;
  const prepare = [...mounts, `cp ${folder.file("qemu.conf")} /etc/libvirt/qemu.conf`].join(" && ");
  // The shell stays: the first process of a namespace has to collect the ended ones that have lost their parents.
  const script = `${prepare} && { ${daemon} & wait; }`;
  const namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"];
  const isUp = accepts({ path: socket });
  const server = await startServer([...namespaces, "sh", "-c", script], isUp);
  let hasStopped = false;
  const stop = async (signal?: NodeJS.Signals) => {
    await server.stop(signal);
    // It is killed with its namespaces: a moment after their first process. Once that is over, another may have taken its place.
    while (!hasStopped && (await isUp())) await pause(goneMs);
    hasStopped = true;
  };
  return { ...server, stop, socket };
}
