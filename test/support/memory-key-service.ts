/** A key service in memory that does as KMS does: wraps data keys with a key of its own, and opens them in their own context only. */
import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { EncryptionKeyUnavailable } from "../../lambdas/domain/errors.ts";
import type { KeyContext, KeyService } from "../../lambdas/repository/key-service.ts";

const algorithm = "aes-256-gcm";
const nonceBytes = 12;
const tagBytes = 16;

export class MemoryKeyService implements KeyService {
  readonly #masterKey: Uint8Array;
  /** Thrown by every call while it is set, as by a service that is away. */
  outage: Error | undefined;

  constructor(masterKey: Uint8Array = randomBytes(32)) {
    this.#masterKey = masterKey;
  }

  async generate(context: KeyContext): Promise<{ plaintext: Uint8Array; wrapped: Uint8Array }> {
    if (this.outage) throw this.outage;
    const plaintext = randomBytes(32);
    const nonce = randomBytes(nonceBytes);
    const cipher = createCipheriv(algorithm, this.#masterKey, nonce).setAAD(Buffer.from(context.domain));
    const sealed = [cipher.update(plaintext), cipher.final()];
    return { plaintext, wrapped: Buffer.concat([nonce, ...sealed, cipher.getAuthTag()]) };
  }

  async unwrap(wrapped: Uint8Array, context: KeyContext): Promise<Uint8Array> {
    if (this.outage) throw this.outage;
    try {
      const nonce = wrapped.subarray(0, nonceBytes);
      const decipher = createDecipheriv(algorithm, this.#masterKey, nonce, { authTagLength: tagBytes });
      decipher.setAAD(Buffer.from(context.domain)).setAuthTag(wrapped.subarray(-tagBytes));
      return Buffer.concat([decipher.update(wrapped.subarray(nonceBytes, -tagBytes)), decipher.final()]);
    } catch (cause) {
      throw new EncryptionKeyUnavailable("The key service does not open this key.", { cause });
    }
  }
}
