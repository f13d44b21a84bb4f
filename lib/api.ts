/**
 * The HTTP API: a regional REST API whose stage is the version, `https://…/v1/snapshots/…`. Functions do the routing, so that an
 * unknown path or method gets a problem document (RFC 9457) from them; what API Gateway refuses itself looks the same. Bearer
 * tokens are checked by the functions.
 */
import { RemovalPolicy, Stack } from "aws-cdk-lib";
import * as apigateway from "aws-cdk-lib/aws-apigateway";
import * as logs from "aws-cdk-lib/aws-logs";
import { Construct } from "constructs";
import type { Functions } from "./functions.ts";
import type { HandlerFunction } from "./handler-function.ts";
import { acknowledge } from "./permissions.ts";

const version = "v1";

/** The resources that the inventory function serves, which reaches hypervisors and stores; the other one serves all else. */
const inventoryResources = ["hypervisors", "stores"];
/** What it serves of one VM, below `/vms/{id}`. */
const inventoryResourceOfVms = "operations";

/** {@link Api} */
export interface ApiProps {
  readonly functions: Functions;
  /** Requests a second, on average. */
  readonly rate: number;
  /** Requests at once. */
  readonly burst: number;
}

export class Api extends Construct {
  readonly restApi: apigateway.RestApi;

  constructor(scope: Construct, id: string, props: ApiProps) {
    super(scope, id);
    const accessLog = new logs.LogGroup(this, "AccessLog", {
      retention: logs.RetentionDays.THREE_MONTHS,
      removalPolicy: RemovalPolicy.DESTROY,
    });
    this.restApi = new apigateway.RestApi(this, "RestApi", {
      restApiName: Stack.of(this).stackName,
      description: "Snapferry: backup of VM volumes",
      endpointTypes: [apigateway.EndpointType.REGIONAL],
      cloudWatchRole: true,
      cloudWatchRoleRemovalPolicy: RemovalPolicy.RETAIN,
      deployOptions: {
        stageName: version,
        throttlingRateLimit: props.rate,
        throttlingBurstLimit: props.burst,
        tracingEnabled: true,
        loggingLevel: apigateway.MethodLoggingLevel.ERROR,
        dataTraceEnabled: false,
        accessLogDestination: new apigateway.LogGroupLogDestination(accessLog),
        accessLogFormat: accessLogFormat(),
      },
    });
    this.restApi.node.tryRemoveChild("Endpoint");
    serve(this.restApi.root, props.functions.api);
    for (const name of inventoryResources) serve(this.restApi.root.addResource(name), props.functions.inventory);
    const vms = this.restApi.root.addResource("vms");
    answer(vms, props.functions.api);
    const vm = vms.addResource("{id}");
    serve(vm, props.functions.api);
    serve(vm.addResource(inventoryResourceOfVms), props.functions.inventory);
    this.#describeRefusals();
    this.#acknowledgeChecks();
  }

  #describeRefusals(): void {
    const refusals: readonly [apigateway.ResponseType, status: number | undefined, title: string][] = [
      [apigateway.ResponseType.DEFAULT_4XX, undefined, "Request refused"],
      [apigateway.ResponseType.DEFAULT_5XX, undefined, "Service unavailable"],
      [apigateway.ResponseType.THROTTLED, 429, "Too many requests"],
      [apigateway.ResponseType.REQUEST_TOO_LARGE, 413, "Request too large"],
      [apigateway.ResponseType.INTEGRATION_TIMEOUT, 504, "Timeout"],
      [apigateway.ResponseType.INTEGRATION_FAILURE, 504, "Service unavailable"],
    ];
    for (const [type, status, title] of refusals)
      this.restApi.addGatewayResponse(type.responseType, {
        type,
        ...(status && { statusCode: String(status) }),
        responseHeaders: { "Content-Type": "'application/problem+json'" },
        templates: { "application/json": problemTemplate(title, status) },
      });
  }

  #acknowledgeChecks(): void {
    acknowledge(
      this,
      "AwsSolutions-APIG2",
      "The functions check requests against the schemas that the API document shows.",
    );
    acknowledge(
      this,
      "AwsSolutions-APIG3",
      "A web ACL costs money and is a site's own choice; requests are throttled.",
    );
    acknowledge(
      this,
      "AwsSolutions-APIG4",
      "The functions check bearer tokens of the site's own OpenID Connect provider.",
    );
    acknowledge(
      this,
      "AwsSolutions-COG4",
      "The site's own OpenID Connect provider takes the place of a Cognito user pool.",
    );
    acknowledge(
      this,
      "AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs]",
      "API Gateway documents this policy for the role with which it writes the logs of an account.",
    );
  }
}

/** Any method on `resource` and on everything below it. */
function serve(resource: apigateway.IResource, handler: HandlerFunction): void {
  answer(resource, handler);
  resource.addProxy({ anyMethod: true, defaultIntegration: integrationOf(handler) });
}

/** Any method on `resource` alone. */
function answer(resource: apigateway.IResource, handler: HandlerFunction): void {
  resource.addMethod("ANY", integrationOf(handler));
}

function integrationOf(handler: HandlerFunction): apigateway.LambdaIntegration {
  return new apigateway.LambdaIntegration(handler, { allowTestInvoke: false });
}

/** Who asked for what, and what came of it. Neither queries nor headers: they may hold what should not be logged. */
function accessLogFormat(): apigateway.AccessLogFormat {
  return apigateway.AccessLogFormat.custom(
    JSON.stringify({
      requestId: "$context.requestId",
      traceId: "$context.xrayTraceId",
      time: "$context.requestTime",
      ip: "$context.identity.sourceIp",
      method: "$context.httpMethod",
      path: "$context.path",
      status: "$context.status",
      error: "$context.error.message",
      milliseconds: "$context.responseLatency",
      bytes: "$context.responseLength",
    }),
  );
}

/** `$context.error.messageString` comes with its quotation marks. */
function problemTemplate(title: string, status: number | undefined): string {
  const members = [
    '"type":"about:blank"',
    `"title":${JSON.stringify(title)}`,
    ...(status === undefined ? [] : [`"status":${status}`]),
    '"detail":$context.error.messageString',
    '"requestId":"$context.requestId"',
  ];
  return `{${members.join(",")}}`;
}
