/**
 * What the functions' code does and what their roles let them do, side by side. An emulator lets everybody do everything, so a
 * missing right would show on AWS only. The code is bundled as for deployment, which leaves out what a function never calls.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type FunctionName, functionFiles } from "../../lib/functions.ts";
import { bundledCode } from "./bundled-code.ts";
import { allowing, functionRoles, statementsOf, templateWith } from "./synthesised.ts";

const template = templateWith();
const names = Object.keys(functionFiles) as FunctionName[];
const code = Object.fromEntries(names.map((name) => [name, bundledCode(functionFiles[name])])) as Record<
  FunctionName,
  string
>;

function may(name: FunctionName, action: RegExp): boolean {
  return allowing(statementsOf(template, functionRoles[name]), action).length > 0;
}

/** The actions that the code's commands on each table need. */
function commandsOn(name: FunctionName): Set<string> {
  const needed = new Set<string>();
  for (const [, table] of code[name].matchAll(/\btables\.(\w+)/g)) needed.add(`GetItem ${table}`);
  const writing = /\b(Put|Update|Delete)(?:Command\d*\(|: )\{\s*TableName: \w+\.tables\.(\w+)/g;
  for (const [, verb, table] of code[name].matchAll(writing)) needed.add(`${verb}Item ${table}`);
  return needed;
}

/** The actions of the same kind that the role allows, for the same names of tables. */
function rightsOn(name: FunctionName): Set<string> {
  const allowed = new Set<string>();
  for (const { actions, resources } of statementsOf(template, functionRoles[name]))
    for (const [, verb] of actions.join().matchAll(/dynamodb:((?:Get|Put|Update|Delete)Item)/g))
      for (const [, table = ""] of resources.join().matchAll(/<Tables(\w+)[0-9A-F]{8}\.Arn>/g))
        allowed.add(`${verb} ${table.replace(/^./, (letter) => letter.toLowerCase())}`);
  return allowed;
}

function calls(name: FunctionName, call: string): boolean {
  return new RegExp(`\\b${call.replace(".", "\\d*\\.")}\\(`).test(code[name]);
}

/** Every function carries the code along that looks up hypervisors and stores and keeps to limits; one that opens neither never calls it. */
function carriesAlong(name: FunctionName): string[] {
  const opensStores = calls(name, "services.objectStore");
  const looksUp = opensStores || calls(name, "services.hypervisor") || name === "api";
  return [
    ...(looksUp ? [] : ["GetItem hypervisors", "GetItem stores"]),
    ...(opensStores ? [] : ["GetItem rates", "UpdateItem rates"]),
  ].sort();
}

for (const name of names)
  test(`${name} may do to tables what its code does`, () => {
    const rights = rightsOn(name);
    const missing = [...commandsOn(name)].filter((command) => !rights.has(command));
    assert.deepEqual(missing.sort(), name === "publish" || name === "keys" ? [] : carriesAlong(name));
  });

for (const name of names)
  test(`${name} may touch no table that its code does not touch`, () => {
    const touched = new Set([...commandsOn(name)].map((command) => command.split(" ")[1]));
    const idle = [...rightsOn(name)].filter((right) => !touched.has(right.split(" ")[1]));
    assert.deepEqual(idle, []);
  });

for (const [call, action] of [
  [/\bkeys\d*\??\.generate\(/, /^kms:GenerateDataKey$/],
  [/\bkeys\d*\??\.unwrap\(/, /^kms:Decrypt$/],
] as const)
  test(`those whose code has ${call} may use the key for it, and nobody else`, () => {
    const encrypted = templateWith({ "encryption.key": "create" });
    const allowed = names.filter((name) => allowing(statementsOf(encrypted, functionRoles[name]), action).length > 0);
    assert.deepEqual(
      allowed,
      names.filter((name) => call.test(code[name])),
    );
  });

for (const [call, action] of [
  ["executions.start", /^states:StartExecution$/],
  ["executions.stop", /^states:StopExecution$/],
  ["executions.status", /^states:DescribeExecution$/],
  ["services.settings", /^ssm:GetParametersByPath$/],
] as const)
  test(`those who call ${call} may, and nobody else`, () => {
    const allowed = names.filter((name) => may(name, action));
    const calling = names.filter((name) => calls(name, call));
    assert.deepEqual(allowed, calling);
  });

test("those who work on the bucket and whose code deletes objects may delete them, and nobody else", () => {
  // Calls on a store that was handed over; a store's own class, which wraps another, is in every bundle.
  const deletes = /(?<!#)\bstore\d*\.deleteEveryVersion|ownBucket\(\)\)\.deleteEveryVersion/;
  const onBucket = names.filter((name) => may(name, /^s3:/));
  assert.deepEqual(
    names.filter((name) => may(name, /^s3:(Delete|Abort|ListBucketVersions)/)),
    onBucket.filter((name) => deletes.test(code[name])),
  );
});

test("those who open hypervisors or stores may read the secrets of tenants, and nobody else", () => {
  const opening = names.filter((name) => ["hypervisor", "objectStore"].some((what) => calls(name, `services.${what}`)));
  assert.deepEqual(opening, ["inventory", "tasks", "copy", "collect", "import"]);
  assert.deepEqual(
    names.filter((name) => may(name, /^secretsmanager:/)),
    opening,
  );
  for (const name of opening) {
    const [statement, ...others] = allowing(statementsOf(template, functionRoles[name]), /^secretsmanager:/);
    assert.deepEqual([statement?.actions, others], [["secretsmanager:GetSecretValue"], []]);
    assert.match(statement?.resources.join() ?? "", /:secret:snapferry\/\*$/);
  }
});
