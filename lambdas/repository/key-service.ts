/** What client-side encryption asks of a key management service: envelope encryption of one data key for each domain. */
export interface KeyService {
  /** A new data key of 32 bytes, and the wrapped form that is kept in `domain.json`. `context` is bound to it. */
  generate(context: KeyContext): Promise<{ readonly plaintext: Uint8Array; readonly wrapped: Uint8Array }>;
  /** The data key again. Throws EncryptionKeyUnavailable when the service refuses or knows no such key. */
  unwrap(wrapped: Uint8Array, context: KeyContext): Promise<Uint8Array>;
}

/** Bound to a wrapped key as additional authenticated data (the encryption context of KMS). */
export interface KeyContext {
  readonly domain: string;
}
