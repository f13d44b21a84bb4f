import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, describe, it } from "node:test";
import { PutRuleCommand, PutTargetsCommand } from "@aws-sdk/client-eventbridge";
import { SubscribeCommand } from "@aws-sdk/client-sns";
import {
  CreateQueueCommand,
  GetQueueAttributesCommand,
  PurgeQueueCommand,
  ReceiveMessageCommand,
} from "@aws-sdk/client-sqs";
import { cloud, eventually, type TestCloud } from "../support/cloud.ts";
import { noise, snapshotIn, TestHypervisor } from "../support/volumes.ts";

interface SnapshotEvent {
  "detail-type": string;
  source: string;
  detail: { eventId: string; snapshotId: string; tenant: string; to: string };
}

describe("events of a snapshot", () => {
  let test: TestCloud;
  let hypervisor: TestHypervisor;
  let onBus: Queue;
  let forPeople: Queue;
  before(async () => {
    test = await cloud();
    hypervisor = await TestHypervisor.register(test, "eventful");
    onBus = await Queue.create(test);
    const EventBusName = test.outputs.EventBusName;
    const Name = `test-${randomUUID()}`;
    await test.clients.events.send(
      new PutRuleCommand({ Name, EventBusName, EventPattern: JSON.stringify({ detail: { tenant: ["eventful"] } }) }),
    );
    await test.clients.events.send(
      new PutTargetsCommand({ Rule: Name, EventBusName, Targets: [{ Id: "queue", Arn: onBus.arn }] }),
    );
    forPeople = await Queue.create(test);
    await test.clients.sns.send(
      new SubscribeCommand({
        TopicArn: test.outputs.TopicArn,
        Protocol: "sqs",
        Endpoint: forPeople.arn,
        Attributes: {
          RawMessageDelivery: "true",
          FilterPolicy: JSON.stringify({
            tenant: ["eventful"],
            type: ["snapshot.created-on-primary", "snapshot.backed-up"],
          }),
        },
      }),
    );
  });
  after(() => hypervisor?.remove());

  it("reach the bus on every change of state, in order, each with an id of its own; and people, filtered, twice", async () => {
    const volumeId = await hypervisor.addVolume("told", 2 ** 20, [{ offset: 0, data: noise(1000) }]);
    const { body } = await test.call("POST", `/volumes/${volumeId}/snapshots`, { tenant: "eventful", body: {} });
    const id = body.snapshot.id as string;
    await snapshotIn(test, id, ["BackedUp"], { tenant: "eventful" });
    const types = ["requested", "creating", "created-on-primary", "backing-up", "backed-up"].map(
      (type) => `snapshot.${type}`,
    );
    const events = await onBus.receive(types.length);
    assert.deepEqual([...new Set(events.map((event) => event["detail-type"]))].sort(), [...types].sort());
    assert.deepEqual(
      [...new Set(events.map(({ detail }) => detail.eventId))].sort(),
      types.map((_, index) => `${id}#${index}`),
    );
    assert.ok(
      events.every(
        ({ source, detail }) => source === "snapferry" && detail.snapshotId === id && detail.tenant === "eventful",
      ),
    );
    const notices = await forPeople.receive(2);
    assert.deepEqual(notices.map((notice) => notice["detail-type"]).sort(), [
      "snapshot.backed-up",
      "snapshot.created-on-primary",
    ]);
  });

  it("of another tenant do not reach them", async () => {
    await onBus.purge();
    const other = await TestHypervisor.register(test, "quiet");
    const volumeId = await other.addVolume("untold", 1000);
    const { body } = await test.call("POST", `/volumes/${volumeId}/snapshots`, { tenant: "quiet", body: {} });
    await snapshotIn(test, body.snapshot.id, ["BackedUp"], { tenant: "quiet" });
    await other.remove();
    assert.deepEqual(await onBus.receive(1, 3).catch(() => []), []);
  });

  it("that could not be published would lie in the dead-letter queue, and it is empty", async () => {
    const { Attributes } = await test.clients.sqs.send(
      new GetQueueAttributesCommand({
        QueueUrl: test.outputs.PublishDeadLetterQueueUrl,
        AttributeNames: ["ApproximateNumberOfMessages"],
      }),
    );
    assert.equal(Attributes?.ApproximateNumberOfMessages, "0");
  });
});

class Queue {
  readonly arn: string;
  readonly #url: string;
  readonly #cloud: TestCloud;

  private constructor(cloud: TestCloud, url: string, arn: string) {
    this.#cloud = cloud;
    this.#url = url;
    this.arn = arn;
  }

  static async create(cloud: TestCloud): Promise<Queue> {
    const { QueueUrl = "" } = await cloud.clients.sqs.send(new CreateQueueCommand({ QueueName: randomUUID() }));
    const { Attributes } = await cloud.clients.sqs.send(
      new GetQueueAttributesCommand({ QueueUrl, AttributeNames: ["QueueArn"] }),
    );
    return new Queue(cloud, QueueUrl, Attributes?.QueueArn ?? "");
  }

  /** At least `count` messages of different contents. */
  async receive(count: number, seconds = 30): Promise<SnapshotEvent[]> {
    const bodies = new Set<string>();
    await eventually(
      `${count} messages`,
      async () => {
        const { Messages } = await this.#cloud.clients.sqs.send(
          new ReceiveMessageCommand({ QueueUrl: this.#url, MaxNumberOfMessages: 10, WaitTimeSeconds: 1 }),
        );
        for (const { Body } of Messages ?? []) bodies.add(Body ?? "");
        return bodies.size >= count;
      },
      { seconds },
    );
    return [...bodies].map((body) => JSON.parse(body) as SnapshotEvent);
  }

  async purge(): Promise<void> {
    await this.#cloud.clients.sqs.send(new PurgeQueueCommand({ QueueUrl: this.#url }));
  }
}
