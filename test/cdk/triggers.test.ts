import assert from "node:assert/strict";
import { test } from "node:test";
import { Match } from "aws-cdk-lib/assertions";
import { resourcesOf, templateWith, written } from "./synthesised.ts";

const template = templateWith();
const mappings = Object.values(resourcesOf(template, "AWS::Lambda::EventSourceMapping")).map(
  ({ Properties }) => Properties,
);

test("changes of jobs reach dispatch, changes of snapshots publish", () => {
  const routes = mappings.map(
    ({ EventSourceArn, FunctionName }) =>
      `${/^<Tables(\w+)[0-9A-F]{8}\./.exec(written(EventSourceArn))?.[1]} ${/^<Functions(\w+)[0-9A-F]{8}>$/.exec(written(FunctionName))?.[1]}`,
  );
  assert.deepEqual(routes.sort(), ["Jobs Dispatch", "Snapshots Publish"]);
});

test("a row that cannot be handled holds up no other: it is tried again alone, then kept", () => {
  for (const mapping of mappings) {
    assert.equal(mapping.StartingPosition, "TRIM_HORIZON");
    assert.equal(mapping.BisectBatchOnFunctionError, true);
    assert.equal(mapping.MaximumRetryAttempts, 5);
    assert.deepEqual(mapping.FunctionResponseTypes, ["ReportBatchItemFailures"]);
    const { OnFailure } = mapping.DestinationConfig as { OnFailure: { Destination: unknown } };
    assert.match(written(OnFailure.Destination), /^<Events(Publish|Dispatch)DeadLetters\w+\.Arn>$/);
  }
});

test("rows that expire call nobody", () => {
  for (const { FilterCriteria } of mappings)
    assert.deepEqual(FilterCriteria, { Filters: [{ Pattern: '{"eventName":["INSERT","MODIFY"]}' }] });
});

test("what dispatch and reconcile could not do after three tries is kept", () => {
  const configs = Object.values(resourcesOf(template, "AWS::Lambda::EventInvokeConfig"));
  assert.equal(configs.length, 2);
  for (const { Properties } of configs) {
    assert.equal(Properties.MaximumRetryAttempts, 2);
    assert.match(JSON.stringify(Properties.DestinationConfig), /Events(Reconcile|Dispatch)DeadLetters/);
  }
});

test("an execution of a job that ended badly calls reconcile, again and again until it is taken", () => {
  template.hasResourceProperties("AWS::Events::Rule", {
    EventPattern: {
      source: ["aws.states"],
      "detail-type": ["Step Functions Execution Status Change"],
      detail: { status: ["FAILED", "TIMED_OUT", "ABORTED"] },
    },
    Targets: [
      {
        Arn: { "Fn::GetAtt": [Match.stringLikeRegexp("^FunctionsReconcile"), "Arn"] },
        DeadLetterConfig: Match.anyValue(),
        RetryPolicy: { MaximumRetryAttempts: 10 },
      },
    ],
  });
});

test("the rule knows the machines of the four kinds of jobs", () => {
  const rules = Object.values(resourcesOf(template, "AWS::Events::Rule"));
  const patterns = rules.flatMap(
    ({ Properties }) => (Properties.EventPattern as { detail: Record<string, unknown[]> }) ?? [],
  );
  const arns = patterns.flatMap(({ detail }) => detail.stateMachineArn ?? []).map(written);
  assert.deepEqual(
    arns.map((arn) => arn.split("Snapferry-")[1]),
    ["create-snapshot", "backup-snapshot", "restore-volume", "delete-snapshot"],
  );
});

test("the clock calls dispatch every minute and starts garbage collection every five", () => {
  template.hasResourceProperties("AWS::Events::Rule", {
    ScheduleExpression: "rate(1 minute)",
    Targets: [
      {
        Id: Match.anyValue(),
        Arn: { "Fn::GetAtt": [Match.stringLikeRegexp("^FunctionsDispatch"), "Arn"] },
        DeadLetterConfig: Match.anyValue(),
      },
    ],
  });
  template.hasResourceProperties("AWS::Events::Rule", {
    ScheduleExpression: "rate(5 minutes)",
    Targets: [Match.objectLike({ Arn: { Ref: Match.stringLikeRegexp("^Workflowscollectgarbage") } })],
  });
});

test("the clock starts the check of backups once a day, or as often as is asked for", () => {
  const checks = { Arn: { Ref: Match.stringLikeRegexp("^Workflowscheckbackups") } };
  template.hasResourceProperties("AWS::Events::Rule", {
    ScheduleExpression: "rate(1 day)",
    Targets: [Match.objectLike(checks)],
  });
  templateWith({ "check.interval.hours": "3" }).hasResourceProperties("AWS::Events::Rule", {
    ScheduleExpression: "rate(3 hours)",
    Targets: [Match.objectLike(checks)],
  });
});

test("dead letters are kept for 14 days, encrypted, and taken over TLS only", () => {
  const queues = Object.values(resourcesOf(template, "AWS::SQS::Queue"));
  assert.equal(queues.length, 3);
  for (const { Properties } of queues) {
    assert.equal(Properties.MessageRetentionPeriod, 1_209_600);
    assert.equal(Properties.SqsManagedSseEnabled, true);
  }
  template.resourcePropertiesCountIs("AWS::SQS::QueuePolicy", refusesPlainHttp, 3);
});

test("topics take messages over TLS only", () => {
  template.resourcePropertiesCountIs("AWS::SNS::TopicPolicy", refusesPlainHttp, 2);
});

test("people are told by e-mail where an address is given", () => {
  const told = templateWith({ "notify.email": "people@example.org", "alarm.email": "ops@example.org" });
  template.resourceCountIs("AWS::SNS::Subscription", 0);
  for (const [Endpoint, topic] of [
    ["people@example.org", "^EventsTopic"],
    ["ops@example.org", "^ObservabilityAlarms"],
  ])
    told.hasResourceProperties("AWS::SNS::Subscription", {
      Protocol: "email",
      Endpoint,
      TopicArn: { Ref: Match.stringLikeRegexp(String(topic)) },
    });
});

const refusesPlainHttp = {
  PolicyDocument: {
    Statement: Match.arrayWith([
      Match.objectLike({ Effect: "Deny", Condition: { Bool: { "aws:SecureTransport": "false" } } }),
    ]),
  },
};
