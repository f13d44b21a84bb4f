/** Where a repository lies, as flags of a command, and what opens it: the caller's own credentials and nothing of the service. */
import { KMSClient } from "@aws-sdk/client-kms";
import { KmsKeyService } from "../../lambdas/composition/kms-key-service.ts";
import { EncryptionKeyUnavailable, SnapferryError } from "../../lambdas/domain/errors.ts";
import type { KeyService } from "../../lambdas/repository/key-service.ts";
import type { ObjectStore } from "../../lambdas/repository/object-store.ts";
import { S3Connection } from "../../lambdas/repository/s3-connection.ts";
import { S3ObjectStore } from "../../lambdas/repository/s3-object-store.ts";
import { CliError, exitCodes } from "../exit-codes.ts";
import type { BucketFlags, CredentialFlags } from "./flags.ts";

/** A repository that is open: `close` ends its connections. */
export interface OpenBucket {
  readonly store: ObjectStore;
  readonly keys: KeyService;
  /** Whether domains without encryption are read: not where the caller says that everything is encrypted. */
  readonly mayBeUnencrypted: boolean;
  close(): void;
}

/** Who runs the command chooses where it connects to: any address will do. */
const anyAddress = ["0.0.0.0/0", "::/0"];
/** For services that have no regions. */
const anyRegion = "us-east-1";

/** Throws a usage error that names the flag when something is missing or wrong. */
export async function openBucket(flags: BucketFlags): Promise<OpenBucket> {
  const { bucket, prefix, endpoint, region, pathStyle, profile } = flags;
  if (endpoint !== undefined && !(URL.canParse(endpoint) && /^https?:$/.test(new URL(endpoint).protocol)))
    throw new CliError(exitCodes.usage, `--endpoint: ${JSON.stringify(endpoint)} is no URL such as https://host:9000.`);
  const style = pathStyle ?? (endpoint === undefined ? undefined : true);
  const connection = new S3Connection({
    ...(endpoint === undefined ? {} : { endpoint, allowedCidrs: anyAddress }),
    ...(region === undefined ? (endpoint === undefined ? {} : { region: anyRegion }) : { region }),
    ...(style === undefined ? {} : { pathStyle: style }),
    ...(profile === undefined ? {} : { profile }),
  });
  await requireRegion(connection.client);
  const kms = kmsOf(flags);
  return {
    store: new S3ObjectStore({ connection, bucket, ...(prefix === undefined ? {} : { prefix }) }),
    keys: kms.keys,
    mayBeUnencrypted: !flags.encrypted,
    close: () => {
      connection.close();
      kms.close();
    },
  };
}

async function requireRegion(client: { readonly config: { region(): Promise<string> } }): Promise<void> {
  try {
    await client.config.region();
  } catch (error) {
    throw new CliError(
      exitCodes.usage,
      `Give the bucket's region: --region, AWS_REGION or that of a profile (${(error as Error).message}).`,
    );
  }
}

/** Made at the first wrapped key: a repository without encryption needs no KMS. */
function kmsOf({ kmsKey, kmsProfile, profile, region, endpoint }: CredentialFlags): {
  keys: KeyService;
  close(): void;
} {
  let client: KMSClient | undefined;
  const ofKey = /^arn:[^:]+:kms:([^:]+):/.exec(kmsKey ?? "")?.[1];
  // The region of a store that is not Amazon's says nothing about where the key is.
  const kmsRegion = ofKey ?? (endpoint === undefined ? region : undefined);
  const kmsCredentials = kmsProfile ?? profile;
  const open = () => {
    client ??= new KMSClient({
      maxAttempts: 5,
      ...(kmsRegion === undefined ? {} : { region: kmsRegion }),
      ...(kmsCredentials === undefined ? {} : { profile: kmsCredentials }),
    });
    return new KmsKeyService(kmsKey, client);
  };
  return {
    keys: {
      generate: () => Promise.reject(new EncryptionKeyUnavailable("Nothing is written here.")),
      unwrap: async (wrapped, context) => {
        try {
          return await open().unwrap(wrapped, context);
        } catch (error) {
          if (error instanceof SnapferryError) throw error;
          const { name, message } = error as Error;
          throw new EncryptionKeyUnavailable(`KMS cannot be asked for the data key: ${name}: ${message}`, {
            cause: error,
          });
        }
      },
    },
    close: () => client?.destroy(),
  };
}
