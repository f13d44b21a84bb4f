/** Where a host is reached over SSH, and as whom: `ssh://user@host:22`. Pure. */
import { isIPv4, isIPv6 } from "node:net";

export interface SshEndpoint {
  /** A name or an address; IPv6 without brackets. */
  readonly host: string;
  readonly port: number;
  readonly user: string;
}

const defaultPort = 22;
const form =
  /^ssh:\/\/(?<user>[A-Za-z0-9_][A-Za-z0-9_.-]{0,31})@(?<host>\[[^\]]{2,45}\]|[^[\]:/?#@\s]{1,253})(?::(?<port>\d{1,5}))?\/?$/;
const hostName = /^(?=.*[a-z])(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/i;

/** Undefined for what is no such endpoint, or is more than that: a password or a path. */
export function parseSshEndpoint(text: string): SshEndpoint | undefined {
  const { user, host: written = "", port: digits } = form.exec(text)?.groups ?? {};
  if (user === undefined) return undefined;
  const host = hostOf(written.toLowerCase());
  const port = digits === undefined ? defaultPort : Number(digits);
  return host === undefined || port < 1 || port > 65_535 ? undefined : { host, port, user };
}

function hostOf(written: string): string | undefined {
  if (written.startsWith("["))
    return isIPv6(written.slice(1, -1)) && !written.includes("%") ? written.slice(1, -1) : undefined;
  return isIPv4(written) || hostName.test(written) ? written : undefined;
}

/** The endpoint with all its parts, as rows keep it. */
export function sshEndpointText({ host, port, user }: SshEndpoint): string {
  return `ssh://${user}@${isIPv6(host) ? `[${host}]` : host}:${port}`;
}
