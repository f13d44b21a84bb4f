/**
 * One KVM host: libvirt, a few programs and unix sockets, all through SSH. Nothing is opened before it is needed; a connection that broke
 * is made anew by the next call. Nothing is tried again by itself. Every method throws the classes of `domain/errors.ts`; libvirt's own
 * code is had from {@link libvirtCode}.
 */
import type { Duplex } from "node:stream";
import { HypervisorMisconfigured, HypervisorUnavailable } from "../../domain/errors.ts";
import { type CallOptions, type LibvirtConnection, openLibvirt } from "../../protocols/libvirt/connection.ts";
import type { Args, ProcedureName, Result } from "../../protocols/libvirt/procedures.ts";
import { type ExecResult, SshConnection } from "../../protocols/ssh/connection.ts";
import { SshRefused } from "../../protocols/ssh/errors.ts";
import { commandError, onHost } from "./host-errors.ts";
import { type ImageFormat, type ImageLayer, parseImageChain } from "./image-chain.ts";
import { parseUri } from "./libvirt-uri.ts";
import { assertShortEnough, ownFolderPath } from "./own-folder.ts";
import { Reconnecting } from "./reconnecting.ts";
import { Turns } from "./turns.ts";

export interface KvmHostSettings {
  readonly endpoint: { readonly host: string; readonly port: number; readonly user: string };
  /** Fingerprints of the host's keys, as `SHA256:…`. */
  readonly hostKeys: readonly string[];
  /** Their kinds, where they are known: see {@link SshSettings.hostKeyTypes}. */
  readonly hostKeyTypes?: readonly string[];
  /** What libvirt is asked to open: see {@link parseUri}. */
  readonly uri: string;
  /** Called for every SSH connection that is made, so that a changed secret is taken up. */
  readonly privateKey: () => Promise<string>;
  /** Networks that may be called although they are not public. */
  readonly allowedCidrs: readonly string[];
  /** Names the registration: what others have on the same host is not touched. */
  readonly owner: string;
}

export interface CommandOptions {
  /** After which the host ends the program. Default 60 s. */
  readonly timeoutSeconds?: number;
  /** Its stdin; empty by default. */
  readonly input?: string | Uint8Array;
  /** The most that it may write to each of stdout and stderr. Default 1 MiB. */
  readonly maxOutputBytes?: number;
}

const defaultTimeoutSeconds = 60;
/** For the way there and back, and for the second signal. */
const timeoutMarginSeconds = 10;
const killAfterSeconds = 5;
/**
 * A Lambda is stopped between its invocations, while the host goes on and hangs up on silent clients: libvirt after half a minute. A
 * connection that was idle for longer than this is not trusted.
 */
const idleTrustMs = 15_000;

/** OpenSSH runs 10 programs of one connection at once (`MaxSessions`). */
const maxPrograms = 8;

/** Of RFC 4254, 5.1: why a channel was not opened. */
const administrativelyProhibited = 1;

export class KvmHost {
  readonly #settings: KvmHostSettings;
  readonly #ssh = new Reconnecting<SshConnection>(
    () => this.#openSsh(),
    (connection) => !connection.closed,
  );
  readonly #libvirt = new Reconnecting<LibvirtConnection>(
    () => this.#openLibvirt(),
    (connection) => connection.failure === undefined,
  );
  readonly #programs = new Turns(maxPrograms);
  #folder: Promise<string> | undefined;
  #inUse = 0;
  #lastUsedAt = 0;

  constructor(settings: KvmHostSettings) {
    this.#settings = settings;
  }

  /** `host:port`, for messages. */
  get name(): string {
    return `${this.#settings.endpoint.host}:${this.#settings.endpoint.port}`;
  }

  /** As libvirt's own tools on the host take it. */
  get uri(): string {
    return this.#settings.uri;
  }

  /** Calls libvirt. */
  call<P extends ProcedureName>(name: P, args: Args<P>, options: CallOptions = {}): Promise<Result<P>> {
    return this.#use(async () => (await this.#libvirt.connect()).call(name, args, options));
  }

  /** Runs a program with exactly these arguments and in English. A code other than 0 is a result. */
  exec(argv: readonly string[], options: CommandOptions = {}): Promise<ExecResult> {
    const { timeoutSeconds = defaultTimeoutSeconds, ...rest } = options;
    const bounded = ["env", "LC_ALL=C", "timeout", "-k", `${killAfterSeconds}`, `${timeoutSeconds}`, ...argv];
    const timeoutMs = (timeoutSeconds + killAfterSeconds + timeoutMarginSeconds) * 1000;
    const work = async () => (await this.#ssh.connect()).exec(bounded, { ...rest, timeoutMs });
    return this.#use(() => this.#programs.take(work));
  }

  /** As {@link exec}, for a program whose failure is one: returns its stdout, and throws what {@link commandError} makes of another code. */
  async run(argv: readonly string[], options: CommandOptions = {}): Promise<string> {
    const result = await this.exec(argv, options);
    if (result.code !== 0) throw commandError(argv.slice(0, 2).join(" "), result);
    return result.stdout;
  }

  /**
   * Runs a script of the POSIX shell with `args` as `$1`, `$2` and on, and with `$0` as the script's name in messages. Throws as
   * {@link run}.
   */
  script(name: string, text: string, args: readonly string[] = [], options: CommandOptions = {}): Promise<string> {
    return this.exec(["sh", "-euc", text, name, ...args], options).then((result) => {
      if (result.code !== 0) throw commandError(name, result);
      return result.stdout;
    });
  }

  /**
   * Absolute path of a folder of Snapferry's own on the host, in the home of the user and for nobody else's eyes. It is made when it is
   * first needed.
   */
  ownFolder(): Promise<string> {
    this.#folder ??= this.#makeFolder().catch((error: unknown) => {
      this.#folder = undefined;
      throw error;
    });
    return this.#folder;
  }

  async #makeFolder(): Promise<string> {
    const text = 'umask 077; mkdir -p "$HOME/$1"; cd "$HOME/$1"; pwd -P';
    const folder = (await this.script("mkdir", text, [ownFolderPath(this.#settings.owner)])).trimEnd();
    assertShortEnough(folder);
    return folder;
  }

  /**
   * The chain of an image, the file itself first; undefined when there is no such file. Takes no lock, so that it also looks at images that
   * a VM or a merge writes. `format` is that of the file itself: it is never guessed from bytes that a guest may have written.
   */
  async imageChain(
    path: string,
    format: ImageFormat = "qcow2",
    options: CommandOptions = {},
  ): Promise<readonly ImageLayer[] | undefined> {
    const argv = ["qemu-img", "info", "--backing-chain", "--output=json", "-U", "-f", format, path];
    const result = await this.exec(argv, options);
    if (result.code === 0) return parseImageChain(result.stdout);
    if (result.stderr.includes(`Could not open '${path}': No such file or directory`)) return undefined;
    throw commandError("qemu-img info", result);
  }

  /** A stream to a unix socket of the host, in the connection that also carries libvirt. */
  openUnixSocket(path: string): Promise<Duplex> {
    return this.#use(async () => {
      const stream = await this.#openSocket(path);
      this.#inUse++;
      stream.once("close", () => this.#inUse--);
      return stream;
    });
  }

  /** Ends all connections. A repetition does nothing; a later call opens them again. */
  async close(): Promise<void> {
    const libvirt = this.#libvirt.forget();
    const ssh = this.#ssh.forget();
    await (await libvirt)?.close();
    await (await ssh)?.close();
  }

  async #use<T>(work: () => Promise<T>): Promise<T> {
    if (this.#inUse === 0 && Date.now() - this.#lastUsedAt > idleTrustMs) this.#forget();
    this.#inUse++;
    try {
      return await onHost(work);
    } finally {
      this.#inUse--;
      this.#lastUsedAt = Date.now();
    }
  }

  /** Without waiting for an answer to the good-bye: the host may have hung up long ago. */
  #forget(): void {
    const libvirt = this.#libvirt.forget().then((connection) => connection?.destroy());
    const ssh = this.#ssh.forget().then((connection) => connection?.close());
    for (const ending of [libvirt, ssh]) ending.catch(() => undefined);
  }

  async #openSsh(): Promise<SshConnection> {
    const { endpoint, hostKeys, hostKeyTypes = [], allowedCidrs } = this.#settings;
    const privateKey = await this.#settings.privateKey();
    return SshConnection.open({ ...endpoint, hostKeys, hostKeyTypes, allowedCidrs, privateKey });
  }

  async #openLibvirt(): Promise<LibvirtConnection> {
    const { name, sockets } = parseUri(this.#settings.uri);
    const refused: HypervisorUnavailable[] = [];
    for (const path of sockets) {
      try {
        return await openLibvirt(await this.#openSocket(path), { uri: name });
      } catch (error) {
        if (!(error instanceof HypervisorUnavailable && error.cause instanceof SshRefused)) throw error;
        refused.push(error);
      }
    }
    throw new HypervisorUnavailable(
      `libvirt cannot be reached on ${this.name}: none of ${sockets.join(", ")} can be opened by the user ${this.#settings.endpoint.user}. Is libvirt running, is the user root or the one as whom libvirt runs, and does the SSH server have AllowStreamLocalForwarding local?`,
      { cause: refused[0] },
    );
  }

  async #openSocket(path: string): Promise<Duplex> {
    const connection = await this.#ssh.connect();
    try {
      return await connection.openUnixSocket(path);
    } catch (error) {
      throw error instanceof SshRefused ? this.#refusal(path, error) : error;
    }
  }

  #refusal(path: string, error: SshRefused): HypervisorMisconfigured | HypervisorUnavailable {
    const { reason } = error.cause as { reason?: unknown };
    if (reason === administrativelyProhibited) {
      return new HypervisorMisconfigured(
        `The SSH server of ${this.name} does not forward the unix socket ${path}: it needs AllowStreamLocalForwarding local, AllowTcpForwarding local, and permission in authorized_keys.`,
        { cause: error },
      );
    }
    return new HypervisorUnavailable(error.message, { cause: error });
  }
}
