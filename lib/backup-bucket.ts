/**
 * The default store: a private bucket that takes TLS only, is encrypted and versioned. Noncurrent versions last for a week, plans
 * of executions for 30 days, uploads that nobody finished for a day. Who read or deleted what is logged to a second bucket.
 */
import { Duration, RemovalPolicy } from "aws-cdk-lib";
import * as kms from "aws-cdk-lib/aws-kms";
import * as s3 from "aws-cdk-lib/aws-s3";
import { Construct } from "constructs";
import type { HandlerFunction } from "./handler-function.ts";
import { allow } from "./permissions.ts";

/** Below it lie the plans that Distributed Maps read. */
export const executionsPrefix = "executions/";

/**
 * `readRoots`: what snapshots there are, and of what; none of their bytes.
 * `deleteJobFiles`: what a job keeps in the bucket only while it runs (plans, checkpoints, pins), for good.
 * `deleteBackups`: everything, for good.
 */
export type BucketAccess = "readRoots" | "read" | "write" | "deleteJobFiles" | "deleteBackups";

interface Rights {
  readonly onBucket: readonly string[];
  readonly onObjects: readonly string[];
  /** Patterns of the keys of these objects. */
  readonly keys: readonly string[];
}

const anyKey = ["*"];
const deleting: Omit<Rights, "keys"> = {
  onBucket: ["s3:ListBucketVersions", "s3:ListBucketMultipartUploads"],
  onObjects: ["s3:DeleteObject", "s3:DeleteObjectVersion", "s3:AbortMultipartUpload"],
};

const rights: Readonly<Record<BucketAccess, Rights>> = {
  readRoots: { onBucket: ["s3:ListBucket"], onObjects: ["s3:GetObject"], keys: ["domains/*/roots/*"] },
  read: { onBucket: ["s3:ListBucket"], onObjects: ["s3:GetObject"], keys: anyKey },
  write: { onBucket: [], onObjects: ["s3:PutObject"], keys: anyKey },
  deleteJobFiles: { ...deleting, keys: [`${executionsPrefix}*`, "domains/*/jobs/*"] },
  deleteBackups: { ...deleting, keys: anyKey },
};

/** {@link BackupBucket} */
export interface BackupBucketProps {
  /** Whether the bucket survives the stack. */
  readonly retainData: boolean;
  /** The key to encrypt with; undefined: one that S3 manages. */
  readonly kmsKeyArn: string | undefined;
}

export class BackupBucket extends Construct {
  readonly bucket: s3.Bucket;

  constructor(scope: Construct, id: string, props: BackupBucketProps) {
    super(scope, id);
    const removalPolicy = props.retainData ? RemovalPolicy.RETAIN : RemovalPolicy.DESTROY;
    const closed = { blockPublicAccess: s3.BlockPublicAccess.BLOCK_ALL, enforceSSL: true, removalPolicy };
    const accessLogs = new s3.Bucket(this, "AccessLogs", {
      ...closed,
      encryption: s3.BucketEncryption.S3_MANAGED,
      lifecycleRules: [{ expiration: Duration.days(90) }],
    });
    this.bucket = new s3.Bucket(this, "Bucket", {
      ...closed,
      ...encryption(this, props.kmsKeyArn),
      versioned: true,
      serverAccessLogsBucket: accessLogs,
      lifecycleRules: [
        {
          noncurrentVersionExpiration: Duration.days(7),
          expiredObjectDeleteMarker: true,
          abortIncompleteMultipartUploadAfter: Duration.days(1),
        },
        { prefix: executionsPrefix, expiration: Duration.days(30) },
      ],
    });
    for (const bucket of [accessLogs, this.bucket]) bucket.policy?.applyRemovalPolicy(removalPolicy);
  }

  /** Gives `handler` the bucket's name and rights to the objects in it; with no access the name alone. */
  grant(handler: HandlerFunction, access: readonly BucketAccess[]): void {
    const { bucketArn, bucketName, encryptionKey } = this.bucket;
    for (const { onBucket, onObjects, keys } of access.map((level) => rights[level])) {
      if (onBucket.length > 0) allow(handler.role, { actions: onBucket, resources: [bucketArn] });
      allow(handler.role, {
        actions: onObjects,
        resources: keys.map((key) => `${bucketArn}/${key}`),
        wildcardBecause: "The keys of a repository's objects are made of ids and hashes that are not known beforehand.",
      });
    }
    const keyActions = [
      ...(access.length > 0 ? ["kms:Decrypt"] : []),
      ...(access.includes("write") ? ["kms:GenerateDataKey"] : []),
    ];
    if (encryptionKey && keyActions.length > 0)
      allow(handler.role, { actions: keyActions, resources: [encryptionKey.keyArn] });
    handler.addEnvironment("BACKUP_BUCKET", bucketName);
  }
}

function encryption(scope: Construct, kmsKeyArn: string | undefined): s3.BucketProps {
  if (kmsKeyArn === undefined) return { encryption: s3.BucketEncryption.S3_MANAGED };
  return {
    encryption: s3.BucketEncryption.KMS,
    encryptionKey: kms.Key.fromKeyArn(scope, "Key", kmsKeyArn),
    bucketKeyEnabled: true,
  };
}
