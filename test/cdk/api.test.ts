import assert from "node:assert/strict";
import { test } from "node:test";
import { Match } from "aws-cdk-lib/assertions";
import { resourcesOf, templateWith, written } from "./synthesised.ts";

const template = templateWith();

test("any method on any path reaches a function: hypervisors, stores and operations on VMs the one that reaches them", () => {
  const resources = resourcesOf(template, "AWS::ApiGateway::Resource");
  const pathOf = (id: string): string => {
    const found = resources[/^<(\w+)>$/.exec(id)?.[1] ?? ""];
    return found ? `${pathOf(written(found.Properties.ParentId))}/${found.Properties.PathPart}` : "";
  };
  const routes = Object.values(resourcesOf(template, "AWS::ApiGateway::Method")).map(({ Properties }) => {
    const uri = written((Properties.Integration as { Uri: unknown }).Uri);
    return `${Properties.HttpMethod} ${pathOf(written(Properties.ResourceId)) || "/"} ${/<Functions(\w+)[0-9A-F]{8}\.Arn>/.exec(uri)?.[1]}`;
  });
  assert.deepEqual(routes.sort(), [
    "ANY / Api",
    "ANY /hypervisors Inventory",
    "ANY /hypervisors/{proxy+} Inventory",
    "ANY /stores Inventory",
    "ANY /stores/{proxy+} Inventory",
    "ANY /vms Api",
    "ANY /vms/{id} Api",
    "ANY /vms/{id}/operations Inventory",
    "ANY /vms/{id}/operations/{proxy+} Inventory",
    "ANY /vms/{id}/{proxy+} Api",
    "ANY /{proxy+} Api",
  ]);
});

test("the stage is the version, throttled, traced and logged without the data of requests", () => {
  const stage = (rate: number, burst: number) => ({
    StageName: "v1",
    TracingEnabled: true,
    AccessLogSetting: Match.objectLike({ DestinationArn: Match.anyValue() }),
    MethodSettings: [
      Match.objectLike({ DataTraceEnabled: false, ThrottlingRateLimit: rate, ThrottlingBurstLimit: burst }),
    ],
  });
  template.hasResourceProperties("AWS::ApiGateway::Stage", stage(50, 100));
  templateWith({ "api.rate": "5", "api.burst": "6" }).hasResourceProperties("AWS::ApiGateway::Stage", stage(5, 6));
});

test("access logs hold neither queries nor headers nor bodies", () => {
  const [stage] = Object.values(resourcesOf(template, "AWS::ApiGateway::Stage"));
  assert.ok(stage);
  const { Format } = stage.Properties.AccessLogSetting as { Format: string };
  assert.doesNotMatch(Format, /query|header|authorizer|body|input/i);
});

test("what API Gateway refuses itself is a problem document", () => {
  const refusals = Object.values(resourcesOf(template, "AWS::ApiGateway::GatewayResponse"));
  const types = refusals.map(({ Properties }) => Properties.ResponseType);
  for (const type of ["DEFAULT_4XX", "DEFAULT_5XX", "THROTTLED"]) assert.ok(types.includes(type), type);
  for (const { Properties } of refusals) {
    assert.deepEqual(Properties.ResponseParameters, {
      "gatewayresponse.header.Content-Type": "'application/problem+json'",
    });
    const { "application/json": text } = Properties.ResponseTemplates as Record<string, string>;
    const problem = JSON.parse(String(text).replace("$context.error.messageString", '"why"'));
    assert.equal(problem.type, "about:blank");
    assert.equal(problem.detail, "why");
    if (Properties.StatusCode) assert.equal(problem.status, Number(Properties.StatusCode));
  }
});

test("no other origin's pages may call the API", () => {
  for (const { Properties } of Object.values(resourcesOf(template, "AWS::ApiGateway::Method")))
    assert.notEqual(Properties.HttpMethod, "OPTIONS");
});
