/**
 * The tables: one for each aggregate, on demand, encrypted. Those that hold what cannot be found again survive the stack, refuse
 * to be deleted and can be put back to any second of the last 35 days.
 */
import { RemovalPolicy } from "aws-cdk-lib";
import * as dynamodb from "aws-cdk-lib/aws-dynamodb";
import { Construct } from "constructs";
import type { HandlerFunction } from "./handler-function.ts";
import { acknowledge, allow } from "./permissions.ts";

interface IndexDefinition {
  readonly partitionKey: string;
  readonly sortKey: string;
}

interface TableDefinition {
  readonly partitionKey: string;
  readonly sortKey?: string;
  /** Whether changes of rows are followed. */
  readonly stream?: boolean;
  /** Whether rows end at the second that their attribute `expiresAt` names. */
  readonly expires?: boolean;
  /** Holds nothing that a backup or a restore depends on. */
  readonly expendable?: boolean;
  /** An index is sparse: it holds the rows that have its keys. */
  readonly indexes?: Readonly<Record<string, IndexDefinition>>;
}

const definitions = {
  Snapshots: {
    partitionKey: "tenant",
    sortKey: "id",
    stream: true,
    expires: true,
    indexes: {
      "by-volume": { partitionKey: "volumeKey", sortKey: "id" },
      "by-vm": { partitionKey: "vmKey", sortKey: "id" },
      "by-state": { partitionKey: "unsettled", sortKey: "id" },
      "by-check": { partitionKey: "checkQueue", sortKey: "checkedAt" },
    },
  },
  StoreReferences: { partitionKey: "tenant", sortKey: "reference" },
  Jobs: {
    partitionKey: "tenant",
    sortKey: "id",
    stream: true,
    expires: true,
    indexes: {
      queue: { partitionKey: "queue", sortKey: "queuePosition" },
      open: { partitionKey: "openKind", sortKey: "id" },
    },
  },
  Volumes: {
    partitionKey: "tenant",
    sortKey: "id",
    indexes: {
      "by-hypervisor": { partitionKey: "hypervisorId", sortKey: "id" },
      busy: { partitionKey: "busy", sortKey: "id" },
      "by-protection": { partitionKey: "protection", sortKey: "id" },
    },
  },
  Vms: {
    partitionKey: "tenant",
    sortKey: "id",
    indexes: { "by-hypervisor": { partitionKey: "hypervisorId", sortKey: "id" } },
  },
  Hypervisors: {
    partitionKey: "tenant",
    sortKey: "id",
    indexes: { tended: { partitionKey: "tended", sortKey: "id" } },
  },
  Stores: { partitionKey: "tenant", sortKey: "id" },
  Pools: { partitionKey: "id" },
  Progress: { partitionKey: "jobId", sortKey: "part", expires: true, expendable: true },
  Requests: { partitionKey: "request", expires: true, expendable: true },
  Rates: { partitionKey: "meter", expires: true, expendable: true },
} as const satisfies Record<string, TableDefinition>;

export type TableName = keyof typeof definitions;
export const tableNames = Object.keys(definitions) as TableName[];

/** Nothing reads whole tables. `update` reads and changes rows, and deletes none. */
export type TableAccess = "read" | "update" | "write";

const reading = ["dynamodb:GetItem", "dynamodb:BatchGetItem", "dynamodb:Query", "dynamodb:ConditionCheckItem"];
const updating = [...reading, "dynamodb:UpdateItem"];
const actions: Readonly<Record<TableAccess, readonly string[]>> = {
  read: reading,
  update: updating,
  write: [...updating, "dynamodb:PutItem", "dynamodb:DeleteItem", "dynamodb:BatchWriteItem"],
};

/** {@link Tables} */
export interface TablesProps {
  /** Whether the tables survive the stack. */
  readonly retainData: boolean;
}

export class Tables extends Construct {
  readonly #tables: Readonly<Record<TableName, dynamodb.Table>>;

  constructor(scope: Construct, id: string, props: TablesProps) {
    super(scope, id);
    const tables = tableNames.map((name) => [name, this.#table(name, definitions[name], props.retainData)]);
    this.#tables = Object.fromEntries(tables);
  }

  table(name: TableName): dynamodb.Table {
    return this.#tables[name];
  }

  /** Gives `handler` the names of these tables and the rights to them. */
  grant(handler: HandlerFunction, access: Readonly<Partial<Record<TableName, TableAccess>>>): void {
    for (const name of tableNames) {
      const level = access[name];
      if (level === undefined) continue;
      const { tableArn, tableName } = this.#tables[name];
      const definition: TableDefinition = definitions[name];
      const indexes = Object.keys(definition.indexes ?? {}).map((index) => `${tableArn}/index/${index}`);
      allow(handler.role, {
        actions: actions[level],
        resources: [tableArn, ...indexes],
      });
      handler.addEnvironment(`${name.replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase()}_TABLE`, tableName);
    }
  }

  #table(name: TableName, definition: TableDefinition, retainData: boolean): dynamodb.Table {
    const kept = retainData && !definition.expendable;
    const table = new dynamodb.Table(this, name, {
      partitionKey: stringKey(definition.partitionKey),
      ...(definition.sortKey && { sortKey: stringKey(definition.sortKey) }),
      ...(definition.stream && { stream: dynamodb.StreamViewType.NEW_AND_OLD_IMAGES }),
      ...(definition.expires && { timeToLiveAttribute: "expiresAt" }),
      billingMode: dynamodb.BillingMode.PAY_PER_REQUEST,
      encryption: dynamodb.TableEncryption.AWS_MANAGED,
      pointInTimeRecoverySpecification: { pointInTimeRecoveryEnabled: !definition.expendable },
      deletionProtection: kept,
      removalPolicy: kept ? RemovalPolicy.RETAIN : RemovalPolicy.DESTROY,
    });
    for (const [indexName, index] of Object.entries(definition.indexes ?? {}))
      table.addGlobalSecondaryIndex({
        indexName,
        partitionKey: stringKey(index.partitionKey),
        sortKey: stringKey(index.sortKey),
      });
    if (definition.expendable)
      acknowledge(table, "AwsSolutions-DDB3", "Its rows expire within days and nothing depends on an old one.");
    return table;
  }
}

function stringKey(name: string): dynamodb.Attribute {
  return { name, type: dynamodb.AttributeType.STRING };
}
