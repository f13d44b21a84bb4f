/**
 * What leaves Snapferry: an event bus for programs, a topic for people. And the queues that keep what a stream or a rule could not
 * deliver, for 14 days.
 */
import { Duration, RemovalPolicy, Stack } from "aws-cdk-lib";
import * as events from "aws-cdk-lib/aws-events";
import * as sns from "aws-cdk-lib/aws-sns";
import * as subscriptions from "aws-cdk-lib/aws-sns-subscriptions";
import * as sqs from "aws-cdk-lib/aws-sqs";
import { Construct } from "constructs";
import type { HandlerFunction } from "./handler-function.ts";
import { acknowledge, allow } from "./permissions.ts";

/** {@link Events} */
export interface EventsProps {
  /** Who is told when a snapshot exists and when its backup has ended, if anybody. */
  readonly notifyEmail: string | undefined;
}

export class Events extends Construct {
  readonly bus: events.EventBus;
  readonly topic: sns.Topic;
  readonly publishDeadLetters: sqs.Queue;
  readonly dispatchDeadLetters: sqs.Queue;
  readonly reconcileDeadLetters: sqs.Queue;

  constructor(scope: Construct, id: string, props: EventsProps) {
    super(scope, id);
    this.bus = new events.EventBus(this, "Bus", {
      eventBusName: Stack.of(this).stackName,
      description: "Changes of snapshots' states",
    });
    this.topic = new sns.Topic(this, "Topic", { displayName: "Snapferry", enforceSSL: true });
    if (props.notifyEmail !== undefined)
      this.topic.addSubscription(new subscriptions.EmailSubscription(props.notifyEmail));
    this.publishDeadLetters = this.#deadLetters("PublishDeadLetters");
    this.dispatchDeadLetters = this.#deadLetters("DispatchDeadLetters");
    this.reconcileDeadLetters = this.#deadLetters("ReconcileDeadLetters");
  }

  /** Gives `handler` the bus and the topic, and the right to put events on them. */
  grantPublish(handler: HandlerFunction): void {
    allow(handler.role, { actions: ["events:PutEvents"], resources: [this.bus.eventBusArn] });
    allow(handler.role, { actions: ["sns:Publish"], resources: [this.topic.topicArn] });
    handler.addEnvironment("EVENT_BUS", this.bus.eventBusName);
    handler.addEnvironment("TOPIC_ARN", this.topic.topicArn);
  }

  #deadLetters(id: string): sqs.Queue {
    const queue = new sqs.Queue(this, id, {
      encryption: sqs.QueueEncryption.SQS_MANAGED,
      enforceSSL: true,
      retentionPeriod: Duration.days(14),
      removalPolicy: RemovalPolicy.DESTROY,
    });
    acknowledge(queue, "AwsSolutions-SQS3", "It is a dead-letter queue itself.");
    return queue;
  }
}
