/** The flags that say where a repository lies and with whose credentials it is read. */
import type { Command } from "commander";

/** Whose credentials. */
export interface CredentialFlags {
  readonly profile?: string;
  readonly kmsKey?: string;
  readonly kmsProfile?: string;
  readonly endpoint?: string;
  readonly region?: string;
}

export interface BucketFlags extends CredentialFlags {
  readonly bucket: string;
  readonly prefix?: string;
  readonly pathStyle?: boolean;
  readonly encrypted?: boolean;
}

export function withCredentialFlags(to: Command): Command {
  return to
    .option(
      "--profile <name>",
      "the AWS profile whose credentials read the bucket; AWS_PROFILE, AWS_ACCESS_KEY_ID, … if absent",
    )
    .option("--kms-key <arn>", "the KMS key of an encrypted repository, where KMS is to check that it is this one")
    .option("--kms-profile <name>", "the AWS profile whose credentials may use that key, if they are others");
}

export function withBucketFlags(to: Command): Command {
  const located = to
    .requiredOption("--bucket <bucket>", "the bucket")
    .option("--prefix <prefix>", "what the keys of all objects begin with")
    .option("--endpoint <url>", "the service, if it is not Amazon S3")
    .option("--region <region>", "the bucket's region; AWS_REGION or the profile's if absent")
    .option("--path-style", "the bucket stands in the path; so it is if an endpoint is given")
    .option("--no-path-style", "the bucket stands in the host name")
    .option("--encrypted", "everything in it is encrypted: refuse what is not, as somebody else put it there");
  return withCredentialFlags(located);
}
