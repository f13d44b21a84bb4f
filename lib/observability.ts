/**
 * Alarms for what nobody is watching: executions that fail, events that could not be delivered, functions that fail where no caller
 * would notice, copies that are throttled. `docs/operations.md` says what to do at each.
 */
import { Duration, Stack } from "aws-cdk-lib";
import * as cloudwatch from "aws-cdk-lib/aws-cloudwatch";
import * as actions from "aws-cdk-lib/aws-cloudwatch-actions";
import * as iam from "aws-cdk-lib/aws-iam";
import * as sns from "aws-cdk-lib/aws-sns";
import * as subscriptions from "aws-cdk-lib/aws-sns-subscriptions";
import { Construct } from "constructs";
import type { Events } from "./events.ts";
import type { Functions } from "./functions.ts";
import { machineNames } from "./machine-arns.ts";
import type { Workflows } from "./workflows.ts";

const period = Duration.minutes(5);

/** {@link Observability} */
export interface ObservabilityProps {
  readonly functions: Functions;
  readonly workflows: Workflows;
  readonly events: Events;
  /** Who is told of alarms, if anybody. */
  readonly alarmEmail: string | undefined;
}

export class Observability extends Construct {
  readonly topic: sns.Topic;

  constructor(scope: Construct, id: string, props: ObservabilityProps) {
    super(scope, id);
    this.topic = this.#alarmTopic(props.alarmEmail);
    const { functions, workflows, events } = props;
    for (const name of machineNames) {
      const machine = workflows.machine(name);
      this.#alarm(
        `${name}-failed`,
        `Executions of ${name} failed or timed out`,
        new cloudwatch.MathExpression({
          expression: "failed + timedOut",
          usingMetrics: { failed: machine.metricFailed(), timedOut: machine.metricTimedOut() },
          period,
        }),
      );
    }
    for (const name of ["publish", "dispatch", "reconcile"] as const) {
      this.#alarm(`${name}-errors`, `The function ${name} fails`, functions[name].metricErrors({ period }));
      this.#alarm(
        `${name}-dead-letters`,
        `Events that ${name} could not take lie in its dead-letter queue`,
        events[`${name}DeadLetters`].metricApproximateNumberOfMessagesVisible({ period, statistic: "Maximum" }),
      );
    }
    this.#alarm("copy-throttled", "Copies wait for concurrency", functions.copy.metricThrottles({ period }));
  }

  /** A topic with a policy of its own no longer lets the account's alarms in by default. */
  #alarmTopic(email: string | undefined): sns.Topic {
    const topic = new sns.Topic(this, "Alarms", { displayName: "Snapferry alarms", enforceSSL: true });
    topic.grantPublish(
      new iam.ServicePrincipal("cloudwatch.amazonaws.com", {
        conditions: { StringEquals: { "aws:SourceAccount": Stack.of(this).account } },
      }),
    );
    if (email !== undefined) topic.addSubscription(new subscriptions.EmailSubscription(email));
    return topic;
  }

  #alarm(id: string, description: string, metric: cloudwatch.IMetric): void {
    const alarm = new cloudwatch.Alarm(this, id, {
      alarmDescription: `Snapferry: ${description}`,
      metric,
      threshold: 1,
      comparisonOperator: cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
      evaluationPeriods: 1,
      treatMissingData: cloudwatch.TreatMissingData.NOT_BREACHING,
    });
    alarm.addAlarmAction(new actions.SnsAction(this.topic));
  }
}
