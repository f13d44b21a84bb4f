/** The DynamoDB tables: their names, one client, and transactions whose refusals say which row refused. */
import {
  ConditionalCheckFailedException,
  DynamoDBClient,
  TransactionCanceledException,
} from "@aws-sdk/client-dynamodb";
import {
  DynamoDBDocumentClient,
  GetCommand,
  QueryCommand,
  type QueryCommandInput,
  TransactWriteCommand,
  type TransactWriteCommandInput,
  UpdateCommand,
} from "@aws-sdk/lib-dynamodb";

export interface TableNames {
  readonly snapshots: string;
  readonly storeReferences: string;
  readonly jobs: string;
  readonly volumes: string;
  readonly vms: string;
  readonly hypervisors: string;
  readonly stores: string;
  readonly pools: string;
  readonly progress: string;
  readonly requests: string;
  readonly rates: string;
}

export interface Database {
  readonly client: DynamoDBDocumentClient;
  readonly tables: TableNames;
}

export type TransactionItem = NonNullable<TransactWriteCommandInput["TransactItems"]>[number];
export type Row = Record<string, unknown>;

/** Connects with the SDK's defaults. `maxAttempts` bounds retries of throttles and faults; each takes well under a second. */
export function connectDatabase(tables: TableNames): Database {
  const client = DynamoDBDocumentClient.from(new DynamoDBClient({ maxAttempts: 5 }), {
    marshallOptions: { removeUndefinedValues: true },
  });
  return { client, tables };
}

/** A condition of a write did not hold: somebody else was there first, or the row is not what the caller thought. */
export class WriteRefused extends Error {
  override readonly name = "WriteRefused";
  /** Positions, in the transaction, of the items whose conditions failed. */
  readonly refused: readonly number[];

  constructor(refused: readonly number[]) {
    super(`the condition of ${refused.length} item(s) of a transaction did not hold`);
    this.refused = refused;
  }
}

/** Whether a single write was made: not when its condition did not hold. */
export async function isMade(write: Promise<unknown>): Promise<boolean> {
  try {
    await write;
    return true;
  } catch (error) {
    if (error instanceof ConditionalCheckFailedException) return false;
    throw error;
  }
}

const conflictAttempts = 8;

/**
 * All of `items` or none. Conflicts with another transaction are tried again (up to 8 times over about 3 s);
 * a failed condition is a {@link WriteRefused}.
 */
export async function transact(database: Database, items: readonly TransactionItem[]): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await database.client.send(new TransactWriteCommand({ TransactItems: [...items] }));
      return;
    } catch (error) {
      if (!(error instanceof TransactionCanceledException)) throw error;
      const codes = (error.CancellationReasons ?? []).map((reason) => reason.Code);
      const refused = codes.flatMap((code, index) => (code === "ConditionalCheckFailed" ? [index] : []));
      if (refused.length > 0) throw new WriteRefused(refused);
      if (attempt === conflictAttempts || !codes.includes("TransactionConflict")) throw error;
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 25 * 2 ** attempt));
    }
  }
}

/** A row by its key, read consistently. */
export async function getRow(database: Database, table: string, key: Row): Promise<Row | undefined> {
  const { Item } = await database.client.send(new GetCommand({ TableName: table, Key: key, ConsistentRead: true }));
  return Item;
}

/** Every row of a query, page by page. */
export async function* queryRows(
  database: Database,
  input: Omit<QueryCommandInput, "ExclusiveStartKey">,
): AsyncGenerator<Row> {
  let start: QueryCommandInput["ExclusiveStartKey"];
  do {
    const page = await database.client.send(new QueryCommand({ ...input, ExclusiveStartKey: start }));
    yield* page.Items ?? [];
    start = page.LastEvaluatedKey;
  } while (start !== undefined);
}

export interface Page<T> {
  readonly items: T[];
  /** Pass it on to get what follows; absent at the end. */
  readonly next?: string;
}

/**
 * Up to `limit` rows that `accept` lets through, newest first, from below `after` on. `sortKey` is the attribute that sorts
 * the table or index. Reads on until the page is full, so that a filter never makes a page look like the last.
 */
export async function pageOfRows<T>(
  database: Database,
  query: Pick<QueryCommandInput, "TableName" | "IndexName"> & { partition: [string, string]; sortKey: string },
  options: { limit: number; after?: string; accept: (row: Row) => boolean; read: (row: Row) => T },
): Promise<Page<T>> {
  const { partition, sortKey, ...target } = query;
  const items: T[] = [];
  let last: string | undefined;
  const rows = queryRows(database, {
    ...target,
    KeyConditionExpression: options.after === undefined ? "#p = :p" : "#p = :p AND #s < :after",
    ExpressionAttributeNames: { "#p": partition[0], ...(options.after === undefined ? {} : { "#s": sortKey }) },
    ExpressionAttributeValues: {
      ":p": partition[1],
      ...(options.after === undefined ? {} : { ":after": options.after }),
    },
    ScanIndexForward: false,
    Limit: Math.max(25, options.limit + 1),
    ...(target.IndexName === undefined ? { ConsistentRead: true } : {}),
  });
  for await (const row of rows) {
    if (!options.accept(row)) continue;
    if (items.length === options.limit) return { items, ...(last === undefined ? {} : { next: last }) };
    items.push(options.read(row));
    last = String(row[sortKey]);
  }
  return { items };
}

/** `SET a = :a, … REMOVE b` for an update: undefined values are removed. Names and values are made safe for reserved words. */
export function updateExpression(changes: Readonly<Row>): {
  UpdateExpression: string;
  ExpressionAttributeNames: Record<string, string>;
  ExpressionAttributeValues: Row;
} {
  const names: Record<string, string> = {};
  const values: Row = {};
  const sets: string[] = [];
  const removes: string[] = [];
  for (const [attribute, value] of Object.entries(changes)) {
    names[`#${attribute}`] = attribute;
    if (value === undefined) removes.push(`#${attribute}`);
    else {
      values[`:${attribute}`] = value;
      sets.push(`#${attribute} = :${attribute}`);
    }
  }
  const expression = [
    ...(sets.length > 0 ? [`SET ${sets.join(", ")}`] : []),
    ...(removes.length > 0 ? [`REMOVE ${removes.join(", ")}`] : []),
  ].join(" ");
  return { UpdateExpression: expression, ExpressionAttributeNames: names, ExpressionAttributeValues: values };
}

/** Makes the change ({@link updateExpression}) where the condition holds for the row, and answers whether it was made. */
export function updateIf(
  database: Database,
  table: string,
  key: Row,
  update: ReturnType<typeof updateExpression>,
  condition: string,
  values: Row = {},
  names: Readonly<Record<string, string>> = {},
): Promise<boolean> {
  return isMade(
    database.client.send(
      new UpdateCommand({
        TableName: table,
        Key: key,
        ...update,
        ConditionExpression: condition,
        ExpressionAttributeNames: { ...update.ExpressionAttributeNames, ...names },
        ExpressionAttributeValues: { ...update.ExpressionAttributeValues, ...values },
      }),
    ),
  );
}
