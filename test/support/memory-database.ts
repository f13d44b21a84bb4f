/** The tables in memory, for tests of what is read and written: expressions in the part of DynamoDB's language that the tables use. */
import { ConditionalCheckFailedException, TransactionCanceledException } from "@aws-sdk/client-dynamodb";
import {
  BatchGetCommand,
  DeleteCommand,
  GetCommand,
  PutCommand,
  QueryCommand,
  TransactWriteCommand,
  UpdateCommand,
} from "@aws-sdk/lib-dynamodb";
import type { Database, Row, TableNames } from "../../lambdas/tables/database.ts";

const keysOf: Readonly<Record<keyof TableNames, readonly string[]>> = {
  snapshots: ["tenant", "id"],
  storeReferences: ["tenant", "reference"],
  jobs: ["tenant", "id"],
  volumes: ["tenant", "id"],
  vms: ["tenant", "id"],
  hypervisors: ["tenant", "id"],
  stores: ["tenant", "id"],
  pools: ["id"],
  progress: ["jobId", "part"],
  requests: ["request"],
  rates: ["meter"],
};

interface Expressions {
  readonly ExpressionAttributeNames?: Readonly<Record<string, string>> | undefined;
  readonly ExpressionAttributeValues?: Readonly<Row> | undefined;
}

interface Write extends Expressions {
  readonly TableName?: string | undefined;
  readonly Key?: Row | undefined;
  readonly Item?: Row | undefined;
  readonly ConditionExpression?: string | undefined;
  readonly UpdateExpression?: string | undefined;
}

type Change = "Put" | "Update" | "Delete" | "ConditionCheck";

export class MemoryDatabase {
  readonly tables = Object.fromEntries(Object.keys(keysOf).map((name) => [name, name])) as unknown as TableNames;
  readonly #rows = new Map<string, Map<string, Row>>();

  /** For what takes a {@link Database}. */
  get database(): Database {
    return { tables: this.tables, client: { send: (command: unknown) => this.#send(command) } } as unknown as Database;
  }

  put(table: keyof TableNames, row: object): this {
    this.#table(table).set(this.#idOf(table, row as Row), structuredClone(row) as Row);
    return this;
  }

  get(table: keyof TableNames, key: object): Row | undefined {
    return this.#table(table).get(this.#idOf(table, key as Row));
  }

  #table(name: string): Map<string, Row> {
    const table = this.#rows.get(name) ?? new Map<string, Row>();
    this.#rows.set(name, table);
    return table;
  }

  #idOf(table: string, row: Row): string {
    return JSON.stringify(keysOf[table as keyof TableNames].map((attribute) => row[attribute]));
  }

  async #send(command: unknown): Promise<unknown> {
    if (command instanceof GetCommand) return { Item: this.#read(command.input) };
    if (command instanceof BatchGetCommand) return this.#batchGet(command);
    if (command instanceof QueryCommand) return this.#query(command);
    if (command instanceof PutCommand) return this.#single("Put", command.input as Write);
    if (command instanceof UpdateCommand) return this.#single("Update", command.input as Write);
    if (command instanceof DeleteCommand) return this.#single("Delete", command.input as Write);
    if (command instanceof TransactWriteCommand) return this.#transact(command);
    throw new Error(`the tables in memory know no ${(command as object).constructor.name}`);
  }

  #read({ TableName = "", Key = {} }: Write): Row | undefined {
    const row = this.#table(TableName).get(this.#idOf(TableName, Key));
    return row && structuredClone(row);
  }

  #batchGet({ input }: BatchGetCommand) {
    const found = Object.entries(input.RequestItems ?? {}).map(([TableName, { Keys = [] }]) => [
      TableName,
      Keys.flatMap((Key) => this.#read({ TableName, Key }) ?? []),
    ]);
    return { Responses: Object.fromEntries(found) };
  }

  #query({ input }: QueryCommand) {
    const { TableName = "", KeyConditionExpression = "", ScanIndexForward = true } = input;
    const [, sortKey = "id"] = keysOf[TableName as keyof TableNames];
    const found = [...this.#table(TableName).values()].filter((row) => holds(KeyConditionExpression, row, input));
    found.sort((a, b) => (String(a[sortKey]) < String(b[sortKey]) ? -1 : 1) * (ScanIndexForward ? 1 : -1));
    return { Items: structuredClone(found) };
  }

  #single(change: Change, write: Write): object {
    if (!this.#isAllowed(write)) throw new ConditionalCheckFailedException({ message: "", $metadata: {} });
    this.#apply(change, write);
    return {};
  }

  #transact({ input }: TransactWriteCommand): object {
    const writes = (input.TransactItems ?? []).flatMap((item) => Object.entries(item) as [Change, Write][]);
    const codes = writes.map(([, write]) => ({ Code: this.#isAllowed(write) ? "None" : "ConditionalCheckFailed" }));
    if (codes.some(({ Code }) => Code !== "None"))
      throw new TransactionCanceledException({ message: "", $metadata: {}, CancellationReasons: codes });
    for (const [change, write] of writes) this.#apply(change, write);
    return {};
  }

  #isAllowed(write: Write): boolean {
    const { TableName = "", Key, Item, ConditionExpression } = write;
    const row = this.#read({ TableName, Key: Key ?? Item });
    return ConditionExpression === undefined || holds(ConditionExpression, row ?? {}, write);
  }

  #apply(change: Change, write: Write): void {
    const { TableName = "", Key = {}, Item } = write;
    const table = this.#table(TableName);
    if (change === "Put" && Item) table.set(this.#idOf(TableName, Item), structuredClone(Item));
    if (change === "Delete") table.delete(this.#idOf(TableName, Key));
    if (change !== "Update") return;
    const row = this.#read(write) ?? { ...Key };
    update(row, write);
    table.set(this.#idOf(TableName, Key), row);
  }
}

/** `SET a = :a, b = if_not_exists(b, :b) REMOVE c ADD d :d DELETE e :e`. */
function update(row: Row, write: Write): void {
  const name = (text: string) => write.ExpressionAttributeNames?.[text] ?? text;
  const value = (text: string) => givenValue(text, write);
  const clauses = (write.UpdateExpression ?? "").split(/\b(SET|REMOVE|ADD|DELETE)\b/).slice(1);
  for (let at = 0; at < clauses.length; at += 2) {
    for (const part of (clauses[at + 1] ?? "").split(/,(?![^(]*\))/).map((text) => text.trim())) {
      const [attribute = "", ...rest] = part.split(/[\s=]+/);
      const [, kept = "", fallback] = /^if_not_exists\((\S+), (\S+)\)$/.exec(rest.join(" ")) ?? [];
      if (clauses[at] === "SET")
        row[name(attribute)] = (fallback && row[name(kept)]) ?? value(fallback ?? rest[0] ?? "");
      if (clauses[at] === "REMOVE") delete row[name(attribute)];
      const given = clauses[at] === "ADD" || clauses[at] === "DELETE" ? value(rest[0] ?? "") : undefined;
      if (given instanceof Set) changeSet(row, name(attribute), clauses[at] as "ADD" | "DELETE", given);
      else if (clauses[at] === "ADD") row[name(attribute)] = Number(row[name(attribute)] ?? 0) + Number(given);
    }
  }
}

/** An empty set is no attribute. */
function changeSet(row: Row, attribute: string, change: "ADD" | "DELETE", given: Set<unknown>): void {
  const others = [...((row[attribute] as Set<unknown> | undefined) ?? [])].filter((one) => !given.has(one));
  const changed = new Set(change === "ADD" ? [...others, ...given] : others);
  if (changed.size > 0) row[attribute] = changed;
  else delete row[attribute];
}

function givenValue(text: string, { ExpressionAttributeValues = {} }: Expressions): unknown {
  if (!(text in ExpressionAttributeValues)) throw new Error(`${text} is no value of the expression`);
  return ExpressionAttributeValues[text];
}

/** Whether the condition holds for the row: `OR` of `AND` of comparisons, functions and parentheses. */
function holds(expression: string, row: Row, expressions: Expressions): boolean {
  const tokens = expression.match(/[#:]?\w+|<>|<=|>=|[=<>(),]/g) ?? [];
  let at = 0;
  const take = (): string => tokens[at++] ?? "";
  const attribute = () => {
    const name = take();
    return row[expressions.ExpressionAttributeNames?.[name] ?? name];
  };
  const expect = (token: string) => {
    const found = take();
    if (found !== token) throw new Error(`${token} was expected, not ${found}: ${expression}`);
  };
  const or = (): boolean => {
    let result = and();
    while (tokens[at] === "OR") {
      at++;
      result = and() || result;
    }
    return result;
  };
  const and = (): boolean => {
    let result = term();
    while (tokens[at] === "AND") {
      at++;
      result = term() && result;
    }
    return result;
  };
  const term = (): boolean => {
    if (tokens[at] === "(") {
      at++;
      const result = or();
      expect(")");
      return result;
    }
    if (tokens[at + 1] === "(") return call(take());
    return comparison(attribute(), take());
  };
  const call = (name: string): boolean => {
    expect("(");
    const given = attribute();
    let argument: unknown;
    if (tokens[at] === ",") {
      at++;
      argument = givenValue(take(), expressions);
    }
    expect(")");
    if (name === "attribute_exists") return given !== undefined;
    if (name === "attribute_not_exists") return given === undefined;
    if (name === "begins_with") return String(given).startsWith(String(argument));
    throw new Error(`the tables in memory know no ${name}`);
  };
  const comparison = (left: unknown, operator: string): boolean => {
    if (operator === "IN") {
      expect("(");
      const values: unknown[] = [];
      do values.push(givenValue(take(), expressions));
      while (take() === ",");
      return values.includes(left);
    }
    const right = givenValue(take(), expressions) as string;
    if (operator === "=") return left === right;
    if (operator === "<>") return left !== right;
    if (left === undefined) return false;
    if (operator === "<") return (left as string) < right;
    if (operator === "<=") return (left as string) <= right;
    if (operator === ">") return (left as string) > right;
    throw new Error(`the tables in memory know no ${operator}`);
  };
  const result = or();
  if (at !== tokens.length) throw new Error(`not all of it was understood: ${expression}`);
  return result;
}
