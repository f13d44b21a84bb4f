/** One SSH connection: commands and sockets of the other host, side by side. */
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import ssh2, { type Client, type ClientChannel } from "ssh2";
import { printable } from "../printable.ts";
import { assertText, commandLine } from "./command-line.ts";
import { dial } from "./dial.ts";
import {
  SshConnectionLost,
  type SshError,
  SshHostKeyMismatch,
  SshKeyRejected,
  SshKeyUnusable,
  SshOutputTooLong,
  SshProtocolError,
  SshRefused,
  SshTimedOut,
} from "./errors.ts";
import { fingerprint, keyType } from "./host-key.ts";
import { useKeyObjects } from "./session-keys.ts";

export interface SshSettings {
  readonly host: string;
  /** Default 22. */
  readonly port?: number;
  readonly user: string;
  /** In OpenSSH's format or PEM. */
  readonly privateKey: string;
  readonly passphrase?: string;
  /** Fingerprints of the host's key that are accepted, as `SHA256:…`; with none no connection comes about. */
  readonly hostKeys: readonly string[];
  /** Kinds of these keys, as `ssh-rsa`: a server that has keys of several kinds is asked for one of these first. */
  readonly hostKeyTypes?: readonly string[];
  /** Networks that may be called although they are not public. */
  readonly allowedCidrs: readonly string[];
  /** For the connection, and again for keys and login. Default 10 s. */
  readonly connectTimeoutMs?: number;
}

export interface ExecOptions {
  /** Until the command has ended. Default 60 s. */
  readonly timeoutMs?: number;
  /** The most that it may write to each of stdout and stderr. Default 1 MiB. */
  readonly maxOutputBytes?: number;
  /** Its stdin; empty by default. */
  readonly input?: string | Uint8Array;
}

export interface ExecResult {
  /** Undefined when a signal ended the command. */
  readonly code: number | undefined;
  /** As `SIGTERM`. */
  readonly signal: string | undefined;
  readonly stdout: string;
  readonly stderr: string;
}

const defaultConnectTimeoutMs = 10_000;
const defaultExecTimeoutMs = 60_000;
/** For the server's word that a socket is open or a command started. */
const channelTimeoutMs = 10_000;
const defaultMaxOutputBytes = 1024 * 1024;
/** For the server's answer to the good-bye. */
const closeTimeoutMs = 2_000;
/** A host that vanished without a word is noticed after four such intervals. */
const keepaliveIntervalMs = 10_000;
const keepaliveMisses = 3;
/** ssh2's words, which it gives the level of a wrong protocol. */
const lostBeforeHandshake = "Connection lost before handshake";

/** Encryption that also authenticates, the fastest first: ChaCha20 takes twice the time of AES-GCM. */
const ciphers = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"] as const;

/** With which a server proves its key. None with SHA-1. */
const signatures = [
  "ssh-ed25519",
  "ecdsa-sha2-nistp256",
  "ecdsa-sha2-nistp384",
  "ecdsa-sha2-nistp521",
  "rsa-sha2-512",
  "rsa-sha2-256",
] as const;

/**
 * A server shows its key for the first signature that it can give: those of known kinds of keys come first. The others stay, so that a
 * key that took the place of a known one is told.
 */
function signaturesInOrder(knownTypes: readonly string[]): (typeof signatures)[number][] {
  const isKnown = (name: string) => knownTypes.includes(name.startsWith("rsa-sha2-") ? "ssh-rsa" : name);
  return signatures.toSorted((one, other) => Number(isKnown(other)) - Number(isKnown(one)));
}

export class SshConnection {
  readonly #client: Client;
  readonly #socket: Socket;
  readonly #where: string;
  #closed: Error | true | undefined;

  private constructor(client: Client, socket: Socket, where: string) {
    this.#client = client;
    this.#socket = socket;
    this.#where = where;
    client.on("error", (error) => {
      this.#closed ??= error;
      // The client itself waits until the server has hung up, too.
      socket.destroy();
    });
    client.on("close", () => (this.#closed ??= true));
  }

  /**
   * Connects, compares the host's key and logs in with the user's key; there is no other way to log in.
   *
   * @throws SshUnreachable, SshTimedOut, SshHostKeyMismatch, SshKeyRejected, SshKeyUnusable, SshProtocolError, ForbiddenAddress
   */
  static async open(settings: SshSettings): Promise<SshConnection> {
    const { host, port = 22, connectTimeoutMs = defaultConnectTimeoutMs } = settings;
    assertUsableKey(settings);
    const where = `${host}:${port}`;
    const socket = await dial({ host, port, allowedCidrs: settings.allowedCidrs, timeoutMs: connectTimeoutMs });
    const client = new ssh2.Client();
    useKeyObjects(client);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    let mismatch: SshHostKeyMismatch | undefined;
    const failed = (error?: Error) => reject(mismatch ?? loginError(error, where, settings.user));
    const ended = () => failed();
    const timer = setTimeout(
      () => reject(new SshTimedOut(`${where} did not finish the login within ${connectTimeoutMs} ms.`)),
      connectTimeoutMs,
    );
    client.once("ready", resolve).on("error", failed).once("close", ended);
    const hostVerifier = (key: Buffer): boolean => {
      const found = fingerprint(key);
      if (settings.hostKeys.includes(found)) return true;
      mismatch = new SshHostKeyMismatch(where, keyType(key), found, settings.hostKeys);
      return false;
    };
    try {
      client.connect({
        sock: socket,
        username: settings.user,
        privateKey: settings.privateKey,
        ...(settings.passphrase !== undefined && { passphrase: settings.passphrase }),
        authHandler: ["publickey"],
        hostVerifier,
        algorithms: { cipher: [...ciphers], serverHostKey: signaturesInOrder(settings.hostKeyTypes ?? []) },
        readyTimeout: 0,
        keepaliveInterval: keepaliveIntervalMs,
        keepaliveCountMax: keepaliveMisses,
      });
      await promise;
      return new SshConnection(client, socket, where);
    } catch (error) {
      client.destroy();
      socket.destroy();
      throw error;
    } finally {
      clearTimeout(timer);
      client.off("close", ended);
    }
  }

  get closed(): boolean {
    return this.#closed !== undefined;
  }

  /**
   * Runs a command with exactly these arguments, in the user's login shell, which must be a POSIX shell. A code other than 0 is a result.
   * A command that takes too long is let go of, but goes on at the other host until it writes: give it to `timeout` there as well.
   *
   * @throws SshRefused, SshTimedOut, SshOutputTooLong, SshArgumentInvalid, SshConnectionLost
   */
  async exec(args: readonly string[], options: ExecOptions = {}): Promise<ExecResult> {
    const line = commandLine(args);
    const name = args[0]!;
    const channel = await this.#openChannel(`does not run ${name}`, (done) => this.#client.exec(line, done));
    const { timeoutMs = defaultExecTimeoutMs, maxOutputBytes = defaultMaxOutputBytes } = options;
    const { promise, resolve, reject } = Promise.withResolvers<ExecResult>();
    const timer = setTimeout(
      () => reject(new SshTimedOut(`${name} on ${this.#where} did not end within ${timeoutMs} ms.`)),
      timeoutMs,
    );
    const collect = (stream: NodeJS.ReadableStream) => {
      const chunks: Buffer[] = [];
      let length = 0;
      stream.on("data", (chunk: Buffer) => {
        length += chunk.length;
        if (length <= maxOutputBytes) chunks.push(chunk);
        else reject(new SshOutputTooLong(`${name} on ${this.#where} wrote more than ${maxOutputBytes} bytes.`));
      });
      return () => Buffer.concat(chunks).toString();
    };
    const stdout = collect(channel);
    const stderr = collect(channel.stderr);
    // Not "exit": that may have come before anybody could listen, in one piece with the word that the command runs.
    channel.on("close", (code: number | null | undefined, signal?: string) => {
      if (code === undefined) reject(this.#lost(`while ${name} ran`));
      else resolve({ code: code ?? undefined, signal, stdout: stdout(), stderr: stderr() });
    });
    channel.end(options.input);
    try {
      return await promise;
    } catch (error) {
      if (!this.closed) channel.close();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * A stream to a unix socket of the other host. When the connection ends, the stream is closed.
   *
   * @throws SshRefused, SshTimedOut, SshArgumentInvalid, SshConnectionLost
   */
  async openUnixSocket(path: string): Promise<Duplex> {
    assertText(path);
    const channel = await this.#openChannel(`does not open ${path}`, (done) =>
      this.#client.openssh_forwardOutStreamLocal(path, done),
    );
    // A channel reports its end by "close"; an error of it that nobody listens to must not end the process.
    channel.on("error", () => {});
    return channel as unknown as Duplex;
  }

  async #openChannel(
    refusal: string,
    open: (done: (error: Error | undefined, channel: ClientChannel) => void) => unknown,
  ): Promise<ClientChannel> {
    if (this.closed) throw this.#lost();
    const { promise, resolve, reject } = Promise.withResolvers<ClientChannel>();
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      reject(new SshTimedOut(`${this.#where} ${refusal} within ${channelTimeoutMs} ms.`));
    }, channelTimeoutMs);
    try {
      open((error, channel) => {
        if (late) channel?.close();
        else if (!error) resolve(channel);
        else if (this.closed) reject(this.#lost());
        else reject(new SshRefused(`${this.#where} ${refusal}: ${printable(error.message)}.`, { cause: error }));
      });
      return await promise;
    } catch (error) {
      throw error instanceof Error && error.message === "Not connected" ? this.#lost() : error;
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Ends the connection with all that runs over it, however the server takes it: one that is gone or silent makes no failure. A repetition
   * does nothing.
   */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#client.once("close", resolve);
    this.#client.end();
    // Not the client's own destroy(), which does nothing after end().
    const timer = setTimeout(() => this.#socket.destroy(), closeTimeoutMs);
    await promise;
    clearTimeout(timer);
  }

  #lost(during = ""): SshConnectionLost {
    const reason = this.#closed instanceof Error ? `: ${printable(this.#closed.message)}` : "";
    return new SshConnectionLost(`The connection to ${this.#where} ended${during && ` ${during}`}${reason}.`);
  }
}

/** Tells early, and without a quotation, that a key is none. */
function assertUsableKey({ privateKey, passphrase }: SshSettings): void {
  const parsed = ssh2.utils.parseKey(privateKey, passphrase);
  const key = Array.isArray(parsed) ? parsed[0] : parsed;
  if (key instanceof Error) throw new SshKeyUnusable(`The private key cannot be used: ${printable(key.message)}.`);
  if (!key?.isPrivateKey()) throw new SshKeyUnusable("The private key cannot be used: it is a public key.");
}

function loginError(error: (Error & { level?: string }) | undefined, where: string, user: string): SshError {
  if (!error) return new SshConnectionLost(`${where} closed the connection during the login.`);
  // OpenSSH does so, too, when there are too many logins at once.
  if (error.message === lostBeforeHandshake)
    return new SshConnectionLost(`${where} closed the connection before it said that it is an SSH server.`);
  if (error.level === "client-authentication")
    return new SshKeyRejected(`${where} does not take the key of the user ${user}.`);
  if (error.level === "client-socket") {
    return new SshConnectionLost(`The connection to ${where} broke during the login: ${printable(error.message)}.`);
  }
  return new SshProtocolError(`There is no common ground with ${where}: ${printable(error.message)}.`, {
    cause: error,
  });
}
