/** Host keys and their fingerprints, as `ssh-keygen -l` shows them. */
import { hash } from "node:crypto";

/** `SHA256:` and 43 characters of base64. `key` is the public key as it goes over the wire. */
export function fingerprint(key: Uint8Array): string {
  return `SHA256:${hash("sha256", key, "base64").replace(/=+$/, "")}`;
}

/** What names the key's kind in its first field, as `ssh-ed25519`. */
export function keyType(key: Buffer): string {
  const length = key.length < 4 ? 0 : key.readUInt32BE(0);
  const name = key.toString("latin1", 4, 4 + length);
  return /^[a-z0-9@.-]{1,64}$/.test(name) ? name : "of an unknown kind";
}
