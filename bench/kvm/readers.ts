/** Who reads the export: Snapferry's adapter, and other programs through the same kind of SSH connection. */
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Command, quoted, shell } from "../measure/command.ts";
import type { ReadRequest } from "./read-request.ts";

export interface ReaderScene {
  /** For logs and sockets. */
  readonly directory: string;
  readonly request: ReadRequest;
  /** With the host's key. */
  readonly knownHosts: string;
}

export interface Reader {
  readonly name: string;
  /** Why it cannot take part; undefined when it can. */
  readonly missing?: string;
  command(scene: ReaderScene): Command;
}

const snapferry: Reader = {
  name: "snapferry",
  command({ directory, request }) {
    const file = join(directory, "read.json");
    writeFileSync(file, JSON.stringify(request), { mode: 0o600 });
    return {
      file: process.execPath,
      arguments: [join(import.meta.dirname, "read.ts"), file],
      environment: { PATH: process.env.PATH },
      directory,
    };
  },
};

/** `script` reads from `$socket`, which OpenSSH's client forwards. */
function throughSsh(
  name: string,
  program: string,
  debianPackage: string,
  script: (sizeBytes: number) => string,
): Reader {
  return {
    name,
    ...(!existsSync(program) && { missing: `there is no ${program}; Debian has it in ${debianPackage}` }),
    command({ directory, request, knownHosts }) {
      const { endpoint, keyFile, descriptor } = request;
      const socket = join(directory, `${name}.sock`);
      const options = [
        `-p ${endpoint.port}`,
        `-i ${quoted(keyFile)}`,
        `-o UserKnownHostsFile=${quoted(knownHosts)}`,
        "-o StrictHostKeyChecking=yes -o ExitOnForwardFailure=yes -o LogLevel=ERROR -c aes128-gcm@openssh.com",
      ].join(" ");
      const lines = [
        `socket=${quoted(socket)}; rm -f "$socket"`,
        `ssh -N ${options} -L "$socket":${quoted(descriptor.socket)} ${endpoint.user}@${endpoint.host} & tunnel=$!`,
        "trap 'kill $tunnel; wait $tunnel || true' EXIT",
        'until [ -S "$socket" ]; do kill -0 $tunnel; sleep 0.02; done',
        script(descriptor.sizeBytes),
      ];
      return shell(lines.join("\n"), { directory, environment: { PATH: process.env.PATH, HOME: directory } });
    },
  };
}

export const readers: readonly Reader[] = [
  snapferry,
  throughSsh("nbdcopy", "/usr/bin/nbdcopy", "libnbd-bin", () => '/usr/bin/nbdcopy "nbd+unix:///?socket=$socket" null:'),
  throughSsh(
    "qemu-img",
    "/usr/bin/qemu-img",
    "qemu-utils",
    (sizeBytes) =>
      `/usr/bin/qemu-img convert -n -W -m 16 --image-opts driver=nbd,server.type=unix,server.path="$socket" --target-image-opts driver=null-co,size=${sizeBytes}`,
  ),
];
