/** TLS on a stream on which both sides have agreed on it. */
import { isIP } from "node:net";
import type { Duplex } from "node:stream";
import { connect, type TLSSocket } from "node:tls";
import { printable } from "../printable.ts";
import { NbdTlsFailed } from "./errors.ts";

export interface TlsSettings {
  /** The name or address that the server's certificate must be made for. */
  readonly serverName: string;
  /** PEM of the authorities that are trusted, instead of the public ones. */
  readonly authorities?: string;
  /** PEM of the client's own certificate and key, where the server asks for them. */
  readonly certificate?: string;
  readonly key?: string;
}

/** The certificate is always checked. Throws NbdTlsFailed. */
export function startTls(plain: Duplex, settings: TlsSettings): Promise<TLSSocket> {
  const { promise, resolve, reject } = Promise.withResolvers<TLSSocket>();
  const { serverName, authorities: ca, certificate: cert, key } = settings;
  try {
    const socket = connect({
      socket: plain,
      host: serverName,
      ...(isIP(serverName) === 0 && { servername: serverName }),
      ...(ca !== undefined && { ca }),
      ...(cert !== undefined && { cert }),
      ...(key !== undefined && { key }),
      minVersion: "TLSv1.2",
      rejectUnauthorized: true,
    });
    const broken = () => failed(new Error("the connection was closed"));
    const failed = (cause: Error) => {
      socket.destroy();
      reject(new NbdTlsFailed(`There is no TLS with ${serverName}: ${printable(cause.message)}.`, { cause }));
    };
    socket.on("error", failed);
    plain.once("close", broken);
    socket.once("secureConnect", () => {
      plain.off("close", broken);
      resolve(socket);
    });
  } catch (cause) {
    // Keys and certificates that cannot be read; what is wrong is told by OpenSSL without quoting them.
    reject(new NbdTlsFailed(`TLS is set up wrongly: ${printable(String(cause))}.`, { cause }));
  }
  return promise;
}
