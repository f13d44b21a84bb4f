import assert from "node:assert/strict";
import { test } from "node:test";
import { Match, type Template } from "aws-cdk-lib/assertions";
import { allowing, functionRoles, resource, resourcesOf, statementsOf, templateWith } from "./synthesised.ts";

const template = templateWith();
const bucket = resource(template, "AWS::S3::Bucket", "BackupsBucket");

test("nothing in the buckets can be made public", () => {
  for (const { Properties } of Object.values(resourcesOf(template, "AWS::S3::Bucket")))
    assert.deepEqual(Properties.PublicAccessBlockConfiguration, {
      BlockPublicAcls: true,
      BlockPublicPolicy: true,
      IgnorePublicAcls: true,
      RestrictPublicBuckets: true,
    });
});

test("both buckets refuse calls without TLS", () => {
  template.resourcePropertiesCountIs("AWS::S3::BucketPolicy", refusesPlainHttp("s3:*"), 2);
});

test("buckets and the policies that close them survive the stack", () => {
  for (const type of ["AWS::S3::Bucket", "AWS::S3::BucketPolicy"])
    for (const [id, { DeletionPolicy }] of Object.entries(resourcesOf(template, type)))
      assert.equal(DeletionPolicy, "Retain", id);
});

test("with retain.data=false buckets go with the stack", () => {
  for (const { DeletionPolicy } of Object.values(
    resourcesOf(templateWith({ "retain.data": false }), "AWS::S3::Bucket"),
  ))
    assert.equal(DeletionPolicy, "Delete");
});

test("backups are versioned, and who touched them is logged", () => {
  assert.deepEqual(bucket.Properties.VersioningConfiguration, { Status: "Enabled" });
  assert.ok(bucket.Properties.LoggingConfiguration);
});

test("noncurrent versions, delete markers, unfinished uploads and plans end by themselves", () => {
  assert.deepEqual(bucket.Properties.LifecycleConfiguration, {
    Rules: [
      {
        Status: "Enabled",
        NoncurrentVersionExpiration: { NoncurrentDays: 7 },
        ExpiredObjectDeleteMarker: true,
        AbortIncompleteMultipartUpload: { DaysAfterInitiation: 1 },
      },
      { Status: "Enabled", Prefix: "executions/", ExpirationInDays: 30 },
    ],
  });
});

test("S3 encrypts with its own key", () => {
  assert.deepEqual(algorithms(template), ["AES256"]);
});

test("with kms.key.arn S3 encrypts with that key, and those who use the bucket may use the key", () => {
  const key = "arn:aws:kms:eu-central-1:111122223333:key/0d3b6a1e-0000-4000-8000-000000000000";
  const withKey = templateWith({ "kms.key.arn": key });
  assert.deepEqual(algorithms(withKey), ["aws:kms"]);
  const users = Object.entries(functionRoles).filter(([, role]) =>
    allowing(statementsOf(withKey, role), /^kms:Decrypt$/).some(({ resources }) => resources.includes(key)),
  );
  assert.deepEqual(
    users.map(([name]) => name),
    ["tasks", "copy", "collect", "import"],
  );
});

function algorithms(of: Template): string[] {
  const { BucketEncryption } = resource(of, "AWS::S3::Bucket", "BackupsBucket").Properties;
  const { ServerSideEncryptionConfiguration: rules } = BucketEncryption as {
    ServerSideEncryptionConfiguration: { ServerSideEncryptionByDefault: { SSEAlgorithm: string } }[];
  };
  return rules.map((rule) => rule.ServerSideEncryptionByDefault.SSEAlgorithm);
}

function refusesPlainHttp(action: string) {
  return {
    PolicyDocument: {
      Statement: Match.arrayWith([
        Match.objectLike({ Effect: "Deny", Action: action, Condition: { Bool: { "aws:SecureTransport": "false" } } }),
      ]),
    },
  };
}
