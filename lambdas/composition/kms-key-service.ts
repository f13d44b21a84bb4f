import {
  DecryptCommand,
  DisabledException,
  GenerateDataKeyCommand,
  IncorrectKeyException,
  InvalidArnException,
  InvalidCiphertextException,
  InvalidKeyUsageException,
  KeyUnavailableException,
  KMSClient,
  KMSInvalidStateException,
  KMSServiceException,
  NotFoundException,
} from "@aws-sdk/client-kms";
import { EncryptionKeyUnavailable, Throttled } from "../domain/errors.ts";
import { isPassingFault } from "../domain/passing-faults.ts";
import type { KeyContext, KeyService } from "../repository/key-service.ts";

/** What another attempt cannot mend: whoever owns the key has to. What else is neither throttling nor a fault of KMS is thrown as it is. */
const refusals = [
  DisabledException,
  IncorrectKeyException,
  InvalidArnException,
  InvalidCiphertextException,
  InvalidKeyUsageException,
  KeyUnavailableException,
  KMSInvalidStateException,
  NotFoundException,
] as const;

/** Has no class of its own in the SDK. */
const accessDenied = "AccessDeniedException";

/**
 * Data keys by AWS KMS. The encryption context is the domain alone. A domain's name is a hash of tenant and volume, so a wrapped key that
 * is carried over to another tenant's domain is refused; and it stands in the keys of the domain's objects, so that whoever has the bucket
 * and may use the KMS key can read it without Snapferry's tables.
 */
export class KmsKeyService implements KeyService {
  readonly #keyArn: string | undefined;
  readonly #client: KMSClient;

  /** Without an ARN nothing is wrapped, and what is unwrapped names its key itself. */
  constructor(keyArn: string | undefined, client: KMSClient = new KMSClient({ maxAttempts: 5 })) {
    this.#keyArn = keyArn;
    this.#client = client;
  }

  /** Throws EncryptionKeyUnavailable when KMS refuses, Throttled while it is overloaded or has a fault. */
  async generate({ domain }: KeyContext): Promise<{ plaintext: Uint8Array; wrapped: Uint8Array }> {
    const { Plaintext, CiphertextBlob } = await this.#call(() =>
      this.#client.send(
        new GenerateDataKeyCommand({ KeyId: this.#keyArn, KeySpec: "AES_256", EncryptionContext: { domain } }),
      ),
    );
    if (!Plaintext || !CiphertextBlob) throw new EncryptionKeyUnavailable(`${this.#name} gave no data key`);
    return { plaintext: Plaintext, wrapped: CiphertextBlob };
  }

  async unwrap(wrapped: Uint8Array, { domain }: KeyContext): Promise<Uint8Array> {
    const { Plaintext } = await this.#call(() =>
      this.#client.send(
        new DecryptCommand({ KeyId: this.#keyArn, CiphertextBlob: wrapped, EncryptionContext: { domain } }),
      ),
    );
    if (!Plaintext) throw new EncryptionKeyUnavailable(`${this.#name} did not unwrap the domain's data key`);
    return Plaintext;
  }

  get #name(): string {
    return this.#keyArn ?? "KMS";
  }

  async #call<Answer>(send: () => Promise<Answer>): Promise<Answer> {
    try {
      return await send();
    } catch (error) {
      if (isRefusal(error))
        throw new EncryptionKeyUnavailable(`${this.#name} refuses: ${error.name}: ${error.message}`, { cause: error });
      if (isPassingFault(error))
        throw new Throttled(`KMS does not serve ${this.#name} now: ${error.name}: ${error.message}`, { cause: error });
      throw error;
    }
  }
}

function isRefusal(error: unknown): error is KMSServiceException {
  if (!(error instanceof KMSServiceException)) return false;
  return error.name === accessDenied || refusals.some((refusal) => error instanceof refusal);
}

/** In the place of a key service where the deployment has none: what is encrypted cannot be opened, all else goes on. */
export const noKeyService: KeyService = {
  generate: refuse,
  unwrap: refuse,
};

async function refuse(): Promise<never> {
  throw new EncryptionKeyUnavailable("the deployment has no key for encrypted stores (context encryption.key)");
}
