/**
 * What calls the functions that nobody waits for:
 *
 * - changes of jobs, and the clock every minute, call `dispatch`;
 * - changes of snapshots call `publish`;
 * - executions that ended badly call `reconcile`. Step Functions reports them at its best effort only, so the clock starts the
 *   collect-garbage machine every 5 minutes, which does the same and more;
 * - the clock starts the check-backups machine once a day, or as often as the deployment says.
 */
import { Duration } from "aws-cdk-lib";
import type * as dynamodb from "aws-cdk-lib/aws-dynamodb";
import * as events from "aws-cdk-lib/aws-events";
import * as targets from "aws-cdk-lib/aws-events-targets";
import * as lambda from "aws-cdk-lib/aws-lambda";
import * as destinations from "aws-cdk-lib/aws-lambda-destinations";
import * as sources from "aws-cdk-lib/aws-lambda-event-sources";
import type * as sqs from "aws-cdk-lib/aws-sqs";
import { Construct } from "constructs";
import { jobKinds } from "../lambdas/domain/job.ts";
import type { Events } from "./events.ts";
import type { Functions } from "./functions.ts";
import type { HandlerFunction } from "./handler-function.ts";
import type { MachineArns } from "./machine-arns.ts";
import type { Tables } from "./tables.ts";
import type { Workflows } from "./workflows.ts";

/** {@link Triggers} */
export interface TriggersProps {
  readonly tables: Tables;
  readonly functions: Functions;
  readonly workflows: Workflows;
  readonly machineArns: MachineArns;
  readonly events: Events;
  readonly checkIntervalHours: number;
}

export class Triggers extends Construct {
  constructor(scope: Construct, id: string, props: TriggersProps) {
    super(scope, id);
    const { tables, functions, events: sinks } = props;
    follow(tables.table("Jobs"), functions.dispatch, sinks.dispatchDeadLetters);
    follow(tables.table("Snapshots"), functions.publish, sinks.publishDeadLetters);
    keepFailures(functions.dispatch, sinks.dispatchDeadLetters);
    keepFailures(functions.reconcile, sinks.reconcileDeadLetters);

    new events.Rule(this, "DispatchEveryMinute", {
      description: "Starts queued backups whose change the stream did not deliver",
      schedule: events.Schedule.rate(Duration.minutes(1)),
      targets: [new targets.LambdaFunction(functions.dispatch, { deadLetterQueue: sinks.dispatchDeadLetters })],
    });
    new events.Rule(this, "ExecutionEndedBadly", {
      description: "Closes jobs whose executions ended without doing so",
      eventPattern: {
        source: ["aws.states"],
        detailType: ["Step Functions Execution Status Change"],
        detail: {
          status: ["FAILED", "TIMED_OUT", "ABORTED"],
          stateMachineArn: jobKinds.map((kind) => props.machineArns.of(kind)),
        },
      },
      targets: [
        new targets.LambdaFunction(functions.reconcile, {
          deadLetterQueue: sinks.reconcileDeadLetters,
          retryAttempts: 10,
          maxEventAge: Duration.hours(1),
        }),
      ],
    });
    new events.Rule(this, "CheckBackups", {
      description: "Reads a sample of each backup back",
      schedule: events.Schedule.rate(Duration.hours(props.checkIntervalHours)),
      targets: [
        new targets.SfnStateMachine(props.workflows.machine("check-backups"), {
          deadLetterQueue: sinks.reconcileDeadLetters,
        }),
      ],
    });
    new events.Rule(this, "CollectGarbage", {
      description: "Reconciles jobs with executions and collects garbage",
      schedule: events.Schedule.rate(Duration.minutes(5)),
      targets: [
        new targets.SfnStateMachine(props.workflows.machine("collect-garbage"), {
          deadLetterQueue: sinks.reconcileDeadLetters,
        }),
      ],
    });
  }
}

/** Hands every new and changed row to `handler`; a batch that fails is halved until the row at fault stands alone. */
function follow(table: dynamodb.Table, handler: HandlerFunction, deadLetters: sqs.Queue): void {
  handler.addEventSource(
    new sources.DynamoEventSource(table, {
      startingPosition: lambda.StartingPosition.TRIM_HORIZON,
      batchSize: 100,
      bisectBatchOnError: true,
      retryAttempts: 5,
      reportBatchItemFailures: true,
      onFailure: new sources.SqsDlq(deadLetters),
      filters: [lambda.FilterCriteria.filter({ eventName: lambda.FilterRule.or("INSERT", "MODIFY") })],
    }),
  );
}

/** Lambda tries an event twice more; what fails then too is kept. */
function keepFailures(handler: HandlerFunction, deadLetters: sqs.Queue): void {
  handler.configureAsyncInvoke({ retryAttempts: 2, onFailure: new destinations.SqsDestination(deadLetters) });
}
