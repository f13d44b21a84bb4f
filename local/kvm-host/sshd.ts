/** A private OpenSSH server on the loopback interface, with keys of its own. */
import { chmodSync, chownSync, globSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { choosePort } from "../cloud/ports.ts";
import { accepts, run, type Server, startServer, type WorkFolder } from "./processes.ts";

/** Its `stop` also ends the processes that its users have left to serve volumes. */
export interface Sshd extends Server {
  readonly port: number;
  /** As ssh-keygen shows it. */
  readonly fingerprint: string;
  /** With it root logs in, or the user of the options. */
  readonly userKey: string;
  /** Path of the user's home, for whoever logs in. */
  readonly home: string;
  /** Ends what whoever logged in has left serving volumes. {@link stop} does so, too. */
  endLeftovers(): void;
}

export interface SshdOptions {
  /** Lines of `sshd_config` in front of the others. */
  readonly settings?: readonly string[];
  /** In front of the key in `authorized_keys`, as in `restrict,port-forwarding`. */
  readonly keyOptions?: string;
  /** Kind of the host's key. Default `ed25519`. */
  readonly hostKeyType?: string;
  /** Where the user's programs are. Default: where the server looks. */
  readonly searchPath?: string;
  /** One of the machine's users, as `backup`, who may log in to this server only, and has a home of its own there. Default root. */
  readonly user?: string;
}

export async function startSshd(folder: WorkFolder, options: SshdOptions = {}): Promise<Sshd> {
  const port = await choosePort(undefined);
  const own = folder.file(`sshd-${port}`);
  mkdirSync(own);
  // Without it sshd does not start: it locks itself in there before the login.
  mkdirSync("/run/sshd", { recursive: true });
  const { hostKeyType = "ed25519", keyOptions = "", settings = [], searchPath, user } = options;
  run("ssh-keygen", "-q", "-t", hostKeyType, "-N", "", "-f", `${own}/host`);
  run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", `${own}/user`);
  writeFileSync(`${own}/authorized`, `${keyOptions} ${readFileSync(`${own}/user.pub`, "utf8")}`.trimStart());
  const lines = [
    ...settings,
    "ListenAddress 127.0.0.1",
    `Port ${port}`,
    `HostKey ${own}/host`,
    `AuthorizedKeysFile ${own}/authorized`,
    `PidFile ${own}/pid`,
    "StrictModes no",
    "PasswordAuthentication no",
    "KbdInteractiveAuthentication no",
    "UsePAM no",
    "AllowStreamLocalForwarding local",
    "AllowTcpForwarding local",
    // Not the user's own home: what is there, a slow .bashrc too, is none of these tests' business.
    `SetEnv HOME=${own}${searchPath ? ` PATH=${searchPath}` : ""}`,
  ];
  writeFileSync(`${own}/config`, `${lines.join("\n")}\n`);
  const command = ["/usr/sbin/sshd", "-D", "-e", "-f", `${own}/config`];
  const server = await startServer(
    user ? [...lettingIn(user, own), ...command] : command,
    accepts({ port, host: "127.0.0.1" }),
  );
  const fingerprint = run("ssh-keygen", "-l", "-f", `${own}/host.pub`).split(" ")[1]!;
  const stop = async (signal?: NodeJS.Signals) => {
    await server.stop(signal);
    endLeftovers(own);
  };
  return {
    ...server,
    stop,
    endLeftovers: () => endLeftovers(own),
    port,
    fingerprint,
    userKey: readFileSync(`${own}/user`, "utf8"),
    home: own,
  };
}

/** Ends what whoever logged in has left serving volumes, as a worker that was ended does: it belongs to no session. */
function endLeftovers(home: string): void {
  for (const file of globSync(`${home}/.snapferry/*/{exports,restores,guards}/*/pid`)) {
    const pid = Number(readFileSync(file, "utf8"));
    try {
      // Numbers of processes are used again.
      if (readFileSync(`/proc/${pid}/cmdline`).includes(`${dirname(file)}/sock`)) process.kill(pid, "SIGKILL");
    } catch {
      // It has ended.
    }
  }
}

/** Runs what follows where /etc/passwd has a shell and this home for the user. */
function lettingIn(user: string, home: string): string[] {
  const others = readFileSync("/etc/passwd", "utf8").replace(new RegExp(`^${user}:.*\n`, "m"), "");
  const [uid, gid] = ["-u", "-g"].map((option) => Number(run("id", option, user))) as [number, number];
  const passwd = `${home}/passwd`;
  writeFileSync(passwd, `${others}${user}:*:${uid}:${gid}::${home}:/bin/sh\n`);
  chownSync(home, uid, gid);
  chmodSync(dirname(home), 0o711);
  return ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/passwd && exec "$@"', passwd];
}
