/** What tenants keep in Secrets Manager for Snapferry. */
import {
  GetSecretValueCommand,
  ResourceNotFoundException,
  SecretsManagerClient,
} from "@aws-sdk/client-secrets-manager";
import { SecretUnusable } from "../domain/errors.ts";

let client: SecretsManagerClient | undefined;

/** What Secrets Manager says of a secret that is there and cannot be read. */
const unreadable: ReadonlySet<string> = new Set([
  "AccessDeniedException",
  "DecryptionFailure",
  "InvalidParameterException",
  "InvalidRequestException",
]);

/** The secret's text, read anew each time. Callers check first whose secret it is. Throws SecretUnusable with what is wrong. */
export async function readSecret(secretId: string): Promise<string> {
  client ??= new SecretsManagerClient({ maxAttempts: 4 });
  try {
    const { SecretString } = await client.send(new GetSecretValueCommand({ SecretId: secretId }));
    if (SecretString !== undefined) return SecretString;
  } catch (error) {
    if (error instanceof ResourceNotFoundException) throw new SecretUnusable(`there is no secret ${secretId}`);
    if (error instanceof Error && unreadable.has(error.name))
      throw new SecretUnusable(`the secret ${secretId} cannot be read: ${error.message}`, { cause: error });
    throw error;
  }
  throw new SecretUnusable(`the secret ${secretId} holds bytes; it must hold text`);
}
