/** The tables in memory, which unit tests use, do as DynamoDB does: the same commands on both, with the same outcome. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { CreateTableCommand, DeleteTableCommand, DynamoDBClient, waitUntilTableExists } from "@aws-sdk/client-dynamodb";
import {
  BatchGetCommand,
  DeleteCommand,
  DynamoDBDocumentClient,
  GetCommand,
  PutCommand,
  QueryCommand,
  TransactWriteCommand,
  UpdateCommand,
} from "@aws-sdk/lib-dynamodb";
import fc from "fast-check";
import type { Row } from "../../lambdas/tables/database.ts";
import { MemoryDatabase } from "../support/memory-database.ts";

/** The name in memory, where it stands for the keys, and in DynamoDB. */
const tables = { memory: "volumes", dynamo: `memory-database-${process.pid}` };
const settings = { region: "us-east-1", credentials: { accessKeyId: "test", secretAccessKey: "test" } };
const dynamo = DynamoDBDocumentClient.from(new DynamoDBClient(settings));

before(async () => {
  await dynamo.send(
    new CreateTableCommand({
      TableName: tables.dynamo,
      BillingMode: "PAY_PER_REQUEST",
      AttributeDefinitions: ["tenant", "id"].map((AttributeName) => ({ AttributeName, AttributeType: "S" })),
      KeySchema: [
        { AttributeName: "tenant", KeyType: "HASH" },
        { AttributeName: "id", KeyType: "RANGE" },
      ],
    }),
  );
  await waitUntilTableExists({ client: dynamo, maxWaitTime: 60 }, { TableName: tables.dynamo });
});
after(() => dynamo.send(new DeleteTableCommand({ TableName: tables.dynamo })));

const values = { ":a": "a", ":b": "b", ":ab": "ab", ":zero": 0, ":one": 1, ":two": 2 };
const names = { "#text": "text", "#number": "number" };

const text = fc.constantFrom(":a", ":b", ":ab");
const number = fc.constantFrom(":zero", ":one", ":two");
const comparison = fc.oneof(
  fc.tuple(fc.constantFrom("=", "<>"), text).map(([operator, value]) => `#text ${operator} ${value}`),
  fc
    .tuple(fc.constantFrom("=", "<>", "<", "<=", ">"), number)
    .map(([operator, value]) => `#number ${operator} ${value}`),
  fc.array(text, { minLength: 1, maxLength: 3 }).map((given) => `#text IN (${given.join(", ")})`),
  text.map((value) => `begins_with(#text, ${value})`),
  fc.constantFrom(...["attribute_exists", "attribute_not_exists"].flatMap((call) => [`${call}(#text)`, `${call}(id)`])),
);
const joined = (part: fc.Arbitrary<string>, minLength: number) =>
  fc
    .tuple(part, fc.array(fc.tuple(fc.constantFrom("AND", "OR"), part), { minLength, maxLength: 3 }))
    .map(([first, others]) => [first, ...others.flat()].join(" "));
/** DynamoDB refuses parentheses around what needs none. */
const grouped = joined(comparison, 1).map((inside) => `(${inside})`);
const condition = joined(fc.oneof(comparison, grouped), 0);
const update = fc.constantFrom(
  "SET #text = :a",
  "SET #text = :ab, #number = :two",
  "SET #text = if_not_exists(#text, :b), #number = if_not_exists(#number, :one)",
  "REMOVE #text",
  "SET #text = :b REMOVE #number",
  "ADD #number :one",
  "SET #text = :b ADD #number :two",
);
const id = fc.constantFrom("v1", "v2", "w1");
const row = fc.record(
  { text: fc.constantFrom("a", "b", "ab", ""), number: fc.nat(2), nested: fc.constant({ list: [1, "x"] }) },
  { requiredKeys: [] },
);

type Write = { kind: "Put" | "Update" | "Delete" | "ConditionCheck"; id: string; row: Row; update: string };
const write = fc.record({
  kind: fc.constantFrom("Put", "Update", "Delete", "ConditionCheck"),
  id,
  row,
  update,
  condition: fc.option(condition, { nil: undefined }),
});

/** The expressions with the names and values that stand in them and no others, as DynamoDB wants it. */
function expressions(given: { UpdateExpression?: string; ConditionExpression?: string | undefined }): Row {
  const written = Object.values(given).join(" ");
  const used = (all: Row) => Object.entries(all).filter(([name]) => new RegExp(`${name}\\b`).test(written));
  const [usedNames, usedValues] = [used(names), used(values)];
  return {
    ...given,
    ...(usedNames.length > 0 && { ExpressionAttributeNames: Object.fromEntries(usedNames) }),
    ...(usedValues.length > 0 && { ExpressionAttributeValues: Object.fromEntries(usedValues) }),
  };
}

function input(TableName: string, tenant: string, { kind, ...write }: Write & { condition?: string | undefined }) {
  const key = { tenant, id: write.id };
  const ConditionExpression = write.condition ?? (kind === "ConditionCheck" ? "attribute_exists(id)" : undefined);
  const what = kind === "Put" ? { Item: { ...write.row, ...key } } : { Key: key };
  return {
    TableName,
    ...what,
    ...expressions({
      ...(kind === "Update" && { UpdateExpression: write.update }),
      ...(ConditionExpression !== undefined && { ConditionExpression }),
    }),
  };
}

const singles = { Put: PutCommand, Update: UpdateCommand, Delete: DeleteCommand } as const;

/** What comes of the same command in memory and in DynamoDB: an answer, or an error with its reasons. */
async function outcomes(memory: MemoryDatabase, command: (TableName: string) => object): Promise<[unknown, unknown]> {
  const { client } = memory.database;
  const outcome = (sent: Promise<unknown>) =>
    sent.then(
      () => "made",
      (error: Error & { CancellationReasons?: { Code: string }[] }) =>
        [error.name, ...(error.CancellationReasons ?? []).map(({ Code }) => Code)].join(" "),
    );
  const send = (to: { send: (command: never) => unknown }, table: string) =>
    outcome(Promise.resolve(to.send(command(table) as never)));
  return [await send(client as never, tables.memory), await send(dynamo as never, tables.dynamo)];
}

async function assertSameRows(memory: MemoryDatabase, tenant: string): Promise<void> {
  const { client } = memory.database;
  for (const [ScanIndexForward, beginning] of [
    [true, ""],
    [false, ""],
    [true, "v"],
  ] as const) {
    const query = (TableName: string) =>
      new QueryCommand({
        TableName,
        KeyConditionExpression: `tenant = :tenant${beginning === "" ? "" : " AND begins_with(id, :beginning)"}`,
        ExpressionAttributeValues: { ":tenant": tenant, ...(beginning !== "" && { ":beginning": beginning }) },
        ScanIndexForward,
      });
    assert.deepEqual((await client.send(query(tables.memory))).Items, (await dynamo.send(query(tables.dynamo))).Items);
  }
  const Key = { tenant, id: "v1" };
  const get = (TableName: string) => new GetCommand({ TableName, Key });
  assert.deepEqual((await client.send(get(tables.memory))).Item, (await dynamo.send(get(tables.dynamo))).Item);
  const batch = (table: string) => new BatchGetCommand({ RequestItems: { [table]: { Keys: [Key] } } });
  assert.deepEqual(
    (await client.send(batch(tables.memory))).Responses?.[tables.memory],
    (await dynamo.send(batch(tables.dynamo))).Responses?.[tables.dynamo],
  );
}

test("the tables in memory are read and written as DynamoDB's are", async () => {
  const steps = fc.array(
    fc.oneof(write, fc.uniqueArray(write, { minLength: 2, maxLength: 3, selector: (one) => one.id })),
    {
      minLength: 4,
      maxLength: 12,
    },
  );
  let tenants = 0;
  await fc.assert(
    fc.asyncProperty(steps, async (all) => {
      const memory = new MemoryDatabase();
      const tenant = `tenant-${++tenants}`;
      for (const step of all) {
        const command = (table: string) => {
          if (Array.isArray(step))
            return new TransactWriteCommand({
              TransactItems: step.map((one) => ({ [one.kind]: input(table, tenant, one) })),
            });
          const kind = step.kind === "ConditionCheck" ? "Delete" : step.kind;
          return new singles[kind](input(table, tenant, { ...step, kind }) as never);
        };
        const [inMemory, inDynamo] = await outcomes(memory, command);
        assert.equal(inMemory, inDynamo, JSON.stringify(step));
      }
      await assertSameRows(memory, tenant);
    }),
    { numRuns: 40 },
  );
});
