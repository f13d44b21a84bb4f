import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { allowing, resourcesOf, statementsOf, templateWith } from "./synthesised.ts";

const template = templateWith();
const machines = Object.entries(resourcesOf(template, "AWS::StepFunctions::StateMachine")).map(
  ([id, { Properties }]) => ({
    id,
    name: String(Properties.StateMachineName),
    properties: Properties,
  }),
);

test("there is one state machine for each definition, named after the stack", () => {
  assert.deepEqual(machines.map(({ name }) => name).sort(), [
    "Snapferry-backup-snapshot",
    "Snapferry-check-backups",
    "Snapferry-collect-garbage",
    "Snapferry-create-snapshot",
    "Snapferry-delete-snapshot",
    "Snapferry-restore-volume",
  ]);
});

for (const { name, properties } of machines) {
  const file = `../../statemachines/${name.replace("Snapferry-", "")}.asl.json`;
  const definition = JSON.parse(readFileSync(new URL(file, import.meta.url), "utf8"));

  test(`${name} is its file, with every name bound and none bound in vain`, () => {
    assert.deepEqual(JSON.parse(String(properties.DefinitionString)), definition);
    const used = Array.from(JSON.stringify(definition).matchAll(/\$\{(\w+)\}/g), ([, variable]) => variable);
    const bound = Object.keys(properties.DefinitionSubstitutions as object);
    assert.deepEqual(bound.sort(), [...new Set(used)].sort());
  });

  test(`${name} is traced and logs errors without data of executions`, () => {
    assert.deepEqual(properties.TracingConfiguration, { Enabled: true });
    const { Level, IncludeExecutionData } = properties.LoggingConfiguration as Record<string, unknown>;
    assert.equal(Level, "ERROR");
    assert.equal(IncludeExecutionData, false);
  });
}

test("a machine may call the functions that its definition names, and no others", () => {
  for (const { id, properties } of machines) {
    const bound = Object.keys(properties.DefinitionSubstitutions as object).filter((name) =>
      name.endsWith("FunctionArn"),
    );
    const called = allowing(statementsOf(template, id.replace(/[0-9A-F]{8}$/, "Role")), /^lambda:/)
      .flatMap(({ resources }) => resources)
      .map((arn) => arn.replace(/^<Functions(\w+)[0-9A-F]{8}\.Arn>$/, "$1FunctionArn"));
    assert.deepEqual(called.sort(), bound.sort());
  }
});

test("shard concurrency is the deployment's", () => {
  const other = resourcesOf(templateWith({ "backup.shard.concurrency": "7" }), "AWS::StepFunctions::StateMachine");
  const values = Object.values(other).flatMap(
    ({ Properties }) => (Properties.DefinitionSubstitutions as { ShardConcurrency?: string }).ShardConcurrency ?? [],
  );
  assert.deepEqual(values, ["7", "7"]);
});
