/** The snapshots table's stream, as events on the bus and notices to people. At least once; `eventId` tells a repetition. */

import { Logger } from "@aws-lambda-powertools/logger";
import type { AttributeValue } from "@aws-sdk/client-dynamodb";
import { EventBridgeClient, PutEventsCommand } from "@aws-sdk/client-eventbridge";
import { PublishCommand, SNSClient } from "@aws-sdk/client-sns";
import { unmarshall } from "@aws-sdk/util-dynamodb";
import type { DynamoDBBatchResponse, DynamoDBRecord, DynamoDBStreamEvent } from "aws-lambda";
import { type SnapshotEventMessage, sentence, snapshotEvent } from "../domain/snapshot-event.ts";
import { requiredEnvironment } from "../environment.ts";
import { readSnapshot } from "../tables/snapshots.ts";

const bus = requiredEnvironment("EVENT_BUS");
const topic = requiredEnvironment("TOPIC_ARN");
const eventBridge = new EventBridgeClient({ maxAttempts: 5 });
const sns = new SNSClient({ maxAttempts: 5 });
const logger = new Logger();

/** One record after the other: events of one snapshot keep their order. The first that fails is where the batch goes on. */
export async function handler(event: DynamoDBStreamEvent): Promise<DynamoDBBatchResponse> {
  for (const record of event.Records) {
    const message = messageOf(record);
    if (!message) continue;
    try {
      await publish(message);
      logger.info("event published", { type: message.type, ...message.detail });
    } catch (error) {
      logger.error("event not published", {
        type: message.type,
        eventId: message.detail.eventId,
        error: error as Error,
      });
      return { batchItemFailures: [{ itemIdentifier: record.dynamodb?.SequenceNumber ?? "" }] };
    }
  }
  return { batchItemFailures: [] };
}

function messageOf(record: DynamoDBRecord): SnapshotEventMessage | undefined {
  const { OldImage, NewImage } = record.dynamodb ?? {};
  if (!NewImage) return undefined;
  return snapshotEvent(OldImage && readImage(OldImage), readImage(NewImage));
}

function readImage(image: NonNullable<NonNullable<DynamoDBRecord["dynamodb"]>["NewImage"]>) {
  return readSnapshot(unmarshall(image as Record<string, AttributeValue>));
}

async function publish(message: SnapshotEventMessage): Promise<void> {
  const detail = JSON.stringify(message.detail);
  const { FailedEntryCount, Entries } = await eventBridge.send(
    new PutEventsCommand({
      Entries: [
        {
          EventBusName: bus,
          Source: "snapferry",
          DetailType: message.type,
          Detail: detail,
          Resources: [message.detail.snapshotId],
        },
      ],
    }),
  );
  if (FailedEntryCount)
    throw new Error(`the event bus refused the event: ${Entries?.[0]?.ErrorCode} ${Entries?.[0]?.ErrorMessage}`);
  if (!message.forPeople) return;
  const body = JSON.stringify({ source: "snapferry", "detail-type": message.type, detail: message.detail });
  await sns.send(
    new PublishCommand({
      TopicArn: topic,
      Subject: `Snapferry: ${message.type} ${message.detail.snapshotId}`.slice(0, 100),
      MessageStructure: "json",
      Message: JSON.stringify({ default: body, email: sentence(message) }),
      MessageAttributes: {
        tenant: { DataType: "String", StringValue: message.detail.tenant },
        type: { DataType: "String", StringValue: message.type },
        volume: { DataType: "String", StringValue: message.detail.volumeId },
      },
    }),
  );
}
