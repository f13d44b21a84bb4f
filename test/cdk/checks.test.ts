import assert from "node:assert/strict";
import { test } from "node:test";
import { Annotations, Match, Template } from "aws-cdk-lib/assertions";
import { AwsSolutionsChecks } from "cdk-nag";
import { stackWith, templateWith } from "./synthesised.ts";

const everything = {
  vpcId: "vpc-0123456789abcdef0",
  subnetIds: "subnet-0123456789abcdef0",
  securityGroupIds: "sg-0123456789abcdef0",
  routeTableIds: "rtb-0123456789abcdef0",
  "kms.key.arn": "arn:aws:kms:eu-central-1:111122223333:key/0d3b6a1e-0000-4000-8000-000000000000",
  "encryption.key": "create",
  "encryption.default": "client",
  "auth.issuer": "https://id.example.org/",
  "auth.audience": "snapferry",
  "auth.jwksUrl": "https://id.example.org/keys",
  "notify.email": "people@example.org",
  "alarm.email": "ops@example.org",
  "file.efsAccessPointArn": "arn:aws:elasticfilesystem:eu-central-1:111122223333:access-point/fsap-0123456789abcdef0",
  "file.subnetIds": "subnet-0123456789abcdef0",
  "file.securityGroupIds": "sg-0123456789abcdef0",
};

const deployments = { "no context": {}, "all of the context": everything };

for (const [name, context] of Object.entries(deployments))
  test(`the AWS Solutions rules find nothing with ${name} that is not acknowledged`, () => {
    const { violations } = new AwsSolutionsChecks().validateScope(stackWith(context));
    assert.deepEqual(
      violations.map(({ ruleName, violatingResources }) => [
        ruleName,
        violatingResources.map((found) => found.constructPath),
      ]),
      [],
    );
  });

for (const [name, context] of Object.entries(deployments))
  test(`CloudFormation's own rules find nothing with ${name}`, () => {
    Template.fromStack(stackWith(context, { validated: true }));
  });

test("whoever deploys an API that lets nobody in is told so", () => {
  const told = Match.stringLikeRegexp("401: give the context auth\\.issuer");
  assert.equal(Annotations.fromStack(stackWith()).findWarning("*", told).length, 1);
  assert.equal(Annotations.fromStack(stackWith(everything)).findWarning("*", Match.anyValue()).length, 0);
});

/** Emulators of AWS report success for types that they do not have. These were seen to work on LocalStack 4.14. */
const emulated = new Set([
  "AWS::ApiGateway::Account",
  "AWS::ApiGateway::Deployment",
  "AWS::ApiGateway::GatewayResponse",
  "AWS::ApiGateway::Method",
  "AWS::ApiGateway::Resource",
  "AWS::ApiGateway::RestApi",
  "AWS::ApiGateway::Stage",
  "AWS::CloudWatch::Alarm",
  "AWS::DynamoDB::Table",
  "AWS::EC2::SecurityGroup",
  "AWS::EC2::VPCEndpoint",
  "AWS::Events::EventBus",
  "AWS::Events::Rule",
  "AWS::IAM::Policy",
  "AWS::IAM::Role",
  "AWS::KMS::Key",
  "AWS::Lambda::EventInvokeConfig",
  "AWS::Lambda::EventSourceMapping",
  "AWS::Lambda::Function",
  "AWS::Lambda::Permission",
  "AWS::Logs::LogGroup",
  "AWS::S3::Bucket",
  "AWS::S3::BucketPolicy",
  "AWS::SNS::Subscription",
  "AWS::SNS::Topic",
  "AWS::SNS::TopicPolicy",
  "AWS::SQS::Queue",
  "AWS::SQS::QueuePolicy",
  "AWS::SSM::Parameter",
  "AWS::StepFunctions::StateMachine",
]);

test("the template holds only types that an emulator of AWS was seen to make", () => {
  const resources: Record<string, { Type: string }> = templateWith(everything).toJSON().Resources;
  const types = new Set(Object.values(resources).map(({ Type }) => Type));
  assert.deepEqual(
    [...types].filter((type) => !emulated.has(type)),
    [],
  );
});

test("two stacks of one account share no name", () => {
  const names = (stackName: string) => {
    const text = JSON.stringify(templateWith({ "stack.name": stackName }).toJSON());
    const fixed = text.matchAll(/"(?:\w*Name|Name)":"([^"]+)"/g);
    return new Set(Array.from(fixed, ([, name = ""]) => name).filter((name) => name.includes(stackName)));
  };
  const first = names("First");
  assert.ok(first.size >= 15);
  assert.deepEqual(
    [...names("Second")].filter((name) => first.has(name)),
    [],
  );
});

test("every part that operators and tests look up is an output", () => {
  const outputs = Object.keys(templateWith().toJSON().Outputs);
  for (const name of [
    "ApiId",
    "ApiUrl",
    "BackupBucketName",
    "EventBusName",
    "TopicArn",
    "SettingsPath",
    "StateMachineArnPrefix",
  ])
    assert.ok(outputs.includes(name), name);
  assert.equal(outputs.filter((name) => name.endsWith("TableName")).length, 11);
  assert.ok(!outputs.some((name) => /[0-9A-F]{8}$/.test(name)));
});
