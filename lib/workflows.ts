/**
 * The state machines of `statemachines/`: create-snapshot takes the primary snapshot, backup-snapshot copies it to a store,
 * restore-volume makes a volume of a backup, delete-snapshot removes one, collect-garbage cleans up after all of them, check-backups
 * looks whether backups are still whole. What a definition writes as `${Name}` is bound here. Logs tell of errors and hold no data of executions.
 */
import { readFileSync } from "node:fs";
import { RemovalPolicy, Stack } from "aws-cdk-lib";
import * as logs from "aws-cdk-lib/aws-logs";
import * as sfn from "aws-cdk-lib/aws-stepfunctions";
import { Construct } from "constructs";
import { type BackupBucket, executionsPrefix } from "./backup-bucket.ts";
import type { Functions } from "./functions.ts";
import type { HandlerFunction } from "./handler-function.ts";
import { type MachineArns, type MachineName, machineNames } from "./machine-arns.ts";
import { acknowledge, allow } from "./permissions.ts";

/** {@link Workflows} */
export interface WorkflowsProps {
  readonly functions: Functions;
  readonly backupBucket: BackupBucket;
  readonly machineArns: MachineArns;
  /** Shards of one backup or restore that are copied at once. */
  readonly shardConcurrency: number;
  /** Between two starts of check-backups. */
  readonly checkIntervalHours: number;
}

/** A run of check-backups starts no call this long before the next run: a call takes up to 15 minutes, and may be tried again. */
const checkReserveSeconds = 30 * 60;

export class Workflows extends Construct {
  readonly #props: WorkflowsProps;
  readonly #logGroup: logs.LogGroup;
  readonly #machines: Readonly<Record<MachineName, sfn.StateMachine>>;

  constructor(scope: Construct, id: string, props: WorkflowsProps) {
    super(scope, id);
    this.#props = props;
    this.#logGroup = new logs.LogGroup(this, "Logs", {
      // The policy that lets Step Functions write would outgrow its limit of 5,120 characters with names of another beginning.
      logGroupName: `/aws/vendedlogs/states/${Stack.of(this).stackName}`,
      retention: logs.RetentionDays.ONE_MONTH,
      removalPolicy: RemovalPolicy.DESTROY,
    });
    const machines = machineNames.map((name) => [name, this.#define(name)]);
    this.#machines = Object.fromEntries(machines);
  }

  machine(name: MachineName): sfn.StateMachine {
    return this.#machines[name];
  }

  #define(name: MachineName): sfn.StateMachine {
    const definition = readDefinition(name);
    const machine = new sfn.StateMachine(this, name, {
      stateMachineName: this.#props.machineArns.nameOf(name),
      stateMachineType: sfn.StateMachineType.STANDARD,
      definitionBody: sfn.DefinitionBody.fromString(definition),
      definitionSubstitutions: this.#bind(name, definition),
      logs: { destination: this.#logGroup, level: sfn.LogLevel.ERROR, includeExecutionData: false },
      tracingEnabled: true,
    });
    acknowledge(
      machine,
      "AwsSolutions-SF1",
      "Errors are logged; each step of an execution stands in its history for 90 days.",
    );
    acknowledge(
      machine,
      "AwsSolutions-IAM5[Resource::*]",
      "X-Ray takes traces, and CloudWatch Logs sets up deliveries, without naming a resource.",
    );
    for (const handler of calledHandlers(definition, this.#props.functions))
      allow(machine.role, { actions: ["lambda:InvokeFunction"], resources: [handler.functionArn] });
    if (definition.includes('"DISTRIBUTED"')) this.#allowDistributedMap(name, machine);
    return machine;
  }

  /** A Distributed Map reads its items from the bucket and runs each as an execution of its own machine. */
  #allowDistributedMap(name: MachineName, machine: sfn.StateMachine): void {
    const { machineArns, backupBucket } = this.#props;
    const { bucketArn, encryptionKey } = backupBucket.bucket;
    allow(machine.role, { actions: ["states:StartExecution"], resources: [machineArns.of(name)] });
    allow(machine.role, {
      actions: ["states:DescribeExecution", "states:StopExecution"],
      resources: [machineArns.executionsOf(name), machineArns.mapExecutionsOf(name)],
      wildcardBecause: "Step Functions names the executions of a map's items itself.",
    });
    allow(machine.role, {
      actions: ["s3:GetObject"],
      resources: [`${bucketArn}/${executionsPrefix}*`],
      wildcardBecause: "The plans that maps read are named after jobs, which do not exist yet.",
    });
    if (encryptionKey) allow(machine.role, { actions: ["kms:Decrypt"], resources: [encryptionKey.keyArn] });
  }

  /** The values of the names that `definition` uses: CloudFormation refuses those that it does not. */
  #bind(machine: MachineName, definition: string): Record<string, string> {
    const { functions, backupBucket, shardConcurrency, checkIntervalHours } = this.#props;
    const values: Record<string, string> = {
      TasksFunctionArn: functions.tasks.functionArn,
      CopyFunctionArn: functions.copy.functionArn,
      CollectFunctionArn: functions.collect.functionArn,
      BackupBucket: backupBucket.bucket.bucketName,
      ShardConcurrency: String(shardConcurrency),
      CheckSeconds: String(checkIntervalHours * 3600 - checkReserveSeconds),
    };
    const names = new Set(Array.from(definition.matchAll(/\$\{(\w+)\}/g), ([, name = ""]) => name));
    return Object.fromEntries(
      Array.from(names, (name) => {
        const value = values[name];
        if (value === undefined)
          throw new Error(`statemachines/${machine}.asl.json uses \${${name}}, which nothing binds`);
        return [name, value];
      }),
    );
  }
}

/** Parsed and written again: a definition that is no JSON stops the synthesis, and its white space is not deployed. */
function readDefinition(name: MachineName): string {
  const file = new URL(`../statemachines/${name}.asl.json`, import.meta.url);
  return JSON.stringify(JSON.parse(readFileSync(file, "utf8")));
}

function calledHandlers(definition: string, functions: Functions): HandlerFunction[] {
  const handlers = {
    TasksFunctionArn: functions.tasks,
    CopyFunctionArn: functions.copy,
    CollectFunctionArn: functions.collect,
  };
  return Object.entries(handlers).flatMap(([name, handler]) => (definition.includes(`\${${name}}`) ? [handler] : []));
}
