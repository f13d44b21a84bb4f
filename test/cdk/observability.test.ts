import assert from "node:assert/strict";
import { test } from "node:test";
import { Match } from "aws-cdk-lib/assertions";
import { resourcesOf, templateWith, written } from "./synthesised.ts";

const template = templateWith();
const alarms = Object.values(resourcesOf(template, "AWS::CloudWatch::Alarm")).map(({ Properties }) => Properties);

test("there is an alarm for each machine, each event function and its dead letters, and for copies that wait", () => {
  const descriptions = alarms.map(({ AlarmDescription }) => String(AlarmDescription).replace("Snapferry: ", ""));
  assert.deepEqual(descriptions.sort(), [
    "Copies wait for concurrency",
    "Events that dispatch could not take lie in its dead-letter queue",
    "Events that publish could not take lie in its dead-letter queue",
    "Events that reconcile could not take lie in its dead-letter queue",
    "Executions of backup-snapshot failed or timed out",
    "Executions of check-backups failed or timed out",
    "Executions of collect-garbage failed or timed out",
    "Executions of create-snapshot failed or timed out",
    "Executions of delete-snapshot failed or timed out",
    "Executions of restore-volume failed or timed out",
    "The function dispatch fails",
    "The function publish fails",
    "The function reconcile fails",
  ]);
});

test("every alarm goes off at the first event and tells the topic", () => {
  for (const { AlarmActions, Threshold, ComparisonOperator, EvaluationPeriods } of alarms) {
    assert.match((AlarmActions as unknown[]).map(written).join(), /^<ObservabilityAlarms[0-9A-F]{8}>$/);
    assert.equal(Threshold, 1);
    assert.equal(ComparisonOperator, "GreaterThanOrEqualToThreshold");
    assert.equal(EvaluationPeriods, 1);
  }
});

test("alarms of this account may use the topic: its policy took the place of the one that let them in", () => {
  template.hasResourceProperties("AWS::SNS::TopicPolicy", {
    PolicyDocument: {
      Statement: Match.arrayWith([
        Match.objectLike({
          Effect: "Allow",
          Action: "sns:Publish",
          Principal: { Service: "cloudwatch.amazonaws.com" },
          Condition: { StringEquals: { "aws:SourceAccount": { Ref: "AWS::AccountId" } } },
        }),
      ]),
    },
  });
});
