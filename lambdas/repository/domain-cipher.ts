/**
 * Client-side encryption of a domain. From the domain's data key come four uses of their own (HKDF-SHA-256): naming chunks, so that
 * a store cannot tell by a hash what it holds; AES-256-GCM of chunks, with a key for each pack; authentication of roots; and of what a
 * running job leaves in the store for its next step.
 *
 * A pack's name is never used twice (it ends in a writer's random token and a sequence number), so its key is not either, and the
 * chunk's offset in the pack serves as nonce.
 */
import { createCipheriv, createDecipheriv, hkdfSync } from "node:crypto";
import { EncryptionKeyUnavailable, RepositoryDamaged } from "../domain/errors.ts";
import { hmacHex } from "./binary.ts";
import type { KeyService } from "./key-service.ts";

const algorithm = "aes-256-gcm";
const keyBytes = 32;
const nonceBytes = 12;
/** What encryption adds to a chunk. */
export const tagBytes = 16;

export class DomainCipher {
  readonly #dataKey: Uint8Array;
  readonly #rootKey: Uint8Array;
  /** Names chunks: their HMAC-SHA-256 under this key. */
  readonly chunkIdKey: Uint8Array;

  /** Throws EncryptionKeyUnavailable when `dataKey` is not of 32 bytes. */
  constructor(dataKey: Uint8Array) {
    if (dataKey.length !== keyBytes) throw new EncryptionKeyUnavailable("The domain's data key is not of 32 bytes.");
    this.#dataKey = dataKey;
    this.chunkIdKey = this.#derive("snapferry chunk id");
    this.#rootKey = this.#derive("snapferry root");
  }

  #derive(purpose: string): Uint8Array {
    return new Uint8Array(hkdfSync("sha256", this.#dataKey, new Uint8Array(), purpose, keyBytes));
  }

  /** The key that a pack's chunks are encrypted with. */
  packKey(packName: string): Uint8Array {
    return this.#derive(`snapferry pack ${packName}`);
  }

  /** The key that the description of a snapshot is encrypted with, and the one that its nonce is made with. */
  descriptionKeys(snapshotId: string): { readonly key: Uint8Array; readonly nonceKey: Uint8Array } {
    return {
      key: this.#derive(`snapferry description ${snapshotId}`),
      nonceKey: this.#derive(`snapferry description nonce ${snapshotId}`),
    };
  }

  /** Of a root: HMAC-SHA-256, hex. */
  authenticate(bytes: Uint8Array): string {
    return hmacHex(this.#rootKey, bytes);
  }

  /** Of a job's object with this key in the store, where it cannot be taken for another one: HMAC-SHA-256, hex. */
  authenticateJobObject(key: string, bytes: Uint8Array): string {
    return hmacHex(this.#derive(`snapferry job ${key}`), bytes);
  }
}

function nonceAt(offset: number): Buffer {
  const nonce = Buffer.alloc(nonceBytes);
  nonce.writeBigUInt64LE(BigInt(offset));
  return nonce;
}

/** The bytes encrypted for their place in the pack, the tag behind them. */
export function encryptAt(packKey: Uint8Array, offset: number, bytes: Uint8Array): Buffer {
  const cipher = createCipheriv(algorithm, packKey, nonceAt(offset), { authTagLength: tagBytes });
  return Buffer.concat([cipher.update(bytes), cipher.final(), cipher.getAuthTag()]);
}

/** Undefined when these are not the bytes that were encrypted for this place. */
export function decryptAt(packKey: Uint8Array, offset: number, stored: Uint8Array): Uint8Array | undefined {
  if (stored.length < tagBytes) return undefined;
  const end = stored.length - tagBytes;
  const decipher = createDecipheriv(algorithm, packKey, nonceAt(offset), { authTagLength: tagBytes });
  decipher.setAuthTag(stored.subarray(end));
  try {
    return Buffer.concat([decipher.update(stored.subarray(0, end)), decipher.final()]);
  } catch {
    return undefined;
  }
}

/**
 * The cipher of a domain with this wrapped key; undefined for one that is not encrypted. Throws EncryptionKeyUnavailable, and
 * RepositoryDamaged where the domain has to be encrypted and is not: a store may leave a key out, or replace what names it.
 */
export async function openCipher(
  source: { readonly domain: string; readonly keys?: KeyService; readonly mayBeUnencrypted?: boolean },
  wrappedKey: Uint8Array | undefined,
): Promise<DomainCipher | undefined> {
  if (!wrappedKey || wrappedKey.length === 0) {
    if (!source.keys || source.mayBeUnencrypted) return undefined;
    throw new RepositoryDamaged(
      `The domain ${source.domain} is not encrypted, and everything in its store has to be. Its objects were replaced, or are from before the store was encrypted.`,
    );
  }
  if (!source.keys) {
    throw new EncryptionKeyUnavailable(`The domain ${source.domain} is encrypted and no key service is configured.`);
  }
  return new DomainCipher(await source.keys.unwrap(wrappedKey, { domain: source.domain }));
}
