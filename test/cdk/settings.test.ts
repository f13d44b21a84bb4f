import assert from "node:assert/strict";
import { test } from "node:test";
import { settingDefinitions, settingNames } from "../../lambdas/domain/settings.ts";
import { resourcesOf, templateWith } from "./synthesised.ts";

function parameters(context: Record<string, unknown> = {}): Record<string, unknown> {
  return Object.fromEntries(
    Object.values(resourcesOf(templateWith(context), "AWS::SSM::Parameter")).map(({ Properties }) => [
      Properties.Name,
      Properties.Value,
    ]),
  );
}

test("every setting is a parameter with its default", () => {
  assert.deepEqual(
    parameters(),
    Object.fromEntries(
      settingNames.map((name) => [`/Snapferry/settings/${name}`, String(settingDefinitions[name].default)]),
    ),
  );
});

test("context of the same name gives the first value, and the path is the stack's", () => {
  const found = parameters({ "stack.name": "Second", "backup.pool.size": "9", "backup.retry": "0" });
  assert.equal(found["/Second/settings/backup.pool.size"], "9");
  assert.equal(found["/Second/settings/backup.max.attempts"], "1");
});
