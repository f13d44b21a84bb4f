import assert from "node:assert/strict";
import { test } from "node:test";
import type { Template } from "aws-cdk-lib/assertions";
import { nodeEnvironment } from "../../lib/node-environment.ts";
import { resource, resourcesOf, templateWith, written } from "./synthesised.ts";

const template = templateWith();
const functions = Object.values(resourcesOf(template, "AWS::Lambda::Function"));

function named(name: string, of: Template = template) {
  return resource(of, "AWS::Lambda::Function", `Functions${name}`).Properties;
}

function environment(name: string, of: Template = template): Record<string, unknown> {
  return (named(name, of).Environment as { Variables: Record<string, unknown> }).Variables;
}

test("functions run on Node.js 24 and ARM, write JSON logs and are traced", () => {
  assert.equal(functions.length, 9);
  for (const { Properties } of functions) {
    assert.equal(Properties.Runtime, "nodejs24.x");
    assert.deepEqual(Properties.Architectures, ["arm64"]);
    assert.equal((Properties.LoggingConfig as { LogFormat: string }).LogFormat, "JSON");
    assert.deepEqual(Properties.TracingConfig, { Mode: "Active" });
  }
});

test("functions and their logs are called after the stack", () => {
  assert.equal(named("Copy").FunctionName, "Snapferry-copy");
  const { LogGroupName } = resource(template, "AWS::Logs::LogGroup", "FunctionsCopyLogs").Properties;
  assert.equal(LogGroupName, "/aws/lambda/Snapferry-copy");
});

test("no log is kept for ever", () => {
  for (const [id, { Properties }] of Object.entries(resourcesOf(template, "AWS::Logs::LogGroup")))
    assert.ok(Number(Properties.RetentionInDays) <= 90, id);
});

test("functions behind the API end before API Gateway gives up, workers before Lambda does", () => {
  const seconds = Object.fromEntries(
    ["Api", "Inventory", "Import", "Tasks", "Copy", "Collect"].map((name) => [name, named(name).Timeout]),
  );
  assert.deepEqual(seconds, { Api: 29, Inventory: 29, Import: 29, Tasks: 900, Copy: 900, Collect: 900 });
});

test("copies have concurrency of their own: slots x shards of each", () => {
  const context = { "backup.pool.size": "3", "backup.shard.concurrency": "2" };
  assert.equal(named("Copy").ReservedConcurrentExecutions, 16);
  assert.equal(named("Copy", templateWith(context)).ReservedConcurrentExecutions, 6);
  assert.equal(
    named("Copy", templateWith({ "copy.reserved.concurrency": "none" })).ReservedConcurrentExecutions,
    undefined,
  );
  for (const { Properties } of functions)
    if (Properties !== named("Copy")) assert.equal(Properties.ReservedConcurrentExecutions, undefined);
});

test("a function is told the names of what it may use, and of nothing else", () => {
  const always = [...Object.keys(nodeEnvironment), "LOG_LEVEL", "POWERTOOLS_SERVICE_NAME"];
  const told = (name: string) =>
    Object.keys(environment(name))
      .filter((key) => !always.includes(key))
      .sort();
  assert.deepEqual(told("Publish"), ["EVENT_BUS", "TOPIC_ARN"]);
  assert.deepEqual(told("Dispatch"), [
    "JOBS_TABLE",
    "POOLS_TABLE",
    "SETTINGS_PATH",
    "SNAPSHOTS_TABLE",
    "STATE_MACHINE_ARN_PREFIX",
    "VOLUMES_TABLE",
  ]);
  assert.deepEqual(told("Copy"), [
    "ALLOWED_CIDRS",
    "BACKUP_BUCKET",
    "DEFAULT_STORE_ENCRYPTION",
    "FILE_ROOTS",
    "HYPERVISORS_TABLE",
    "JOBS_TABLE",
    "PROGRESS_TABLE",
    "RATES_TABLE",
    "SNAPSHOTS_TABLE",
    "STORES_TABLE",
  ]);
});

test("state machines are found by names that begin with the stack's", () => {
  assert.match(written(environment("Api").STATE_MACHINE_ARN_PREFIX), /:states:.*:stateMachine:Snapferry-$/);
});

test("who may call the API is told to the functions behind it, and only to them", () => {
  const context = {
    "auth.issuer": "https://id.example.org/",
    "auth.audience": "snapferry",
    "auth.jwksUrl": "https://id.example.org/keys",
  };
  const told = templateWith(context);
  const knowing = ["Api", "Inventory", "Import", "Tasks", "Copy", "Collect", "Dispatch", "Publish", "Reconcile"].filter(
    (name) => "AUTH_JWKS_URL" in environment(name, told),
  );
  assert.deepEqual(knowing, ["Api", "Inventory"]);
  assert.equal(environment("Api", told).AUTH_ISSUER, "https://id.example.org/");
  assert.equal(environment("Api", told).AUTH_AUDIENCE, "snapferry");
  assert.ok(!("AUTH_ISSUER" in environment("Api")));
});

test("the key of encrypted stores is told to those who open stores, and how the default store is encrypted", () => {
  const told = templateWith({ "encryption.key": "create", "encryption.default": "client" });
  const all = ["Api", "Inventory", "Import", "Tasks", "Copy", "Collect", "Dispatch", "Publish", "Reconcile"];
  for (const variable of ["ENCRYPTION_KEY_ARN", "DEFAULT_STORE_ENCRYPTION"])
    assert.deepEqual(
      all.filter((name) => variable in environment(name, told)),
      ["Inventory", "Import", "Tasks", "Copy", "Collect"],
      variable,
    );
  assert.equal(environment("Copy", told).DEFAULT_STORE_ENCRYPTION, "client");
  assert.equal(environment("Copy").DEFAULT_STORE_ENCRYPTION, "none");
  assert.ok(!("ENCRYPTION_KEY_ARN" in environment("Copy")));
});

test("a file system is mounted on the functions that touch hypervisors", () => {
  const accessPoint = "arn:aws:elasticfilesystem:eu-central-1:111122223333:access-point/fsap-0123456789abcdef0";
  const mounted = templateWith({
    "file.efsAccessPointArn": accessPoint,
    "file.subnetIds": "subnet-0123456789abcdef0,subnet-0123456789abcdef1",
    "file.securityGroupIds": "sg-0123456789abcdef0",
    "file.roots": "/mnt/volumes",
  });
  for (const name of ["Inventory", "Import", "Tasks", "Copy", "Collect"]) {
    const { FileSystemConfigs, VpcConfig } = named(name, mounted);
    assert.deepEqual(FileSystemConfigs, [{ Arn: accessPoint, LocalMountPath: "/mnt/volumes" }]);
    assert.deepEqual(VpcConfig, {
      SubnetIds: ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"],
      SecurityGroupIds: ["sg-0123456789abcdef0"],
    });
    assert.equal(environment(name, mounted).FILE_ROOTS, "/mnt/volumes");
  }
  for (const name of ["Api", "Dispatch", "Publish", "Reconcile"])
    assert.equal(named(name, mounted).VpcConfig, undefined);
});
