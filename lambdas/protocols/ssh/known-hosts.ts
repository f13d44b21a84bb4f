/** Public keys of hosts as OpenSSH writes them: one line of a `.pub` file, or the lines of `known_hosts`. */
import { createHmac, timingSafeEqual } from "node:crypto";
import { keyType } from "./host-key.ts";

/** Kinds of host keys that the client takes; a key of the kind `ssh-rsa` signs with SHA-2. */
const acceptedTypes: ReadonlySet<string> = new Set([
  "ssh-ed25519",
  "ecdsa-sha2-nistp256",
  "ecdsa-sha2-nistp384",
  "ecdsa-sha2-nistp521",
  "ssh-rsa",
]);

const defaultPort = 22;

/** The key of a line `TYPE BASE64 [COMMENT]`, as it goes over the wire; undefined for what is none, or of a kind that is not accepted. */
export function publicKeyOf(line: string): Buffer | undefined {
  const [type = "", base64 = ""] = line.trim().split(/[ \t]+/);
  if (!acceptedTypes.has(type) || !/^[A-Za-z0-9+/]+={0,2}$/.test(base64)) return undefined;
  const key = Buffer.from(base64, "base64");
  return keyType(key) === type ? key : undefined;
}

/**
 * The keys that `known_hosts` has for a host: of lines with its name, a pattern, or the hash of its name. Keys that it calls revoked are
 * not among them; authorities that sign host keys and lines that cannot be read are passed over.
 */
export function knownKeysOf(knownHosts: string, { host, port }: { host: string; port: number }): Buffer[] {
  const name = host.toLowerCase();
  const names = port === defaultPort ? [name, `[${name}]:${port}`] : [`[${name}]:${port}`];
  const found = knownHosts.split(/\r?\n/).flatMap((line) => {
    const { marker, hosts, key } = parseLine(line);
    return key && names.some((one) => isListed(one, hosts)) ? [{ marker, key }] : [];
  });
  const revoked = found.filter(({ marker }) => marker === "@revoked");
  return found
    .filter(({ marker, key }) => marker === undefined && !revoked.some((one) => one.key.equals(key)))
    .map(({ key }) => key);
}

function parseLine(line: string): { marker?: string; hosts: string; key: Buffer | undefined } {
  const [, marker, hosts = "", rest = ""] = /^[ \t]*(?:(@\S+)[ \t]+)?(\S+)[ \t]+(.*)$/.exec(line) ?? [];
  const key = hosts.startsWith("#") ? undefined : publicKeyOf(rest);
  return { ...(marker === undefined ? {} : { marker }), hosts, key };
}

/** A negated pattern that matches takes the host out, whatever the others say. */
function isListed(name: string, hosts: string): boolean {
  if (hosts.startsWith("|")) return isHashOf(name, hosts);
  const patterns = hosts.toLowerCase().split(",");
  if (patterns.some((pattern) => pattern.startsWith("!") && isMatch(name, pattern.slice(1)))) return false;
  return patterns.some((pattern) => isMatch(name, pattern));
}

/** `|1|SALT|HASH`: HMAC-SHA-1 of the name under the salt. */
function isHashOf(name: string, hashed: string): boolean {
  const [, version, salt = "", hash = ""] = hashed.split("|");
  if (version !== "1") return false;
  const expected = createHmac("sha1", Buffer.from(salt, "base64")).update(name).digest();
  const given = Buffer.from(hash, "base64");
  return given.length === expected.length && timingSafeEqual(given, expected);
}

/** `*` stands for any characters and `?` for one. Goes back to the last star only, so that no pattern takes long. */
function isMatch(name: string, pattern: string): boolean {
  let [position, at, star, resume] = [0, 0, -1, 0];
  while (position < name.length) {
    if (pattern[at] === "*") {
      star = at++;
      resume = position;
    } else if (pattern[at] === "?" || pattern[at] === name[position]) {
      at++;
      position++;
    } else if (star < 0) return false;
    else {
      at = star + 1;
      position = ++resume;
    }
  }
  return /^\**$/.test(pattern.slice(at));
}
