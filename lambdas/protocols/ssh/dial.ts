/** Opens the TCP connection, to nothing but addresses that may be called. */
import { connect, isIP, type Socket } from "node:net";
import { isForbiddenAddress } from "../egress/addresses.ts";
import { ForbiddenAddress, guardedLookup } from "../egress/endpoint.ts";
import { SshTimedOut, SshUnreachable } from "./errors.ts";

export interface DialOptions {
  readonly host: string;
  readonly port: number;
  /** Networks that may be called although they are not public. */
  readonly allowedCidrs: readonly string[];
  readonly timeoutMs: number;
}

const reasons: Readonly<Record<string, string>> = {
  ECONNREFUSED: "nothing listens on the port",
  ENOTFOUND: "the name is unknown",
  EAI_AGAIN: "the name cannot be looked up now",
  EHOSTUNREACH: "there is no way to the host",
  ENETUNREACH: "there is no way to the network",
  ECONNRESET: "the connection was reset",
};

/** Throws ForbiddenAddress, SshUnreachable or SshTimedOut. */
export function dial(options: DialOptions): Promise<Socket> {
  const { host, port, allowedCidrs, timeoutMs } = options;
  if (isIP(host) !== 0 && isForbiddenAddress(host, allowedCidrs)) {
    return Promise.reject(new ForbiddenAddress(`${host} is not a public address, and not among the allowed ones.`));
  }
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  // Without noDelay throughput is erratic: small window adjustments wait for the other side's acknowledgement.
  const socket = connect({ host, port, lookup: guardedLookup(allowedCidrs), noDelay: true });
  const timer = setTimeout(() => {
    reject(new SshTimedOut(`${host}:${port} did not answer within ${timeoutMs} ms.`));
    socket.destroy();
  }, timeoutMs);
  socket.once("connect", () => {
    clearTimeout(timer);
    socket.off("error", failed);
    resolve(socket);
  });
  const failed = (error: NodeJS.ErrnoException) => {
    clearTimeout(timer);
    reject(error instanceof ForbiddenAddress ? error : unreachable(`${host}:${port}`, error));
  };
  socket.on("error", failed);
  return promise;
}

function unreachable(where: string, cause: NodeJS.ErrnoException): SshUnreachable {
  const code = cause.code ?? "";
  return new SshUnreachable(`${where} is not reached: ${reasons[code] ?? (code || cause.message)}.`, { cause });
}
