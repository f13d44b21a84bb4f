import assert from "node:assert/strict";
import { test } from "node:test";
import {
  allowing,
  functionRoles,
  resource,
  resourcesOf,
  type Statement,
  statementsOf,
  templateWith,
} from "./synthesised.ts";

const template = templateWith();
type FunctionName = keyof typeof functionRoles;
const names = Object.keys(functionRoles) as FunctionName[];
const may = Object.fromEntries(names.map((name) => [name, statementsOf(template, functionRoles[name])])) as Record<
  FunctionName,
  Statement[]
>;

function whoMay(action: RegExp): FunctionName[] {
  return names.filter((name) => allowing(may[name], action).length > 0);
}

function machines(name: FunctionName, action: RegExp): string[] {
  const arns = allowing(may[name], action).flatMap(({ resources }) => resources);
  return arns.map((arn) => arn.replace(/^.*:(stateMachine|execution):Snapferry-/, "")).sort();
}

/** `Table: read` or `Table: read, write` for each table that `name` may touch. */
function tablesOf(name: FunctionName): string[] {
  return may[name]
    .filter(({ actions }) => actions.includes("dynamodb:GetItem"))
    .flatMap(({ actions, resources }) =>
      resources.flatMap((arn) => {
        const table = /^<Tables(\w+)[0-9A-F]{8}\.Arn>$/.exec(arn)?.[1];
        const level = actions.includes("dynamodb:PutItem")
          ? "write"
          : actions.includes("dynamodb:UpdateItem")
            ? "update"
            : "read";
        return table ? [`${table}: ${level}`] : [];
      }),
    )
    .sort();
}

const ofJobs = [
  "Hypervisors: read",
  "Jobs: write",
  "Pools: update",
  "Snapshots: update",
  "StoreReferences: write",
  "Stores: read",
  "Volumes: write",
];

const expectedTables: Record<FunctionName, string[]> = {
  api: [
    "Hypervisors: read",
    "Jobs: write",
    "Pools: update",
    "Progress: read",
    "Requests: write",
    "Snapshots: write",
    "StoreReferences: write",
    "Stores: read",
    "Vms: read",
    "Volumes: write",
  ],
  inventory: [
    "Hypervisors: write",
    "Jobs: read",
    "Requests: write",
    "Snapshots: write",
    "StoreReferences: write",
    "Stores: write",
    "Vms: write",
    "Volumes: write",
  ],
  keys: [],
  tasks: [...ofJobs, "Progress: update", "Rates: update", "Vms: update"].sort(),
  copy: ["Hypervisors: read", "Jobs: read", "Progress: update", "Rates: update", "Snapshots: read", "Stores: read"],
  collect: [...ofJobs, "Rates: update"].sort(),
  import: [
    "Hypervisors: read",
    "Rates: update",
    "Snapshots: update",
    "StoreReferences: update",
    "Stores: read",
    "Volumes: update",
  ],
  dispatch: ["Jobs: update", "Pools: update", "Snapshots: update", "Volumes: update"],
  publish: [],
  reconcile: ofJobs.filter((grant) => !/^(Hypervisors|Stores):/.test(grant)),
};

for (const name of names)
  test(`${name} touches ${expectedTables[name].length === 0 ? "no table" : "its tables and no others"}`, () => {
    assert.deepEqual(tablesOf(name), expectedTables[name]);
  });

test("publish reads the stream of snapshots, and no row by key", () => {
  const ofDynamo = may.publish.map(({ actions, resources }) => ({
    actions: actions.filter((action) => action.startsWith("dynamodb:")),
    resources,
  }));
  assert.deepEqual([...new Set(ofDynamo.flatMap(({ actions }) => actions))].sort(), [
    "dynamodb:DescribeStream",
    "dynamodb:GetRecords",
    "dynamodb:GetShardIterator",
    "dynamodb:ListStreams",
  ]);
  const records = allowing(ofDynamo, /GetRecords/).flatMap(({ resources }) => resources);
  assert.match(records.join(), /^<TablesSnapshots[0-9A-F]{8}\.StreamArn>$/);
});

test("nobody reads whole tables", () => {
  assert.deepEqual(whoMay(/^dynamodb:(Scan|\*)$/), []);
});

test("copy writes objects and deletes none", () => {
  const actions = allowing(may.copy, /^s3:/).flatMap((statement) => statement.actions);
  assert.deepEqual(actions.sort(), ["s3:GetObject", "s3:ListBucket", "s3:PutObject"]);
});

test("only collect deletes backups; tasks deletes what jobs keep in the bucket while they run", () => {
  const deletable = (name: FunctionName) =>
    allowing(may[name], /^s3:(DeleteObject|DeleteObjectVersion|AbortMultipartUpload)$/)
      .flatMap(({ resources }) => resources)
      .map((arn) => arn.replace(/^<BackupsBucket[0-9A-F]{8}\.Arn>\//, ""));
  assert.deepEqual(whoMay(/^s3:(Delete|Abort)/), ["tasks", "collect"]);
  assert.deepEqual(deletable("tasks").sort(), ["domains/*/jobs/*", "executions/*"]);
  assert.deepEqual(deletable("collect"), ["*"]);
});

test("the functions that face the network touch no backup", () => {
  assert.deepEqual(whoMay(/^s3:/), ["tasks", "copy", "collect", "import"]);
});

test("import reads what snapshots there are, and nothing of their bytes; inventory alone calls it", () => {
  const reading = allowing(may.import, /^s3:GetObject$/).flatMap(({ resources }) => resources);
  assert.deepEqual(
    reading.map((arn) => arn.replace(/^<BackupsBucket[0-9A-F]{8}\.Arn>\//, "")),
    ["domains/*/roots/*"],
  );
  const actions = allowing(may.import, /^s3:/).flatMap((statement) => statement.actions);
  assert.deepEqual(actions.sort(), ["s3:GetObject", "s3:ListBucket"]);
  assert.deepEqual(whoMay(/^lambda:/), ["inventory"]);
  const called = allowing(may.inventory, /^lambda:/).flatMap(({ resources }) => resources);
  assert.match(called.join(), /^<FunctionsImport[0-9A-F]{8}\.Arn>$/);
});

test("executions are started, stopped and looked at by those whose work it is", () => {
  const kinds = ["backup-snapshot", "create-snapshot", "delete-snapshot", "restore-volume"];
  const executions = kinds.map((kind) => `${kind}:*`);
  assert.deepEqual(whoMay(/^states:StartExecution$/), ["api", "collect", "dispatch", "reconcile"]);
  assert.deepEqual(machines("api", /StartExecution/), ["create-snapshot", "delete-snapshot", "restore-volume"]);
  assert.deepEqual(machines("dispatch", /StartExecution/), ["backup-snapshot"]);
  assert.deepEqual(machines("collect", /StartExecution/), kinds);
  assert.deepEqual(machines("reconcile", /StartExecution/), kinds);
  assert.deepEqual(whoMay(/^states:StopExecution$/), ["api"]);
  assert.deepEqual(machines("api", /StopExecution/), executions);
  assert.deepEqual(whoMay(/^states:DescribeExecution$/), ["collect", "reconcile"]);
});

test("secrets are read by those who open hypervisors and stores, below one prefix", () => {
  assert.deepEqual(whoMay(/^secretsmanager:/), ["inventory", "tasks", "copy", "collect", "import"]);
  for (const name of whoMay(/^secretsmanager:/))
    for (const { actions, resources } of allowing(may[name], /^secretsmanager:/)) {
      assert.deepEqual(actions, ["secretsmanager:GetSecretValue"]);
      assert.match(resources.join(), /:secret:snapferry\/\*$/);
    }
});

test("without a key for encrypted stores there is none, and nobody may use any", () => {
  assert.deepEqual(resourcesOf(template, "AWS::KMS::Key"), {});
  assert.deepEqual(whoMay(/^kms:/), []);
});

for (const [context, arn] of [
  ["create", /^<EncryptionKey[0-9A-F]{8}\.Arn>$/],
  ["arn:aws:kms:eu-central-1:111122223333:key/0123-ab", /^arn:aws:kms:eu-central-1:111122223333:key\/0123-ab$/],
] as const)
  test(`encryption.key=${context} is used by those who write and read backups or their descriptions, and no other key is`, () => {
    const encrypted = templateWith({ "encryption.key": context });
    const of = (name: FunctionName) => allowing(statementsOf(encrypted, functionRoles[name]), /^kms:/);
    for (const name of names) for (const { resources } of of(name)) for (const one of resources) assert.match(one, arn);
    const actions = Object.fromEntries(
      names.map(
        (name) =>
          [
            name,
            of(name)
              .flatMap((statement) => statement.actions)
              .sort(),
          ] as const,
      ),
    );
    assert.deepEqual(
      Object.entries(actions).filter(([, some]) => some.length > 0),
      [
        ["tasks", ["kms:Decrypt", "kms:GenerateDataKey"]],
        ["copy", ["kms:Decrypt", "kms:GenerateDataKey"]],
        ["collect", ["kms:Decrypt"]],
        ["import", ["kms:Decrypt"]],
      ],
    );
  });

test("a key that is made here turns by itself and goes only with the data", () => {
  const key = (context = {}) =>
    resource(templateWith({ "encryption.key": "create", ...context }), "AWS::KMS::Key", "EncryptionKey");
  assert.equal(key().Properties.EnableKeyRotation, true);
  assert.equal(key().DeletionPolicy, "Retain");
  assert.equal(key({ "retain.data": "false" }).DeletionPolicy, "Delete");
});

test("only publish sends events, and to the stack's own bus and topic", () => {
  assert.deepEqual(whoMay(/^(events:PutEvents|sns:Publish)$/), ["publish"]);
  const sinks = allowing(may.publish, /^(events|sns):/).flatMap(({ resources }) => resources);
  assert.match(sinks.sort().join(), /^<EventsBus\w+\.Arn>,<EventsTopic\w+>$/);
});

test("settings are read below the stack's own path and written by no function", () => {
  assert.deepEqual(whoMay(/^ssm:/), ["api", "tasks", "collect", "dispatch", "reconcile"]);
  for (const name of whoMay(/^ssm:/))
    for (const { actions, resources } of allowing(may[name], /^ssm:/)) {
      assert.deepEqual(actions, ["ssm:GetParametersByPath"]);
      for (const arn of resources) assert.match(arn, /:parameter\/Snapferry\/settings(\/\*)?$/);
    }
});

test("a map's role starts its own machine, reads plans and nothing else of the bucket", () => {
  for (const name of ["backup-snapshot", "restore-volume"]) {
    const statements = statementsOf(template, `Workflows${name.replace("-", "")}Role`);
    const starts = allowing(statements, /^states:StartExecution$/).flatMap(({ resources }) => resources);
    assert.equal(starts.length, 1);
    assert.match(starts.join(), new RegExp(`:stateMachine:Snapferry-${name}$`));
    const ofBucket = allowing(statements, /^s3:/);
    assert.deepEqual(
      ofBucket.flatMap(({ actions }) => actions),
      ["s3:GetObject"],
    );
    assert.match(ofBucket.flatMap(({ resources }) => resources).join(), /^<BackupsBucket\w+\.Arn>\/executions\/\*$/);
  }
});

test("no role may do everything of a service, or anything to every resource but what AWS wants so", () => {
  const everywhere = new Set<string>();
  for (const id of Object.keys(resourcesOf(template, "AWS::IAM::Role")))
    for (const { actions, resources } of statementsOf(template, id)) {
      for (const action of actions) assert.doesNotMatch(action, /\*/, id);
      if (resources.includes("*")) for (const action of actions) everywhere.add(action);
    }
  const known =
    /^(xray:\w+|dynamodb:ListStreams|logs:\w*(LogDelivery|LogDeliveries|ResourcePolicy|ResourcePolicies|DescribeLogGroups))$/;
  assert.deepEqual(
    [...everywhere].filter((action) => !known.test(action)),
    [],
  );
});
