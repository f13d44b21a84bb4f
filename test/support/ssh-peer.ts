/** A server for tests of the SSH client, from the same library: for what a real one does not do on request. */
import { once } from "node:events";
import type { AddressInfo, Socket } from "node:net";
import ssh2, { type AuthContext, type Connection, type Session } from "ssh2";

export const hostKey = ssh2.utils.generateKeyPairSync("ed25519");
export const userKey = ssh2.utils.generateKeyPairSync("ed25519");

export interface SshPeer {
  readonly port: number;
  /** How many clients connected. */
  readonly connections: () => number;
  /** How many are connected now. */
  readonly connected: () => number;
  /** Breaks all connections, without a word. */
  drop(): void;
  /** Forgets all connections, as a host that was started anew: the client hears of it when it writes. */
  reset(): void;
  /** Hears nothing more of what comes over the connections that are there, and says nothing. */
  silence(): void;
  close(): Promise<void>;
}

export interface SshPeerScript {
  /** Private keys. Default: that of {@link hostKey}. */
  readonly hostKeys?: readonly string[];
  /** Default: takes {@link userKey} of the user `backup`. */
  readonly login?: (login: AuthContext) => void;
  readonly session?: (session: Session) => void;
  readonly connection?: (connection: Connection) => void;
}

function takeUserKey(login: AuthContext): void {
  const allowed = ssh2.utils.parseKey(userKey.public);
  if (allowed instanceof Error) throw allowed;
  const key = Array.isArray(allowed) ? allowed[0]! : allowed;
  const matches =
    login.method === "publickey" && login.username === "backup" && key.getPublicSSH().equals(login.key.data);
  const signed = login.method === "publickey" && login.blob && login.signature;
  if (matches && (!signed || key.verify(login.blob!, login.signature!, login.hashAlgo) === true)) login.accept();
  else login.reject(["publickey"]);
}

/** Listens on a free port of the loopback interface. */
export async function startSshPeer(script: SshPeerScript = {}): Promise<SshPeer> {
  const open = new Set<Connection>();
  let count = 0;
  const server = new ssh2.Server({ hostKeys: [...(script.hostKeys ?? [hostKey.private])] }, (connection) => {
    count++;
    open.add(connection);
    connection.on("error", () => {});
    connection.on("close", () => open.delete(connection));
    connection.on("authentication", script.login ?? takeUserKey);
    connection.on("session", (accept) => script.session?.(accept()));
    script.connection?.(connection);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const sockets = () => [...open].map((connection) => (connection as unknown as { _sock: Socket })._sock);
  const drop = () => {
    for (const socket of sockets()) socket.destroy();
  };
  return {
    port: (server.address() as AddressInfo).port,
    connections: () => count,
    connected: () => open.size,
    drop,
    reset: () => {
      for (const socket of sockets()) socket.resetAndDestroy();
    },
    silence: () => {
      for (const socket of sockets()) socket.pause();
    },
    close: async () => {
      drop();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
