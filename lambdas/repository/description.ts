/**
 * The description in a root. It holds names that people gave, so in an encrypted domain it is encrypted too: one text by the name
 * `sealed`. The bytes of a root are determined by its content, so the nonce is made of the plaintext under a key of the snapshot's own.
 */
import { createCipheriv, createDecipheriv, createHmac } from "node:crypto";
import { type DomainCipher, tagBytes } from "./domain-cipher.ts";
import type { Root, SnapshotDescription } from "./manifest.ts";

const algorithm = "aes-256-gcm";
const nonceBytes = 12;
/** Spaces fill the plaintext up to a multiple of this, so that its length tells little of the names in it. */
const paddedToBytes = 512;

/** What a root is to hold: the description as it is where there is no cipher. One without texts has nothing to hide. */
export function sealDescription(
  cipher: DomainCipher | undefined,
  snapshotId: string,
  description: SnapshotDescription,
): SnapshotDescription {
  if (!cipher || Object.keys(description).length === 0) return description;
  const { key, nonceKey } = cipher.descriptionKeys(snapshotId);
  const json = Buffer.from(JSON.stringify(description, Object.keys(description).sort()));
  const plaintext = Buffer.alloc(Math.ceil(json.length / paddedToBytes) * paddedToBytes, " ");
  json.copy(plaintext);
  const nonce = createHmac("sha256", nonceKey).update(plaintext).digest().subarray(0, nonceBytes);
  const encryption = createCipheriv(algorithm, key, nonce, { authTagLength: tagBytes });
  const sealed = [nonce, encryption.update(plaintext), encryption.final(), encryption.getAuthTag()];
  return { sealed: Buffer.concat(sealed).toString("base64") };
}

/** The description of a root that was read. Undefined when it is sealed and `cipher` is not there or does not open it. */
export function openDescription(
  cipher: DomainCipher | undefined,
  { snapshotId, description, wrappedKey }: Pick<Root, "snapshotId" | "description" | "wrappedKey">,
): SnapshotDescription | undefined {
  const { sealed } = description;
  if (wrappedKey.length === 0 || sealed === undefined) return description;
  const bytes = Buffer.from(sealed, "base64");
  if (!cipher || bytes.length < nonceBytes + tagBytes) return undefined;
  const end = bytes.length - tagBytes;
  const { key } = cipher.descriptionKeys(snapshotId);
  const decryption = createDecipheriv(algorithm, key, bytes.subarray(0, nonceBytes), { authTagLength: tagBytes });
  decryption.setAuthTag(bytes.subarray(end));
  try {
    const plaintext = Buffer.concat([decryption.update(bytes.subarray(nonceBytes, end)), decryption.final()]);
    return JSON.parse(plaintext.toString("utf8")) as SnapshotDescription;
  } catch {
    return undefined;
  }
}
