/**
 * The functions, split by what they may do:
 *
 * - `api` and `inventory` answer HTTP requests: the first starts and stops work, the second reaches hypervisors and stores;
 * - `keys` is there where `inventory` runs in a VPC, from which it may not reach the issuer of tokens: it fetches the issuer's keys;
 * - `import` makes rows for backups that a store holds; `inventory` calls it, which may itself read no backup;
 * - `tasks`, `copy` and `collect` are called by state machines: the steps of jobs and the checks of backups, the copying of bytes,
 *   and garbage collection, which alone may delete versions of objects;
 * - `dispatch`, `publish` and `reconcile` are called by streams and rules.
 */
import { ArnFormat, Duration, Stack } from "aws-cdk-lib";
import { Construct } from "constructs";
import { type JobKind, jobKinds } from "../lambdas/domain/job.ts";
import type { BackupBucket } from "./backup-bucket.ts";
import { bundle, type Entry } from "./bundles.ts";
import { codecThreads } from "./codec-threads.ts";
import type { Deployment } from "./deployment.ts";
import type { EncryptionKey } from "./encryption-key.ts";
import type { Events } from "./events.ts";
import { HandlerFunction } from "./handler-function.ts";
import type { MachineArns } from "./machine-arns.ts";
import { placementOf } from "./network.ts";
import { allow } from "./permissions.ts";
import type { Settings } from "./settings.ts";
import type { Tables } from "./tables.ts";

/** Where the functions that read and write volumes find a mounted file system. */
const fileSystemPath = "/mnt/volumes";

/** Hypervisors' and stores' secrets are those whose names begin with this. */
const secretPrefix = "snapferry/";

/** API Gateway gives up after 29 seconds, Lambda after 15 minutes. 1769 MiB come with one whole processor. */
const definitions = {
  api: {
    file: "lambdas/api/backups-handler.ts",
    seconds: 29,
    memoryMiB: 512,
    does: "API: snapshots, jobs, volumes, VMs",
  },
  inventory: {
    file: "lambdas/api/inventory-handler.ts",
    nativeFileCalls: true,
    seconds: 29,
    memoryMiB: 512,
    does: "API: hypervisors, operations on VMs, stores",
  },
  keys: {
    file: "lambdas/api/keys-handler.ts",
    seconds: 10,
    memoryMiB: 256,
    does: "Fetches the issuer's keys for the API in a VPC",
  },
  tasks: {
    file: "lambdas/tasks/handler.ts",
    nativeFileCalls: true,
    threads: codecThreads,
    seconds: 900,
    memoryMiB: 1024,
    does: "Steps of jobs, checks of backups",
  },
  copy: {
    file: "lambdas/tasks/copy-handler.ts",
    nativeFileCalls: true,
    threads: codecThreads,
    seconds: 900,
    memoryMiB: 1769,
    does: "Copies one shard of a volume",
  },
  collect: {
    file: "lambdas/tasks/collect-handler.ts",
    nativeFileCalls: true,
    seconds: 900,
    memoryMiB: 1024,
    does: "Reconciles jobs with executions and collects garbage",
  },
  import: {
    file: "lambdas/tasks/import-handler.ts",
    seconds: 29,
    memoryMiB: 512,
    does: "Makes rows for backups that a store holds",
  },
  dispatch: { file: "lambdas/events/dispatch.ts", seconds: 60, memoryMiB: 256, does: "Starts queued backups" },
  publish: { file: "lambdas/events/publish.ts", seconds: 60, memoryMiB: 256, does: "Publishes changes of snapshots" },
  reconcile: {
    file: "lambdas/events/reconcile.ts",
    seconds: 60,
    memoryMiB: 256,
    does: "Closes jobs whose executions ended badly",
  },
} as const satisfies Record<string, Entry & { seconds: number; memoryMiB: number; does: string }>;

/** What whoever carries a job on, or ends it, has to do with. */
const jobTables = {
  Snapshots: "update",
  StoreReferences: "write",
  Jobs: "write",
  Volumes: "write",
  Hypervisors: "read",
  Stores: "read",
  Pools: "update",
} as const;

/** Settling a job's rows touches neither hypervisors nor stores. */
const { Hypervisors: _hypervisors, Stores: _stores, ...rowsOfJobs } = jobTables;

export type FunctionName = keyof typeof definitions;

/** The file that each function's code begins with, from the project's root. */
export const functionFiles: Readonly<Record<FunctionName, string>> = Object.fromEntries(
  Object.entries(definitions).map(([name, { file }]) => [name, file]),
) as Record<FunctionName, string>;

/** {@link Functions} */
export interface FunctionsProps {
  readonly deployment: Deployment;
  readonly tables: Tables;
  readonly backupBucket: BackupBucket;
  readonly encryptionKey: EncryptionKey;
  readonly settings: Settings;
  readonly machineArns: MachineArns;
  readonly events: Events;
}

export class Functions extends Construct {
  readonly api: HandlerFunction;
  readonly inventory: HandlerFunction;
  readonly tasks: HandlerFunction;
  readonly copy: HandlerFunction;
  readonly collect: HandlerFunction;
  readonly import: HandlerFunction;
  readonly dispatch: HandlerFunction;
  readonly publish: HandlerFunction;
  readonly reconcile: HandlerFunction;
  readonly #props: FunctionsProps;
  readonly #codes: ReturnType<typeof bundle<FunctionName>>;

  constructor(scope: Construct, id: string, props: FunctionsProps) {
    super(scope, id);
    this.#props = props;
    this.#codes = bundle(this, definitions);
    this.api = this.#define("api");
    this.inventory = this.#define("inventory");
    this.tasks = this.#define("tasks");
    this.copy = this.#define("copy", props.deployment.copyReservedConcurrency);
    this.collect = this.#define("collect");
    this.import = this.#define("import");
    this.dispatch = this.#define("dispatch");
    this.publish = this.#define("publish");
    this.reconcile = this.#define("reconcile");

    this.#grantApi();
    this.#grantWorkers();
    this.#grantEventHandlers();
  }

  #define(name: FunctionName, reservedConcurrency?: number): HandlerFunction {
    const { does, seconds, memoryMiB } = definitions[name];
    const id = name.replace(/^./, (letter) => letter.toUpperCase());
    return new HandlerFunction(this, id, {
      service: name,
      description: `Snapferry: ${does}`,
      code: this.#codes[name],
      timeout: Duration.seconds(seconds),
      memoryMiB,
      reservedConcurrency,
    });
  }

  #grantApi(): void {
    const { tables, settings, deployment, backupBucket, encryptionKey } = this.#props;
    tables.grant(this.api, {
      Snapshots: "write",
      StoreReferences: "write",
      Jobs: "write",
      Volumes: "write",
      Vms: "read",
      Hypervisors: "read",
      Stores: "read",
      Pools: "update",
      Progress: "read",
      Requests: "write",
    });
    settings.grantRead(this.api);
    backupBucket.grant(this.api, []);
    this.#allowStart(this.api, ["create-snapshot", "restore-volume", "delete-snapshot"]);
    this.#allowOnExecutions(this.api, "states:StopExecution");
    tables.grant(this.inventory, {
      Snapshots: "write",
      StoreReferences: "write",
      Jobs: "read",
      Volumes: "write",
      Vms: "write",
      Hypervisors: "write",
      Stores: "write",
      Requests: "write",
    });
    this.#openHypervisorsAndStores(this.inventory);
    encryptionKey.grant(this.inventory, []);
    allow(this.inventory.role, { actions: ["lambda:InvokeFunction"], resources: [this.import.functionArn] });
    this.inventory.addEnvironment("IMPORT_FUNCTION", this.import.functionName);
    for (const handler of [this.api, this.inventory]) {
      if (deployment.authentication === undefined) continue;
      handler.addEnvironment("AUTH_ISSUER", deployment.authentication.issuer);
      handler.addEnvironment("AUTH_AUDIENCE", deployment.authentication.audience);
      handler.addEnvironment("AUTH_JWKS_URL", deployment.authentication.jwksUrl);
    }
    if (deployment.authentication && placementOf(deployment)) this.#letKeysBeFetched(deployment.authentication.jwksUrl);
  }

  #letKeysBeFetched(jwksUrl: string): void {
    const keys = this.#define("keys");
    keys.addEnvironment("AUTH_JWKS_URL", jwksUrl);
    allow(this.inventory.role, { actions: ["lambda:InvokeFunction"], resources: [keys.functionArn] });
    this.inventory.addEnvironment("AUTH_KEYS_FUNCTION", keys.functionName);
  }

  #grantWorkers(): void {
    const { tables, settings, backupBucket, encryptionKey } = this.#props;
    tables.grant(this.tasks, { ...jobTables, Vms: "update", Progress: "update", Rates: "update" });
    tables.grant(this.copy, {
      Snapshots: "read",
      Jobs: "read",
      Hypervisors: "read",
      Stores: "read",
      Progress: "update",
      Rates: "update",
    });
    tables.grant(this.collect, { ...jobTables, Rates: "update" });
    backupBucket.grant(this.tasks, ["read", "write", "deleteJobFiles"]);
    backupBucket.grant(this.copy, ["read", "write"]);
    backupBucket.grant(this.collect, ["read", "write", "deleteBackups"]);
    encryptionKey.grant(this.tasks, ["generate", "unwrap"]);
    encryptionKey.grant(this.copy, ["generate", "unwrap"]);
    encryptionKey.grant(this.collect, ["unwrap"]);
    tables.grant(this.import, {
      Snapshots: "update",
      StoreReferences: "update",
      Volumes: "update",
      Hypervisors: "read",
      Stores: "read",
      Rates: "update",
    });
    backupBucket.grant(this.import, ["readRoots"]);
    encryptionKey.grant(this.import, ["unwrap"]);
    for (const handler of [this.tasks, this.copy, this.collect, this.import]) this.#openHypervisorsAndStores(handler);
    for (const handler of [this.tasks, this.collect]) settings.grantRead(handler);
    this.#allowStart(this.collect, jobKinds);
    this.#allowOnExecutions(this.collect, "states:DescribeExecution");
  }

  #grantEventHandlers(): void {
    const { tables, settings, events } = this.#props;
    tables.grant(this.dispatch, { Jobs: "update", Snapshots: "update", Volumes: "update", Pools: "update" });
    settings.grantRead(this.dispatch);
    this.#allowStart(this.dispatch, ["backup-snapshot"]);
    events.grantPublish(this.publish);
    tables.grant(this.reconcile, rowsOfJobs);
    settings.grantRead(this.reconcile);
    this.#allowStart(this.reconcile, jobKinds);
    this.#allowOnExecutions(this.reconcile, "states:DescribeExecution");
  }

  /** What a function needs that talks to hypervisors and to stores of their own credentials. */
  #openHypervisorsAndStores(handler: HandlerFunction): void {
    const { deployment } = this.#props;
    allow(handler.role, {
      actions: ["secretsmanager:GetSecretValue"],
      resources: [
        Stack.of(this).formatArn({
          service: "secretsmanager",
          resource: "secret",
          resourceName: `${secretPrefix}*`,
          arnFormat: ArnFormat.COLON_RESOURCE_NAME,
        }),
      ],
      wildcardBecause: "Administrators register hypervisors and stores with secrets of this prefix.",
    });
    handler.addEnvironment("FILE_ROOTS", deployment.fileRoots.join(","));
    handler.addEnvironment("ALLOWED_CIDRS", deployment.allowedCidrs.join(","));
    if (deployment.fileSystem) handler.mount(deployment.fileSystem, fileSystemPath);
    const placement = placementOf(deployment);
    if (placement) handler.runIn(placement);
  }

  #allowStart(handler: HandlerFunction, kinds: readonly JobKind[]): void {
    allow(handler.role, {
      actions: ["states:StartExecution"],
      resources: kinds.map((kind) => this.#props.machineArns.of(kind)),
    });
    handler.addEnvironment("STATE_MACHINE_ARN_PREFIX", this.#props.machineArns.prefix);
  }

  #allowOnExecutions(handler: HandlerFunction, action: string): void {
    allow(handler.role, {
      actions: [action],
      resources: jobKinds.map((kind) => this.#props.machineArns.executionsOf(kind)),
      wildcardBecause: "Executions are named after jobs, which do not exist yet.",
    });
  }
}
